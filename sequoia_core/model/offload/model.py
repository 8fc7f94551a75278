"""A Llama whose layers stay on disk or in main memory and pass through two buffers.

Embedding, norms, biases and output head stay on the device. Packing a layer for a faster product
would have to be done in every forward. In a buffer, matrices that read the same input lie one after
the other, so that one product reads them as one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, Stage
from sequoia_core.model.layers import Product, dense
from sequoia_core.model.llama import Layer, Llama
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.layer_stream import SLOTS, LayerLoader, LayerStream
from sequoia_core.model.weight_shapes import PRODUCTS, layer_name, matrix_shapes, weight_values

ALIGNMENT = 64  # bytes, as of PyTorch's CPU tensors: kernels take the same path


@dataclass(frozen=True)
class LayerLayout:
    """Places of a layer's matrices in a buffer of `dtype`; the same for every layer of a model."""

    config: ModelConfig
    dtype: torch.dtype

    @cached_property
    def nbytes(self) -> int:
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
        shapes, spans, start = matrix_shapes(self.config), [], 0
        for modules in PRODUCTS.values():
            values = sum(shapes[module][0] for module in modules) * shapes[modules[0]][1]
            end = start + values * self.dtype.itemsize
            spans.append((start, end))
            start = -(-end // ALIGNMENT) * ALIGNMENT
        return spans


class FileLoader:
    """A `LayerLoader` that reads into main memory, pinned if a GPU copies from it."""

    def __init__(self, files: TensorFiles, layout: LayerLayout, *, pinned: bool) -> None:
        self._files, self._layout = files, layout
        self.buffers = [_host_buffer(layout, pinned=pinned) for _ in range(SLOTS)]
        self.close = files.close

    def load(self, layer: int, slot: int) -> None:
        for name, place in self._layout.matrices(self.buffers[slot], layer):
            self._files.read(name, place)

    def acquire(self, slot: int) -> None:
        """Nothing to do: `load` has returned."""

    def release(self, slot: int) -> None:
        """Nothing to do: CPUs compute at once."""

    def loaded(self, layer: int, slot: int) -> Tensor:
        self.load(layer, slot)
        return self.buffers[slot]


def _pinned_layers(weights: Weights, layout: LayerLayout) -> Iterator[Tensor]:
    for layer in range(layout.config.num_layers):
        buffer = _host_buffer(layout, pinned=True)
        for name, place in layout.matrices(buffer, layer):
            place.copy_(weights[name])
        yield buffer


class GpuLoader:
    """A `LayerLoader` that copies to a GPU in a stream of its own, ordered by events."""

    def __init__(
        self,
        host: Callable[[int, int], Tensor],
        buffers: Sequence[Tensor],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Host memory is a layer, uint8 [nbytes], valid until the next call for the same slot."""
        self._host, self._buffers, self._close = host, buffers, close
        self._device = buffers[0].device
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._arrived, self._free = _events(), _events()

    def load(self, layer: int, slot: int) -> None:
        """Begin to copy a layer; the GPU waits until nothing reads its buffer any more."""
        self._arrived[slot].synchronize()  # an earlier copy may still read the host's buffer
        source = self._host(layer, slot)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._free[slot])
            self._buffers[slot].copy_(source, non_blocking=True)
            self._arrived[slot].record(self._copies)

    def acquire(self, slot: int) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._arrived[slot])

    def release(self, slot: int) -> None:
        self._free[slot].record(torch.cuda.current_stream(self._device))

    def close(self) -> None:
        self._copies.synchronize()
        self._close()


def _events() -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]


def _host_buffer(layout: LayerLayout, *, pinned: bool) -> Tensor:
    return torch.empty(layout.nbytes, dtype=torch.uint8, pin_memory=pinned)


class OffloadedLlama(Llama):
    """A `Llama` whose layers are loaded while it computes.

    `weights` are those that stay on the device; the stream fills the buffers, laid out as `layout`.
    """

    def __init__(
        self,
        layout: LayerLayout,
        weights: Mapping[str, Tensor],
        stream: LayerStream,
        buffers: Sequence[Tensor],
        feature_layers: Sequence[int] = (),
    ) -> None:
        self.layer_stream = stream
        views = [layout.products(buffer) for buffer in buffers]
        self._streamed = {
            kind: _streamed(stream, [dense(view[kind]) for view in views]) for kind in PRODUCTS
        }
        super().__init__(layout.config, weights, buffers[0].device, layout.dtype, feature_layers)

    def _layers_of(self, _stage: Stage) -> Iterable[tuple[int, Layer]]:
        return enumerate(self.layer_stream.iterate(self._layers))

    def _product(
        self, kind: str, _modules: Sequence[str], _get: Callable[[str], Tensor]
    ) -> Product:
        return self._streamed[kind]


def _streamed(stream: LayerStream, products: Sequence[Product]) -> Product:
    return lambda x: products[stream.slot](x)


def load_offloaded(
    layout: LayerLayout, weights: Weights, placement: Placement, feature_layers: Sequence[int] = ()
) -> OffloadedLlama:
    """A model that leaves its layers where the placement says; on disk only as safetensors."""
    on_gpu = placement.device.type != "cpu"
    gpu_buffers = _buffers(layout, placement.device) if on_gpu else []
    loader: LayerLoader
    if placement.offload is Offload.DISK:
        weights = files = TensorFiles(weights)
        loader = reader = FileLoader(files, layout, pinned=on_gpu)
        buffers = gpu_buffers or reader.buffers
        if on_gpu:
            loader = GpuLoader(reader.loaded, gpu_buffers, reader.close)
    else:
        layers, buffers = list(_pinned_layers(weights, layout)), gpu_buffers
        loader = GpuLoader(lambda layer, _slot: layers[layer], gpu_buffers)
    stream = LayerStream(loader, layout.config.num_layers)
    return OffloadedLlama(layout, weights, stream, buffers, feature_layers)


def resident_bytes(layout: LayerLayout) -> int:
    """Bytes that an offloaded model keeps on the device: two layers, and all but the matrices."""
    config = layout.config
    matrices = sum(rows * columns for rows, columns in matrix_shapes(config).values())
    kept = weight_values(config) - config.num_layers * matrices
    return SLOTS * layout.nbytes + layout.dtype.itemsize * kept


def _buffers(layout: LayerLayout, device: torch.device) -> list[Tensor]:
    return [torch.empty(layout.nbytes, dtype=torch.uint8, device=device) for _ in range(SLOTS)]
