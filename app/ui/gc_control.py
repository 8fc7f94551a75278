"""Full garbage collections between answers, while nobody types.

A full collection of a long chat, or of the libraries that decode, stops every thread for some ten
milliseconds, and would come every second or two during an answer. Collections of the young
generations go on as usual.
"""

import gc
import time
from collections.abc import Callable

NEVER = 1_000_000_000
RESTS = 4
"""Rests between collections; one at each would stop a fast chat as often as before."""
CALM_SECONDS = 0.4
"""Since the last key; a person who types would notice the collection."""
PATIENCE = 16
"""Rests after which a collection no longer waits for a person who types."""


class Rests:
    """Schedules full collections; one per process.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usual: tuple[int, int, int] | None = None
        self._first = True
        self._waited = 0
        self._touched_at = float("-inf")

    def begin(self) -> None:
        """From now on, full collections happen only in `rest` and `go_on`."""
        self._usual = gc.get_threshold()
        young, middle, _ = self._usual
        gc.set_threshold(young, middle, NEVER)

    def touched(self) -> None:
        """A person pressed a key or a button."""
        self._touched_at = self._clock()

    def touched_within(self, seconds: float) -> bool:
        """Whether a person did something in the last seconds."""
        return self._clock() - self._touched_at < seconds

    def rest(self) -> None:
        """Decoding has ended; at the first rest the loaded libraries are frozen."""
        if self._usual is None:
            return
        if self._first:
            self._first = False
            gc.collect()
            gc.freeze()
        else:
            self._waited += 1

    def go_on(self, *, idle: bool) -> None:
        """Collect now if that is due, nothing is decoded and nobody types."""
        calm = idle and not self.touched_within(CALM_SECONDS)
        if self._waited >= RESTS and (calm or self._waited >= PATIENCE):
            self._waited = 0
            gc.collect()

    def end(self) -> None:
        """Restore the settings from before `begin`."""
        if self._usual is not None:
            gc.set_threshold(*self._usual)
            gc.unfreeze()
            self._usual = None
            self._waited = 0
