"""How often to draw while decoding: the screen may spend a fixed share of a core, and no more.

Drawing holds the interpreter lock that the decode thread needs between its operations, so what a
picture costs is taken from the tokens. The cost is measured, not assumed: on a large terminal, or
a slow machine, pictures come less often. Knows nothing of what is drawn.
"""

import time
from collections.abc import Callable

SHARE = 0.06
"""Of one core's time, for everything the screen's thread does while an answer is decoded."""


class Pace:
    """Says when the next picture is due.

    Args:
        clock: wall time in seconds.
        spent: processor time of the calling thread in seconds.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        self._clock = clock
        self._spent = spent
        self._drawn_at = float("-inf")
        self._spent_then = 0.0

    def due(self) -> bool:
        """Whether enough time passed for what was spent since the last picture; if so, restart."""
        now, spent = self._clock(), self._spent()
        if (now - self._drawn_at) * SHARE < spent - self._spent_then:
            return False
        self._drawn_at, self._spent_then = now, spent
        return True
