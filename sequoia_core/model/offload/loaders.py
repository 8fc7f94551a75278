"""Loading a layer's matrices into a buffer: from files, from main memory, to a GPU.

In a buffer, matrices that read the same input lie one after the other, so that one product reads
them as one matrix.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.layer_stream import SLOTS
from sequoia_core.model.weight_shapes import PRODUCTS, layer_name, matrix_shapes

ALIGNMENT = 64
"""Bytes, as PyTorch aligns tensors on CPUs: kernels take the same path as over its own."""


@dataclass(frozen=True)
class LayerLayout:
    """Places of a layer's matrices in a buffer of `dtype`; the same for every layer of a model."""

    config: ModelConfig
    dtype: torch.dtype

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one layer."""
        return self._spans[-1][1]

    def products(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views [out, in] of a buffer, uint8 [nbytes], by key of `PRODUCTS`."""
        shapes = matrix_shapes(self.config)
        return {
            kind: buffer[first:last].view(self.dtype).view(-1, shapes[modules[0]][1])
            for (kind, modules), (first, last) in zip(PRODUCTS.items(), self._spans, strict=True)
        }

    def matrices(self, buffer: Tensor, layer: int) -> Iterator[tuple[str, Tensor]]:
        """Every matrix of a layer: its name in the model's files, and a view of the buffer."""
        shapes = matrix_shapes(self.config)
        for kind, view in self.products(buffer).items():
            rows = [shapes[module][0] for module in PRODUCTS[kind]]
            for module, part in zip(PRODUCTS[kind], torch.split(view, rows), strict=True):
                yield layer_name(layer, f"{module}.weight"), part

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """First byte, and the one after the last, of each product."""
        shapes, spans, start = matrix_shapes(self.config), [], 0
        for modules in PRODUCTS.values():
            values = sum(shapes[module][0] for module in modules) * shapes[modules[0]][1]
            end = start + values * self.dtype.itemsize
            spans.append((start, end))
            start = -(-end // ALIGNMENT) * ALIGNMENT
        return spans


class HostLayers(Protocol):
    """Layers in memory that a GPU can copy from."""

    def host(self, layer: int, slot: int) -> Tensor:
        """A layer, uint8 [nbytes], valid until the next call for the same slot."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class FileLoader:
    """Reads layers into buffers in main memory; a `LayerLoader` for CPUs, `HostLayers` for GPUs.

    The buffers are pinned if a GPU copies from them.
    """

    def __init__(self, files: TensorFiles, layout: LayerLayout, *, pinned: bool) -> None:
        self._files, self._layout = files, layout
        self.buffers = [_host_buffer(layout, pinned=pinned) for _ in range(SLOTS)]

    def load(self, layer: int, slot: int) -> None:
        """Read a layer; returns once it is there."""
        for name, place in self._layout.matrices(self.buffers[slot], layer):
            self._files.read(name, place)

    def acquire(self, slot: int) -> None:
        """Nothing to do: `load` has returned."""

    def release(self, slot: int) -> None:
        """Nothing to do: CPUs compute at once."""

    def host(self, layer: int, slot: int) -> Tensor:
        """See `HostLayers.host`."""
        self.load(layer, slot)
        return self.buffers[slot]

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class PinnedLayers:
    """All layers in pinned main memory; `HostLayers`."""

    def __init__(self, weights: Weights, layout: LayerLayout) -> None:
        self._buffers: list[Tensor] = []
        for layer in range(layout.config.num_layers):
            buffer = _host_buffer(layout, pinned=True)
            for name, place in layout.matrices(buffer, layer):
                place.copy_(weights[name])
            self._buffers.append(buffer)

    def host(self, layer: int, slot: int) -> Tensor:  # noqa: ARG002
        """See `HostLayers.host`."""
        return self._buffers[layer]

    def close(self) -> None:
        """Nothing to do: the memory is freed with this object."""


class GpuLoader:
    """Copies layers to a GPU's buffers in a stream of its own, ordered by events.

    A `LayerLoader`.
    """

    def __init__(self, layers: HostLayers, buffers: Sequence[Tensor]) -> None:
        self._layers, self._buffers = layers, buffers
        self._device = buffers[0].device
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._arrived, self._free = _events(), _events()

    def load(self, layer: int, slot: int) -> None:
        """Begin to copy a layer; the GPU waits until nothing reads its buffer any more."""
        self._arrived[slot].synchronize()  # an earlier copy may still read the host's buffer
        source = self._layers.host(layer, slot)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._free[slot])
            self._buffers[slot].copy_(source, non_blocking=True)
            self._arrived[slot].record(self._copies)

    def acquire(self, slot: int) -> None:
        """Let the GPU wait for the copy before what is issued from now on."""
        torch.cuda.current_stream(self._device).wait_event(self._arrived[slot])

    def release(self, slot: int) -> None:
        """Let the next copy wait for what has been issued."""
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        """Close the source once nothing is copied any more."""
        self._copies.synchronize()
        self._layers.close()


def _events() -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]


def _host_buffer(layout: LayerLayout, *, pinned: bool) -> Tensor:
    return torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=pinned)
