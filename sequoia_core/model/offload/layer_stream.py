"""Two buffers that layers pass through in a circle, one computed with while the other is filled.

Owns the order of layers, the thread that brings them, and what may be overwritten when. It knows
nothing of where they come from or of what is computed; those are a `Carrier` and a caller.
"""

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
"""Buffers; one computed with, one being filled."""

THREAD = "sequoia-offload"
"""Begins the name of each reading thread."""


class Carrier(Protocol):
    """Brings layers into buffers."""

    def bring(self, layer: int, slot: int) -> None:
        """Fill a buffer, or begin to; called in a thread of its own, one call at a time."""
        ...

    def enter(self, slot: int) -> None:
        """What the caller issues from now on reads the buffer, once it is filled."""
        ...

    def leave(self, slot: int) -> None:
        """What reads the buffer has been issued; afterwards it may be filled anew."""
        ...

    def close(self) -> None:
        """No layer is wanted any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Coming:
    """A layer on its way, whose future is when that began and ended; None: it was there."""

    layer: int
    slot: int
    future: Future[tuple[float, float]] | None


class LayerRing:
    """Hands out layers in order; the thread ends when nobody holds the ring any more.

    After the last layer comes the first: its weights are brought while the last is computed, for
    the next forward. A failure to bring a layer is raised where that layer is wanted, and the next
    forward begins anew.

    Args:
        carrier: closed at the end.
        layers: how many there are.

    Attributes:
        slot: the buffer that holds the layer at hand.
        watcher: told what was done when, in the caller's thread; None watches nothing.
    """

    def __init__(self, carrier: Carrier, layers: int) -> None:
        self.slot = 0
        self.watcher: Callable[[Span], None] | None = None
        self._carrier, self._layers = carrier, layers
        self._coming: deque[_Coming] = deque()
        self._held: list[int | None] = [None] * SLOTS
        self._thread = ThreadPoolExecutor(1, THREAD)
        # neither it nor the work it is given may hold the ring, or it would never be given up
        self._end = weakref.finalize(self, _close, self._thread, carrier)
        self._end.atexit = False  # executors end by themselves then, and take no more work

    def through(self, items: Sequence[Item]) -> Iterator[Item]:
        """Every layer's item in turn; its weights are in buffer `slot` until the next is asked for.

        Raises:
            ModelLoadError: the weights could not be brought.
        """
        for layer, item in enumerate(items):
            began = perf_counter()
            coming = self._take(layer)
            entered = perf_counter()
            yield item
            self._carrier.leave(self.slot)
            self._coming.popleft()
            self._bring((layer + SLOTS) % self._layers, self.slot)
            if self.watcher is not None:
                if coming.future is not None:
                    self.watcher(Span(Activity.READ, layer, *coming.future.result()))
                self.watcher(Span(Activity.WAIT, layer, began, entered))
                self.watcher(Span(Activity.COMPUTE, layer, entered, perf_counter()))

    def close(self) -> None:
        """Wait for the thread to end; no layer can be had any more."""
        self._end()

    def _take(self, layer: int) -> _Coming:
        if not self._coming or self._coming[0].layer != layer:
            self._begin_with(layer)
        first = self._coming[0]
        try:
            if first.future is not None:
                first.future.result()
        except BaseException:
            self._forget()
            raise
        self.slot = first.slot
        self._carrier.enter(first.slot)
        return first

    def _begin_with(self, layer: int) -> None:
        """As at first, or after a forward that was not finished."""
        self._forget()
        for slot in range(SLOTS):
            self._carrier.leave(slot)
            self._bring((layer + slot) % self._layers, slot)

    def _forget(self) -> None:
        wait([each.future for each in self._coming if each.future is not None])
        self._coming.clear()
        self._held = [None] * SLOTS

    def _bring(self, layer: int, slot: int) -> None:
        future = None
        if self._held[slot] != layer:  # models of one or two layers stay where they are
            future = self._thread.submit(_timed, self._carrier, layer, slot)
        self._held[slot] = layer
        self._coming.append(_Coming(layer, slot, future))


def _timed(carrier: Carrier, layer: int, slot: int) -> tuple[float, float]:
    began = perf_counter()
    carrier.bring(layer, slot)
    return began, perf_counter()


def _close(thread: ThreadPoolExecutor, carrier: Carrier) -> None:
    thread.submit(carrier.close)  # after what is being read
    # garbage is collected in whichever thread happens to allocate, and none can wait for itself
    thread.shutdown(wait=not threading.current_thread().name.startswith(THREAD))


class Activity(StrEnum):
    """What a span of time was spent on while an offloaded model computed."""

    READ = "read"
    WAIT = "wait"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """What happened to one layer from when until when, seconds of `time.perf_counter`."""

    activity: Activity
    layer: int
    began: float
    ended: float
