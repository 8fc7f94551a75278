"""Draws the chat: its text, the step on show and what it is doing, at a measured pace."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ...engine.decode_thread import DecodeThread
from ...present.accessible import is_accessible
from ...state.answer import Chosen
from ...state.chat_session import ChatSession
from ..step_screen import PromptedScreen
from .step_inspector import StepInspector

SHARE = 0.06
"""Of one core's time, for everything that the screen's thread does while something is decoded."""
LONGEST_SECONDS = 1.0  # between two pictures, whatever else the screen's thread does
PAINTING_SECONDS = 0.5  # a part is taken as painted after this time
KEY_SECONDS = 0.02  # for a key to be taken and shown


@dataclass(slots=True)
class FramePacer:
    """Says when the next picture is due, by wall time and processor time of the thread.

    Drawing holds the interpreter lock that the decode thread needs between its operations.
    """

    clock: Callable[[], float] = time.monotonic
    spent: Callable[[], float] = time.thread_time
    _drawn_at: float = float("-inf")
    _spent_then: float = 0.0

    def due(self) -> bool:
        """Whether what was spent since the last picture is within the share; if so, restart.

        It is also due after `LONGEST_SECONDS`: keys and a moving mouse may spend the share alone.
        """
        now, spent = self.clock(), self.spent()
        waited = now - self._drawn_at
        if waited < LONGEST_SECONDS and waited * SHARE < spent - self._spent_then:
            return False
        self._drawn_at, self._spent_then = now, spent
        return True


@dataclass(slots=True)
class Redraw:
    """Draws the text, the tree and the figures, one after the other.

    Textual paints all that changed at once. Where that is the whole screen, a key that was pressed
    just before waits noticeably long; between two parts it is shown.
    """

    screen: PromptedScreen
    session: ChatSession
    decoder: DecodeThread
    inspector: StepInspector
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
        self.text()
        self.tree()
        self.figures()

    async def go_on(self) -> None:
        """Draw what changed, if it is due; while nothing is decoded it always is."""
        running = self.session.decoding and not self.decoder.paused
        if not (self._stale and (self._pacer.due() or self._urgent or not running)):
            return
        self._stale, self._urgent, self._drawing = False, False, True
        try:
            for part in (self.text, self.tree, self.figures):
                if self.screen.app.collections.input_within(KEY_SECONDS):
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

    # The parts

    def text(self) -> None:
        """Draw the transcript, and what lies over it or in its place."""
        prompt, walking = self.screen.prompt, self.inspector.cursor.at is not None
        prompt.walks = self.inspector.has_steps
        prompt.held = walking or (self.session.busy and self.decoder.paused)
        self.inspector.highlight()
        self.views()
        self.screen.transcript.redraw()

    def views(self) -> None:
        self.screen.draw_views(self.inspector.cursor, self._title)

    def tree(self) -> None:
        """Draw the tree of the step on show; in accessible mode only the text moves."""
        if self._still or not is_accessible(self.screen):
            self.screen.draw_tree(self.inspector.cursor, self._title, still=self._still)

    def figures(self) -> None:
        screen, cursor, next_tree = self.screen, self.inspector.cursor, self.session.tree
        if self._still or not is_accessible(screen):
            expected = cursor.chosen or (Chosen(next_tree) if next_tree is not None else None)
            waiting = cursor.answer.waiting if cursor.answer is not None else ""
            context = cursor.context_tokens
            if context is None:
                context = self.session.context_tokens
            screen.draw_figures(cursor, expected, context, waiting)
            if next_tree is None and cursor.at is None and not self.session.busy:
                screen.header.chosen_tree = None  # settings have changed since
        self.status()

    def status(self) -> None:
        screen, session = self.screen, self.session
        status, row = "", "decoding" if session.busy else "idle"
        if session.pair is None:
            status = session.unready
        elif session.edit is not None:
            status = "editing"
            row = "editing an answer" if session.edit.of_answers else "editing"
        elif self.inspector.cursor.at is not None:
            status = row = "looking back"
        elif self.decoder.paused:
            status = row = "paused"
        if screen.token_tree.has_focus and session.pair is not None:
            row = "nodes"
        screen.prompt.steps_on_space = self.decoder.paused
        self.context_warning()
        screen.header.status = status
        screen.key_bar.row = row
        way_back = "chat" if screen.has_class("-heat") else "map, chat"
        screen.key_bar.way_back = way_back if screen.covers_chat else ""

    def context_warning(self) -> None:
        """Say at the prompt if turns will be left out of the message there."""
        prompt, session = self.screen.prompt, self.session
        prompt.stand("" if session.busy else session.context_warning(len(prompt.whole)))

    @property
    def _title(self) -> str:
        return self.inspector.title(paused=self.decoder.paused)

    @property
    def _still(self) -> bool:
        """Whether the next step does not follow at once."""
        walking = self.inspector.cursor.at is not None
        return walking or self.decoder.paused or not self.session.busy
