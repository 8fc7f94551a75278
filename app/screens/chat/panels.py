"""What the chat screen shows of the decoding: header, tree, step bar and the keys that matter now.

Owns what is drawn of a step and of the state the chat is in. Knows neither the transcript nor what
a key does.
"""

from dataclasses import dataclass

from sequoia_core.events import TreeChosen

from ...present.accessible import is_accessible
from ...state.answer import Chosen
from ...state.step_cursor import Walk
from ...widgets import key_bar
from ...widgets.decode_panel import DecodePanel
from ...widgets.header import Header
from ...widgets.key_bar import KeyBar
from ...widgets.step_bar import StepBar


@dataclass(frozen=True, slots=True)
class Activity:
    """What the chat is at.

    Attributes:
        loaded: the engine is there.
        busy: an answer is under way.
        paused: decoding is held after each step.
    """

    loaded: bool
    busy: bool
    paused: bool


class Dashboard:
    """The widgets around the transcript and the prompt."""

    def __init__(self) -> None:
        self.header = Header()
        self.panel = DecodePanel()
        self.strip = StepBar(id="strip")
        self.keys = KeyBar()

    def show_tree(self, walk: Walk, now: Activity) -> None:
        """Draw the tree of the last step, or of the one walked to."""
        if self._moves(walk, now):
            still = _still(walk, now)
            self.panel.show_tree(walk.step, walk.title(paused=now.paused), still=still)

    def show_figures(self, walk: Walk, coming: TreeChosen | None, now: Activity) -> None:
        """Draw what goes with that tree.

        Args:
            walk: the place in the answer.
            coming: the tree shape the next answer begins with, as far as it is known.
            now: what the chat is at.
        """
        if self._moves(walk, now):
            expected = walk.chosen or (Chosen(coming) if coming is not None else None)
            waiting = walk.answer.waiting if walk.answer is not None else ""
            self.panel.show_figures(walk.step, walk.statistics, expected, waiting)
            self.strip.show_step(walk.step, walk.statistics, waiting)
            self.header.statistics = walk.statistics
            # with other settings since, the next answer's is not known
            known = coming is not None or walk.at is not None or now.busy
            self.header.chosen_tree = expected.tree if expected is not None and known else None

    def _moves(self, walk: Walk, now: Activity) -> bool:
        """In accessible mode only the text moves; the figures come with its end."""
        return _still(walk, now) or not is_accessible(self.panel)

    def show_activity(self, walk: Walk, now: Activity, *, editing: bool) -> None:
        """Say what the chat is at, and which keys matter."""
        if not now.loaded:
            status, keys = "loading", key_bar.DECODING if now.busy else key_bar.IDLE
        elif editing:
            status, keys = "editing", key_bar.EDITING
        elif walk.at is not None:
            status, keys = "looking back", key_bar.WALKING
        elif now.paused:
            status, keys = "paused", key_bar.PAUSED
        else:
            status, keys = "", key_bar.DECODING if now.busy else key_bar.IDLE
        self.header.status = status
        if self.panel.token_tree.has_focus and now.loaded:
            keys = key_bar.NODES
        self.keys.row = keys


def _still(walk: Walk, now: Activity) -> bool:
    return walk.at is not None or now.paused or not now.busy
