"""When the interpreter searches everything for unreachable cycles: between answers, hands at rest.

A full search of a long chat, or of the libraries that decode, stops every thread for some ten
milliseconds and would come every second or two while steps stream in. What the young generations
find goes on being freed at once.
"""

import gc
import time
from collections.abc import Callable

NEVER = 1_000_000_000
RESTS = 4
"""Of so many rests one searches: a search at each would stop a fast chat as often as before."""
CALM_SECONDS = 0.4
"""Since the last key: whoever types on would feel the search."""
PATIENCE = 16
"""Rests after which the search comes whatever is typed."""


class Rests:
    """Full searches at times of one's own choosing; one per process.

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
        """From now on everything is searched only in `rest` and `go_on`."""
        self._usual = gc.get_threshold()
        young, middle, _ = self._usual
        gc.set_threshold(young, middle, NEVER)

    def touched(self) -> None:
        """A person does something."""
        self._touched_at = self._clock()

    def touched_within(self, seconds: float) -> bool:
        """Whether a person did something so short a time ago."""
        return self._clock() - self._touched_at < seconds

    def rest(self) -> None:
        """Nothing is under way; what there is at the first rest, libraries, is set aside."""
        if self._usual is None:
            return
        if self._first:
            self._first = False
            gc.collect()
            gc.freeze()
        else:
            self._waited += 1

    def go_on(self, *, idle: bool) -> None:
        """Search now if that is due, nothing is under way and nobody types."""
        calm = idle and not self.touched_within(CALM_SECONDS)
        if self._waited >= RESTS and (calm or self._waited >= PATIENCE):
            self._waited = 0
            gc.collect()

    def end(self) -> None:
        """As it was before `begin`."""
        if self._usual is not None:
            gc.set_threshold(*self._usual)
            gc.unfreeze()
            self._usual = None
            self._waited = 0
