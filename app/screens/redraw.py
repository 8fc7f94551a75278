"""When a screen draws what was reported to it: as its pace allows, and in parts.

Textual paints all that changed in one go. Where that is the whole screen, a key that was pressed a
moment before waits for longer than a person takes to notice; between two parts it is shown.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from textual.screen import Screen

from ..ui.frame_pacer import Pace

PAINTING_SECONDS = 0.5
"""A part is taken as painted after this, whatever the screen says."""
KEY_SECONDS = 0.02
"""For a key to be taken and shown."""


class Drawing:
    """The pictures of one screen.

    Args:
        screen: what is drawn on.
        parts: draw everything there is, one after the other.
        typed_within: whether a key was pressed so many seconds ago or less.
    """

    def __init__(
        self,
        screen: Screen[None],
        parts: Sequence[Callable[[], None]],
        typed_within: Callable[[float], bool],
    ) -> None:
        self._screen = screen
        self._parts = parts
        self._typed_within = typed_within
        self._pace = Pace()
        self._stale = self._urgent = self._drawing = False

    @property
    def done(self) -> bool:
        """Whether everything there is was drawn."""
        return not (self._stale or self._drawing)

    def changed(self, *, urgent: bool = False) -> None:
        """There is more to draw; what is urgent does not wait for the pace."""
        self._stale = True
        self._urgent |= urgent

    def now(self) -> None:
        """Draw everything at once."""
        self._stale = self._urgent = False
        for part in self._parts:
            part()

    async def go_on(self, *, running: bool) -> None:
        """Draw what changed, if it is time; while nothing is running it always is."""
        if not (self._stale and (self._pace.due() or self._urgent or not running)):
            return
        self._stale, self._urgent, self._drawing = False, False, True
        try:
            for part in self._parts:
                if self._typed_within(KEY_SECONDS):
                    await asyncio.sleep(KEY_SECONDS)
                part()
                painted = asyncio.Event()
                self._screen.call_after_refresh(painted.set)
                # not wait_for, which may swallow the cancellation by which the app ends
                with suppress(TimeoutError):
                    async with asyncio.timeout(PAINTING_SECONDS):
                        await painted.wait()
                await asyncio.sleep(KEY_SECONDS)
        finally:
            self._drawing = False
