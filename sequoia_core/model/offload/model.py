"""A Llama whose layers stay on disk or in main memory and pass through two buffers.

Embedding, norms, biases and output head stay on the device. In a buffer, matrices that read the
same input lie one after the other, so that one product reads them as one.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, Stage
from sequoia_core.model.layers import Product, dense
from sequoia_core.model.llama import Layer, Llama
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.weight_shapes import PRODUCTS, layer_name, matrix_shapes, weight_values

Item = TypeVar("Item")

SLOTS = 2  # buffers: one is computed with while the other is filled
THREAD = "sequoia-offload"  # prefix of the reading threads' names
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


class LayerLoader(Protocol):
    def load(self, layer: int, slot: int) -> None:
        """Fill a buffer, or begin to; called in a thread of its own, one call at a time."""

    def acquire(self, slot: int) -> None:
        """What the caller issues from now on reads the buffer, once it is filled."""

    def release(self, slot: int) -> None:
        """All reads of the buffer are issued; after them it may be filled again."""

    def close(self) -> None:
        """Free what it holds; nothing is loaded after this call."""


class LayerStream:
    """Yields layers in order; its thread ends when the stream is garbage, and closes the loader.

    The last layer is followed by the first, which is loaded during the last for the next forward.
    A failure to load a layer is raised when that layer is due, and the next forward starts over.
    """

    def __init__(self, loader: LayerLoader, layers: int) -> None:
        self.slot = 0  # buffer of the current layer
        self.loader, self._layers = loader, layers
        self._loads: deque[tuple[int, int, Future[None]]] = deque()  # layer, slot, when it is there
        self._thread = ThreadPoolExecutor(1, THREAD)
        # neither this nor the submitted work may refer to the stream, or it would never be garbage
        self._finalizer = weakref.finalize(self, _close, self._thread, loader)
        self._finalizer.atexit = False  # executors end by themselves then, and take no more work

    def iterate(self, items: Sequence[Item]) -> Iterator[Item]:
        """One item per layer; the layer's weights are in buffer `slot` until the next item."""
        for layer, item in enumerate(items):
            self._wait_for(layer)
            yield item
            self.loader.release(self.slot)
            self._loads.popleft()
            self._submit((layer + SLOTS) % self._layers, self.slot)

    def close(self) -> None:
        """Wait for the thread to end; no layer can be read afterwards."""
        self._finalizer()

    def _wait_for(self, layer: int) -> None:
        if not self._loads or self._loads[0][0] != layer:  # at first, or after an abandoned pass
            self._reset()
            for slot in range(SLOTS):
                self.loader.release(slot)
                self._submit((layer + slot) % self._layers, slot)
        _, slot, load = self._loads[0]
        try:
            load.result()
        except BaseException:
            self._reset()
            raise
        self.slot = slot
        self.loader.acquire(slot)

    def _reset(self) -> None:
        wait([load for *_, load in self._loads])
        self._loads.clear()

    def _submit(self, layer: int, slot: int) -> None:
        self._loads.append((layer, slot, self._thread.submit(self.loader.load, layer, slot)))


def _close(thread: ThreadPoolExecutor, loader: LayerLoader) -> None:
    thread.submit(loader.close)  # after the current load
    # garbage is collected in whichever thread allocates, and a thread cannot wait for itself
    thread.shutdown(wait=not threading.current_thread().name.startswith(THREAD))


class FileLoader:
    """Reads into main memory, pinned if a GPU copies from it."""

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
    """Copies to a GPU in a stream of its own, ordered by events."""

    def __init__(
        self,
        # a layer, uint8 [nbytes], valid until the next call for the same slot
        host: Callable[[int, int], Tensor],
        buffers: Sequence[Tensor],
        close: Callable[[], None] = lambda: None,
    ) -> None:
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
    """A `Llama` whose layers are loaded while it computes."""

    def __init__(
        self,
        layout: LayerLayout,
        weights: Mapping[str, Tensor],  # those that stay on the device
        stream: LayerStream,
        buffers: Sequence[Tensor],  # which the stream fills
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
