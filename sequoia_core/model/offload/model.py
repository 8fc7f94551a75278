"""A Llama whose layers stay on disk or in main memory and pass through two buffers.

Embedding, norms, biases, output head and, on a GPU, as many layers as fit stay on the device.
"""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from math import prod
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.config import Offload
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, Stage
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.layers import Product, dense
from sequoia_core.model.llama import Layer, Llama
from sequoia_core.model.loading.memory_plan import PREFILL_ROWS
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.offload.files import TensorFiles
from sequoia_core.model.offload.pinned import PinnedMemory
from sequoia_core.model.tensor_names import layer_name, matrix_shapes, products, weight_values

Item = TypeVar("Item")

SLOTS = 2  # buffers: one is computed with while the other is filled
THREAD = "sequoia-offload"  # prefix of the reading threads' names
CPU = torch.device("cpu")

Buffer = dict[str, Tensor]
"""A layer's matrices [out, in] by key of `products`, those that read the same input as one."""


def layer_buffer(
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device = CPU,
    memory: PinnedMemory | None = None,
) -> Buffer:
    """On a device, or in page-locked memory."""
    shapes = matrix_shapes(config)
    sizes = {
        kind: (sum(shapes[module][0] for module in modules), shapes[modules[0]][1])
        for kind, modules in products(config).items()
    }
    if memory is None:
        return {kind: torch.empty(size, dtype=dtype, device=device) for kind, size in sizes.items()}
    block = memory.block(layer_bytes(config, dtype)).view(dtype)
    parts = torch.split(block, list(map(prod, sizes.values())))
    return {kind: part.view(size) for (kind, size), part in zip(sizes.items(), parts, strict=True)}


def layer_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of a layer's matrices."""
    return dtype.itemsize * sum(map(prod, matrix_shapes(config).values()))


def resident_layers(layers: int, count: int) -> frozenset[int]:
    """`count` of the layers, evenly spread, so that others arrive while they are computed."""
    share = [layer * count // layers for layer in range(layers + 1)]
    return frozenset(layer for layer in range(layers) if share[layer] < share[layer + 1])


def layer_matrices(config: ModelConfig, buffer: Buffer, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Every matrix of a layer: its name in the model's files, and a view of the buffer."""
    shapes = matrix_shapes(config)
    for kind, modules in products(config).items():
        parts = torch.split(buffer[kind], [shapes[module][0] for module in modules])
        for module, part in zip(modules, parts, strict=True):
            yield layer_name(layer, f"{module}.weight"), part


class LayerLoader(Protocol):
    def load(self, layer: int, slot: int) -> None:
        """Fill a buffer, or begin to; called in a thread of its own, one call at a time."""

    def acquire(self, slot: int) -> None:
        """What the caller issues after this reads the buffer once it is filled."""

    def release(self, slot: int) -> None:
        """All reads of the buffer are issued; after them it may be filled again."""

    def close(self) -> None:
        """Free what it holds; nothing is loaded after this call."""


class LayerStream:
    """Yields layers in order; its thread ends when the stream is garbage, and closes the loader.

    The last layer is followed by the first, which is loaded during the last for the next forward.
    A failure to load a layer is raised when that layer is due, and the next forward starts over.
    Resident layers are yielded too, and never loaded. A pass that is left may be taken up again
    after others, which have used the buffers in between.
    """

    def __init__(
        self, loader: LayerLoader, layers: int, resident: Collection[int] = frozenset()
    ) -> None:
        self.slot = 0  # buffer of the current layer, unless it is a resident one
        self.loader = loader
        self._streamed = [layer for layer in range(layers) if layer not in resident]
        self._turns = {layer: turn for turn, layer in enumerate(self._streamed)}
        self._loads: deque[tuple[int, int, Future[None]]] = deque()  # layer, slot, when it is there
        self._pass: object = None  # the one that the loads are for
        self._thread = ThreadPoolExecutor(1, THREAD)
        # neither this nor the submitted work may refer to the stream, or it would never be garbage
        self._finalizer = weakref.finalize(self, _close, self._thread, loader)
        self._finalizer.atexit = False  # executors end by themselves then, and take no more work

    def iterate(self, items: Sequence[Item]) -> Iterator[Item]:
        """One item per layer; the layer's weights are in buffer `slot` until the next item."""
        self._pass = this = object()
        for layer, item in enumerate(items):
            turn = self._turns.get(layer)
            if turn is not None:
                self._wait_for(turn)
            yield item
            if self._pass is not this:
                self._reset()
                self._pass = this
                continue
            if turn is None:
                continue
            self.loader.release(self.slot)
            self._loads.popleft()
            self._submit(turn + SLOTS, self.slot)

    def close(self) -> None:
        """Wait for the thread to end; no layer can be read afterwards."""
        self._finalizer()

    def _wait_for(self, turn: int) -> None:
        # at first, or after an abandoned pass
        if not self._loads or self._loads[0][0] != self._streamed[turn]:
            self._reset()
            for slot in range(SLOTS):
                self.loader.release(slot)
                self._submit(turn + slot, slot)
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

    def _submit(self, turn: int, slot: int) -> None:
        layer = self._streamed[turn % len(self._streamed)]
        self._loads.append((layer, slot, self._thread.submit(self.loader.load, layer, slot)))


def _close(thread: ThreadPoolExecutor, loader: LayerLoader) -> None:
    # garbage is collected in whichever thread allocates, and a thread cannot wait for itself
    if threading.current_thread().name.startswith(THREAD):
        thread.submit(loader.close)  # after the current load
        thread.shutdown(wait=False)
    else:  # perhaps while it submits work of another stream, whose lock is that of all executors
        thread.shutdown()
        loader.close()


class FileLoader:
    """Reads into main memory."""

    def __init__(self, files: TensorFiles, config: ModelConfig, buffers: Sequence[Buffer]) -> None:
        self._files, self._config, self._buffers = files, config, buffers
        self.close = files.close

    def load(self, layer: int, slot: int) -> None:
        for name, place in layer_matrices(self._config, self._buffers[slot], layer):
            self._files.read(name, place)

    def acquire(self, slot: int) -> None:
        """Nothing to do: `load` has returned."""

    def release(self, slot: int) -> None:
        """Nothing to do: CPUs compute at once."""

    def loaded(self, layer: int, slot: int) -> Buffer:
        self.load(layer, slot)
        return self._buffers[slot]


class GpuLoader:
    """Copies to a GPU in a stream of its own, ordered by events."""

    def __init__(
        self,
        host: Callable[[int, int], Buffer],  # a layer, valid until the slot's next call
        buffers: Sequence[Buffer],
        closes: Sequence[Callable[[], None]] = (),  # free the host's memory and files
    ) -> None:
        self._host, self._buffers, self._closes = host, buffers, closes
        self.device = buffers[0]["down"].device
        self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._arrived, self._free = _events(), _events()

    def load(self, layer: int, slot: int) -> None:
        """Begin to copy a layer; the GPU waits until nothing reads its buffer any more."""
        self._arrived[slot].synchronize()  # an earlier copy may still read the host's buffer
        source = self._host(layer, slot)
        with torch.cuda.stream(self._copies):
            self._copies.wait_event(self._free[slot])
            self.copy(source, slot)
            self._arrived[slot].record(self._copies)

    def copy(self, source: Buffer, slot: int) -> None:
        """Issue a layer's copy in the current stream."""
        for kind, matrix in self._buffers[slot].items():
            matrix.copy_(source[kind], non_blocking=True)

    def acquire(self, slot: int) -> None:
        torch.cuda.current_stream(self.device).wait_event(self._arrived[slot])

    def release(self, slot: int) -> None:
        self._free[slot].record(torch.cuda.current_stream(self.device))

    def close(self) -> None:
        self._copies.synchronize()
        for close in self._closes:
            close()


def _events() -> list[torch.cuda.Event]:
    return [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]


class OffloadedLlama(Llama):
    """A `Llama` whose layers, but the resident ones, are loaded while it computes."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],  # those that stay on the device
        stream: LayerStream,
        buffers: Sequence[Buffer],  # which the stream fills
        feature_layers: Sequence[int] = (),
        resident: Collection[int] = frozenset(),
    ) -> None:
        self.layer_stream, self.resident = stream, resident
        self._streamed = {
            kind: _streamed(stream, [dense(buffer[kind]) for buffer in buffers])
            for kind in products(config)
        }
        like = buffers[0]["down"]
        super().__init__(config, weights, like.device, like.dtype, feature_layers)
        self.prompt_rows = config.context_window  # each call reads the layers once

    @override
    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        for _ in self.extend_in_parts(token_ids, cache):
            pass

    @torch.inference_mode()
    def extend_in_parts(self, token_ids: Tensor, cache: KVCache) -> Iterator[float]:
        """Every layer reads all tokens before the next one, in chunks as of a resident model.

        So the layers are read once, and the results have the same bits. See `PartReader`.
        """
        assert isinstance(cache, LayeredKVCache)
        cache.reserve(token_ids.shape[0])
        first, (stage,) = cache.length, self._stages
        chunks = list(torch.split(self._first_input(token_ids, None, cache), PREFILL_ROWS))
        try:
            for numbered in self._layers_of(stage):
                for at, hidden in enumerate(chunks):
                    rows, length = hidden.shape[0], cache.length
                    positions = torch.arange(length, length + rows, device=self.device)
                    angles = self._angles(positions, self.device)
                    biases, span = self._biases(None, rows, cache)
                    uses = self._on_cache(biases, cache, span)
                    chunks[at] = self._through([numbered], hidden, angles, *uses)
                    cache.advance(rows)
                cache.truncate(first)
                if (done := numbered[0] + 1) < self.config.num_layers:
                    yield done / self.config.num_layers
        except BaseException:
            cache.truncate(first)
            raise
        cache.advance(token_ids.shape[0])

    def _layers_of(self, _stage: Stage) -> Iterable[tuple[int, Layer]]:
        return enumerate(self.layer_stream.iterate(self._layers))

    def _product(
        self, layer: int, kind: str, modules: Sequence[str], get: Callable[[str], Tensor]
    ) -> Product:
        if layer in self.resident:
            return super()._product(layer, kind, modules, get)
        return self._streamed[kind]


def _streamed(stream: LayerStream, products: Sequence[Product]) -> Product:
    return lambda x: products[stream.slot](x)


def load_offloaded(
    config: ModelConfig,
    dtype: torch.dtype,
    weights: Weights,
    placement: Placement,
    feature_layers: Sequence[int] = (),
    resident: int = 0,
) -> OffloadedLlama:
    """A model that leaves its layers where the placement says; on disk only as safetensors.

    So many of them are resident, fewer than all.
    """
    device, staying = placement.device, resident_layers(config.num_layers, resident)
    assert len(staying) < config.num_layers
    buffers = [layer_buffer(config, dtype, device) for _ in range(SLOTS)]
    loader: LayerLoader
    if device.type == "cpu":
        weights = files = TensorFiles(weights)
        loader = FileLoader(files, config, buffers)
    else:
        if placement.offload is Offload.DISK:
            weights = TensorFiles(weights)
        loader = _gpu_loader(config, dtype, weights, buffers, staying)
    stream = LayerStream(loader, config.num_layers, staying)
    return OffloadedLlama(config, weights, stream, buffers, feature_layers, staying)


def _gpu_loader(
    config: ModelConfig,
    dtype: torch.dtype,
    weights: Weights,
    buffers: Sequence[Buffer],
    resident: Collection[int],
) -> GpuLoader:
    """From page-locked memory: of all layers, or of two, which are filled from files."""
    memory = PinnedMemory()
    try:
        if isinstance(weights, TensorFiles):
            host = [layer_buffer(config, dtype, memory=memory) for _ in range(SLOTS)]
            reader = FileLoader(weights, config, host)
            return GpuLoader(reader.loaded, buffers, (memory.close, reader.close))
        layers = {}
        for layer in range(config.num_layers):
            if layer not in resident:
                layers[layer] = layer_buffer(config, dtype, memory=memory)
                for name, place in layer_matrices(config, layers[layer], layer):
                    place.copy_(weights[name])
        return GpuLoader(lambda layer, _slot: layers[layer], buffers, (memory.close,))
    except BaseException:
        memory.close()
        raise


def resident_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that an offloaded model keeps on the device: two layers, and all but the matrices."""
    matrices = layer_bytes(config, dtype)
    others = dtype.itemsize * weight_values(config) - config.num_layers * matrices
    return SLOTS * matrices + others
