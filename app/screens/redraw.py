"""When a screen draws what changed: at a pace that spares the decoding, and in parts.

Drawing holds the interpreter lock that the decode thread needs between its operations, so what a
picture costs is taken from the tokens. The cost is measured: on a large terminal, or a slow
machine, pictures come less often.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from textual.screen import Screen

SHARE = 0.06
"""Of one core's time, for everything that the screen's thread does while something is decoded."""
PAINTING_SECONDS = 0.5  # a part is taken as painted after this time
KEY_SECONDS = 0.02  # for a key to be taken and shown


@dataclass(slots=True)
class FramePacer:
    """Says when the next picture is due, by wall time and processor time of the thread."""

    clock: Callable[[], float] = time.monotonic
    spent: Callable[[], float] = time.thread_time
    _drawn_at: float = float("-inf")
    _spent_then: float = 0.0

    def due(self) -> bool:
        """Whether what was spent since the last picture is within the share; if so, restart."""
        now, spent = self.clock(), self.spent()
        if (now - self._drawn_at) * SHARE < spent - self._spent_then:
            return False
        self._drawn_at, self._spent_then = now, spent
        return True


@dataclass(slots=True)
class Redraw:
    """Draws the parts of one screen, one after the other.

    Textual paints all that changed at once. Where that is the whole screen, a key that was pressed
    just before waits noticeably long; between two parts it is shown.
    """

    screen: Screen[None]
    parts: Sequence[Callable[[], None]]
    typed_within: Callable[[float], bool]  # whether a key was pressed in the last seconds
    _pacer: FramePacer = field(default_factory=FramePacer)
    _stale: bool = False
    _urgent: bool = False
    _drawing: bool = False

    @property
    def done(self) -> bool:
        return not (self._stale or self._drawing)

    def changed(self, *, urgent: bool = False) -> None:
        """There is more to draw; if it is urgent, it does not wait for the pace."""
        self._stale = True
        self._urgent |= urgent

    def now(self) -> None:
        self._stale = self._urgent = False
        for part in self.parts:
            part()

    async def go_on(self, *, running: bool) -> None:
        """Draw what changed, if it is due; while nothing is running it always is."""
        if not (self._stale and (self._pacer.due() or self._urgent or not running)):
            return
        self._stale, self._urgent, self._drawing = False, False, True
        try:
            for part in self.parts:
                if self.typed_within(KEY_SECONDS):
                    await asyncio.sleep(KEY_SECONDS)
                part()
                painted = asyncio.Event()
                self.screen.call_after_refresh(painted.set)
                # not wait_for, which may swallow the cancellation that ends the app
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAINTING_SECONDS):
                        await painted.wait()
                await asyncio.sleep(KEY_SECONDS)
        finally:
            self._drawing = False
