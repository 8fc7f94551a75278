"""Ways of a layer's weights to the device: from files, from main memory, through both to a GPU.

Owns the buffers and, on a GPU, the stream that copies beside the computation and the events that
order the two. It knows nothing of which layer comes next; that is the ring's affair.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.layer_stream import SLOTS
from sequoia_core.model.offload.layout import LayerLayout


class HostLayers(Protocol):
    """Layers in memory that a GPU can copy from."""

    def host(self, layer: int, slot: int) -> Tensor:
        """A layer's buffer, uint8 [nbytes]; it stays as it is until the slot is asked for anew."""
        ...

    def close(self) -> None:
        """No layer is wanted any more."""
        ...


class FromFiles:
    """Reads layers into buffers of the CPU: a `Carrier` where that computes, else `HostLayers`.

    Args:
        files: holds the matrices; closed at the end.
        layout: of a layer.
        pinned: whether a GPU will copy from the buffers.
    """

    def __init__(self, files: TensorFiles, layout: LayerLayout, *, pinned: bool) -> None:
        self._files, self._layout = files, layout
        self.buffers = [_host_buffer(layout, pinned=pinned) for _ in range(SLOTS)]

    def bring(self, layer: int, slot: int) -> None:
        """Read a layer; returns once it is there."""
        for name, place in self._layout.matrices(self.buffers[slot], layer):
            self._files.read(name, place)

    def enter(self, slot: int) -> None:
        """Nothing to do: what was brought is there."""

    def leave(self, slot: int) -> None:
        """Nothing to do: what was computed is computed."""

    def host(self, layer: int, slot: int) -> Tensor:
        """A layer's buffer, uint8 [nbytes]."""
        self.bring(layer, slot)
        return self.buffers[slot]

    def close(self) -> None:
        """Close the files."""
        self._files.close()


class InMemory:
    """All layers in pinned main memory; `HostLayers`.

    Args:
        weights: of the model; every layer is read at once.
        layout: of a layer.
    """

    def __init__(self, weights: Weights, layout: LayerLayout) -> None:
        self._buffers: list[Tensor] = []
        for layer in range(layout.config.num_layers):
            buffer = _host_buffer(layout, pinned=True)
            for name, place in layout.matrices(buffer, layer):
                place.copy_(weights[name])
            self._buffers.append(buffer)

    def host(self, layer: int, slot: int) -> Tensor:  # noqa: ARG002
        """A layer's buffer, uint8 [nbytes]."""
        return self._buffers[layer]

    def close(self) -> None:
        """Nothing to do: memory goes with its last holder."""


class ToGpu:
    """A `Carrier` that copies layers to a GPU in a stream of its own.

    Args:
        layers: where they come from; closed at the end.
        buffers: on the GPU, one per slot.
    """

    def __init__(self, layers: HostLayers, buffers: Sequence[Tensor]) -> None:
        self._layers, self._buffers = layers, buffers
        self._device = buffers[0].device
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._arrived, self._free = _events(), _events()

    def bring(self, layer: int, slot: int) -> None:
        """Begin to copy a layer, once nothing reads its buffer any more."""
        self._arrived[slot].synchronize()  # an earlier copy may still read the host's buffer
        source = self._layers.host(layer, slot)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._free[slot])
            self._buffers[slot].copy_(source, non_blocking=True)
            self._arrived[slot].record(self._copies)

    def enter(self, slot: int) -> None:
        """What is issued from now on waits for the copy, on the GPU."""
        torch.cuda.current_stream(self._device).wait_event(self._arrived[slot])

    def leave(self, slot: int) -> None:
        """The next copy waits for what has been issued, on the GPU."""
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        """Close where the layers come from, once nothing is copied any more."""
        self._copies.synchronize()
        self._layers.close()


def _events() -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]


def _host_buffer(layout: LayerLayout, *, pinned: bool) -> Tensor:
    return torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=pinned)
