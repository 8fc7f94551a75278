"""When the interpreter searches everything for unreachable cycles: between answers only.

A full search of a long chat, or of the libraries that decode, stops every thread for a tenth of a
second and comes every second or two while steps stream in. What the young generations find goes on
being freed at once.
"""

import gc

NEVER = 1_000_000_000
RESTS = 4
"""Of so many rests one searches: a search at each would stop a fast chat as often as before."""


class Rests:
    """Full searches at times of one's own choosing; one per process."""

    def __init__(self) -> None:
        self._usual: tuple[int, int, int] | None = None
        self._rests = 0

    def begin(self) -> None:
        """From now on everything is searched only in `rest`."""
        self._usual = gc.get_threshold()
        young, middle, _ = self._usual
        gc.set_threshold(young, middle, NEVER)

    def rest(self) -> None:
        """Search now if it is time; what there is at the first rest, libraries, is set aside."""
        if self._usual is None:
            return
        if self._rests % RESTS == 0:
            gc.collect()
        if self._rests == 0:
            gc.freeze()
        self._rests += 1

    def end(self) -> None:
        """As it was before `begin`."""
        if self._usual is not None:
            gc.set_threshold(*self._usual)
            gc.unfreeze()
            self._usual = None
