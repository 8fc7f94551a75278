"""Layers pass through two buffers in a circle: one is computed with while the other is filled."""

import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

Item = TypeVar("Item")

SLOTS = 2  # buffers
THREAD = "sequoia-offload"  # prefix of the reading threads' names


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
    `slot` is the buffer of the current layer.
    """

    def __init__(self, loader: LayerLoader, layers: int) -> None:
        self.slot = 0
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
