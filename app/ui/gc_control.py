"""Full garbage collections between answers, while nobody types.

A full collection of a long chat, or of the libraries that decode, stops every thread for some ten
milliseconds, and would come every second or two during an answer. Collections of the young
generations go on as usual.
"""

import gc
import time
from collections.abc import Callable

NEVER = 1_000_000_000
ANSWERS = 4
"""Between collections; one after each would stop a fast chat as often as before."""
QUIET_SECONDS = 0.4
"""Since the last key; a person who types would notice the collection."""
MOST_ANSWERS = 16
"""After these, a collection no longer waits for a person who types."""


class GarbageCollections:
    """Schedules full collections; one per process.

    Args:
        clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._usual: tuple[int, int, int] | None = None
        self._first = True
        self._answers = 0
        self._input_at = float("-inf")

    def start(self) -> None:
        """From now on, full collections happen only in `answer_ended` and `collect_if_due`."""
        self._usual = gc.get_threshold()
        young, middle, _ = self._usual
        gc.set_threshold(young, middle, NEVER)

    def note_input(self) -> None:
        """A person pressed a key or a button."""
        self._input_at = self._clock()

    def input_within(self, seconds: float) -> bool:
        """Whether a person did something in the last seconds."""
        return self._clock() - self._input_at < seconds

    def answer_ended(self) -> None:
        """Nothing is decoded; the first time, when the models are loaded, freeze what there is."""
        if self._usual is None:
            return
        if self._first:
            self._first = False
            gc.collect()
            gc.freeze()
        else:
            self._answers += 1

    def collect_if_due(self, *, idle: bool) -> None:
        """Collect if that is due, nothing is decoded and nobody types."""
        quiet = idle and not self.input_within(QUIET_SECONDS)
        if self._answers >= ANSWERS and (quiet or self._answers >= MOST_ANSWERS):
            self._answers = 0
            gc.collect()

    def stop(self) -> None:
        """Restore the settings from before `start`."""
        if self._usual is not None:
            gc.set_threshold(*self._usual)
            gc.unfreeze()
            self._usual = None
            self._answers = 0
