"""Draws the chat: its text, the step on show, and what it is doing."""

from dataclasses import dataclass

from ...engine.decode_thread import DecodeThread
from ...present.accessible import is_accessible
from ...state.answer import Chosen
from ...state.chat_session import ChatSession
from ...widgets import key_bar
from ..step_screen import PromptedScreen
from .step_inspector import StepInspector


@dataclass(frozen=True, slots=True)
class Drawing:
    screen: PromptedScreen
    session: ChatSession
    decoder: DecodeThread
    inspector: StepInspector

    def text(self) -> None:
        """Draw the transcript, and what lies over it or in its place."""
        prompt, walking = self.screen.prompt, self.inspector.cursor.at is not None
        prompt.walks = self.inspector.has_steps
        prompt.held = walking or (self.session.busy and self.decoder.paused)
        self.inspector.highlight()
        self.views()
        self.screen.transcript.redraw()

    def views(self) -> None:
        cursor = self.inspector.cursor
        self.screen.draw_views(cursor, cursor.title(paused=self.decoder.paused))

    @property
    def _still(self) -> bool:
        """Whether the next step does not follow at once."""
        walking = self.inspector.cursor.at is not None
        return walking or self.decoder.paused or not self.session.busy

    def tree(self) -> None:
        """Draw the tree of the step on show; in accessible mode only the text moves."""
        cursor, decoding = self.inspector.cursor, self.screen.decoding
        if self._still or not is_accessible(decoding):
            title = cursor.title(paused=self.decoder.paused)
            decoding.show_tree(cursor.step, title, still=self._still)

    def figures(self) -> None:
        """Draw the statistics up to the step on show."""
        screen, cursor, next_tree = self.screen, self.inspector.cursor, self.session.tree
        if self._still or not is_accessible(screen):
            expected = cursor.chosen or (Chosen(next_tree) if next_tree is not None else None)
            waiting = cursor.answer.waiting if cursor.answer is not None else ""
            screen.decoding.show_figures(cursor.step, cursor.statistics, expected, waiting)
            screen.strip.show_step(cursor.step, cursor.statistics, waiting)
            screen.header.statistics = cursor.statistics
            # if settings have changed since, the tree of the next answer is not known
            known = next_tree is not None or cursor.at is not None or self.session.busy
            screen.header.chosen_tree = expected.tree if expected is not None and known else None
        self.status()

    def status(self) -> None:
        """Show what the chat is doing, and the keys for that."""
        screen, session = self.screen, self.session
        status, keys = "", key_bar.DECODING if session.busy else key_bar.IDLE
        if session.pair is None:
            status = "loading"
        elif session.edit is not None:
            status, keys = "editing", key_bar.EDITING
        elif self.inspector.cursor.at is not None:
            status, keys = "looking back", key_bar.WALKING
        elif self.decoder.paused:
            status, keys = "paused", key_bar.PAUSED
        if screen.decoding.token_tree.has_focus and session.pair is not None:
            keys = key_bar.NODES
        screen.prompt.steps_on_space = self.decoder.paused
        screen.header.status = status
        screen.key_bar.row = keys
        way_back = "chat" if screen.has_class("-heat") else "map, chat"
        screen.key_bar.way_back = way_back if screen.covers_chat else ""
