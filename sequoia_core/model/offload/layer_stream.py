"""Layers pass through two buffers in a circle: one is computed with while the other is filled."""

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Protocol, TypeVar

Item = TypeVar("Item")

SLOTS = 2
"""Buffers."""

THREAD = "sequoia-offload"
"""Prefix of the reading threads' names."""


class Activity(StrEnum):
    """What a span of time was spent on while an offloaded model computed."""

    READ = "read"
    WAIT = "wait"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """One activity with one layer; begin and end in seconds of `time.perf_counter`."""

    activity: Activity
    layer: int
    began: float
    ended: float


class LayerLoader(Protocol):
    """Fills buffers with layers."""

    def load(self, layer: int, slot: int) -> None:
        """Fill a buffer, or begin to; called in a thread of its own, one call at a time."""
        ...

    def acquire(self, slot: int) -> None:
        """What the caller issues from now on reads the buffer, once it is filled."""
        ...

    def release(self, slot: int) -> None:
        """All reads of the buffer are issued; after them it may be filled again."""
        ...

    def close(self) -> None:
        """Free what it holds; nothing is loaded after this call."""
        ...


@dataclass(frozen=True, slots=True)
class _Load:
    """A layer being loaded. The future gives begin and end; None if the layer was in its slot."""

    layer: int
    slot: int
    future: Future[tuple[float, float]] | None


class LayerStream:
    """Yields layers in order; its thread ends when the stream is garbage, and closes the loader.

    The last layer is followed by the first, which is loaded during the last for the next forward.
    A failure to load a layer is raised when that layer is due, and the next forward starts over.

    Attributes:
        slot: the buffer of the current layer.
        watcher: receives every span, in the caller's thread.
    """

    def __init__(self, loader: LayerLoader, layers: int) -> None:
        self.slot = 0
        self.watcher: Callable[[Span], None] | None = None
        self._loader, self._layers = loader, layers
        self._loads: deque[_Load] = deque()
        self._held: list[int | None] = [None] * SLOTS
        self._thread = ThreadPoolExecutor(1, THREAD)
        # neither this nor the submitted work may refer to the stream, or it would never be garbage
        self._finalizer = weakref.finalize(self, _close, self._thread, loader)
        self._finalizer.atexit = False  # executors end by themselves then, and take no more work

    def iterate(self, items: Sequence[Item]) -> Iterator[Item]:
        """One item per layer; the layer's weights are in buffer `slot` until the next item.

        Raises:
            ModelLoadError: the weights could not be read.
        """
        for layer, item in enumerate(items):
            began = perf_counter()
            load = self._wait_for(layer)
            entered = perf_counter()
            yield item
            self._loader.release(self.slot)
            self._loads.popleft()
            self._submit((layer + SLOTS) % self._layers, self.slot)
            if self.watcher is not None:
                if load.future is not None:
                    self.watcher(Span(Activity.READ, layer, *load.future.result()))
                self.watcher(Span(Activity.WAIT, layer, began, entered))
                self.watcher(Span(Activity.COMPUTE, layer, entered, perf_counter()))

    def close(self) -> None:
        """Wait for the thread to end; no layer can be read afterwards."""
        self._finalizer()

    def _wait_for(self, layer: int) -> _Load:
        if not self._loads or self._loads[0].layer != layer:  # at first, or after an abandoned pass
            self._reset()
            for slot in range(SLOTS):
                self._loader.release(slot)
                self._submit((layer + slot) % self._layers, slot)
        load = self._loads[0]
        try:
            if load.future is not None:
                load.future.result()
        except BaseException:
            self._reset()
            raise
        self.slot = load.slot
        self._loader.acquire(load.slot)
        return load

    def _reset(self) -> None:
        wait([load.future for load in self._loads if load.future is not None])
        self._loads.clear()
        self._held = [None] * SLOTS

    def _submit(self, layer: int, slot: int) -> None:
        future = None
        if self._held[slot] != layer:  # models of one or two layers stay where they are
            future = self._thread.submit(_timed, self._loader, layer, slot)
        self._held[slot] = layer
        self._loads.append(_Load(layer, slot, future))


def _timed(loader: LayerLoader, layer: int, slot: int) -> tuple[float, float]:
    began = perf_counter()
    loader.load(layer, slot)
    return began, perf_counter()


def _close(thread: ThreadPoolExecutor, loader: LayerLoader) -> None:
    thread.submit(loader.close)  # after the current load
    # garbage is collected in whichever thread allocates, and a thread cannot wait for itself
    thread.shutdown(wait=not threading.current_thread().name.startswith(THREAD))
