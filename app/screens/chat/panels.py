"""The widgets around transcript and prompt: header, tree, step bar and keys."""

from ...engine.decode_thread import Decoder
from ...present.accessible import is_accessible
from ...state.answer import Chosen
from ...state.chat_session import ChatSession
from ...state.step_cursor import StepCursor
from ...widgets import key_bar
from ...widgets.decode_panel import DecodePanel
from ...widgets.header import Header
from ...widgets.key_bar import KeyBar
from ...widgets.step_bar import StepBar


class Panels:
    """Draws the step on show, and what the chat is doing."""

    def __init__(self, session: ChatSession, decoder: Decoder) -> None:
        self._session, self._decoder = session, decoder
        self.header = Header()
        self.decoding = DecodePanel()
        self.strip = StepBar(id="strip")
        self.keys = KeyBar()

    def show_tree(self, cursor: StepCursor) -> None:
        """Draw the tree of the step on show."""
        still = self._is_still(cursor)
        if still or not is_accessible(self.decoding):
            title = cursor.title(paused=self._decoder.paused)
            self.decoding.show_tree(cursor.step, title, still=still)

    def show_figures(self, cursor: StepCursor) -> None:
        """Draw the statistics up to the step on show."""
        if is_accessible(self.decoding) and not self._is_still(cursor):
            return  # only the text moves
        next_tree = self._session.tree
        expected = cursor.chosen or (Chosen(next_tree) if next_tree is not None else None)
        waiting = cursor.answer.waiting if cursor.answer is not None else ""
        self.decoding.show_figures(cursor.step, cursor.statistics, expected, waiting)
        self.strip.show_step(cursor.step, cursor.statistics, waiting)
        self.header.statistics = cursor.statistics
        # if settings have changed since, the tree of the next answer is not known
        known = next_tree is not None or cursor.at is not None or self._session.busy
        self.header.chosen_tree = expected.tree if expected is not None and known else None

    def show_status(self, cursor: StepCursor) -> None:
        """Show what the chat is doing, and the keys for that."""
        session, loaded = self._session, self._session.pair is not None
        status, keys = "", key_bar.DECODING if session.busy else key_bar.IDLE
        if not loaded:
            status = "loading"
        elif session.edit is not None:
            status, keys = "editing", key_bar.EDITING
        elif cursor.at is not None:
            status, keys = "looking back", key_bar.WALKING
        elif self._decoder.paused:
            status, keys = "paused", key_bar.PAUSED
        if self.decoding.token_tree.has_focus and loaded:
            keys = key_bar.NODES
        self.header.status = status
        self.keys.row = keys

    def _is_still(self, cursor: StepCursor) -> bool:
        return cursor.at is not None or self._decoder.paused or not self._session.busy
