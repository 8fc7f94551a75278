"""The keys of the replay screen."""

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..widgets.header import SPEEDUP_MEANING
from .help import entries, paragraph, room_for_help

if TYPE_CHECKING:
    from ..ui.base_app import BaseApp

KEYS = (  # ids of actions, so that changed keys are told, and keys that cannot be changed
    ("replay.play", "play or pause; at the end, play again"),
    ("replay.step_before replay.step_after", "one step back or on; pauses"),
    ("replay.earlier, replay.later", "two seconds of the recording back or on"),
    ("replay.first, replay.last", "to the beginning; to the end"),
    ("replay.answer_before replay.answer_after", "where this answer begins, the one before; next"),
    ("replay.faster replay.slower", "faster, slower"),
    ("click", "on the line of time goes there"),
    ("replay.tree", "tree, heat map of acceptance or neither"),
    ("replay.tint", "tint each token by where it came from"),
    ("Tab", "to the chat or the tree; Up, Down move there"),
    ("Enter", "on a node of the tree: why it came out so"),
    ("app.palette", "command palette: themes, a picture"),
    ("replay.help", "this help"),
    ("replay.leave, app.quit", "quit"),
)
ABOUT = (
    "At 1x every step takes the time it took when it was recorded, reading the prompt included. "
    "What passed between an answer and the next prompt is cut to a second and a half."
)


class ReplayHelp(ModalScreen[None]):
    """Over the recording, which goes on behind it."""

    app: "BaseApp"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter,question_mark", "dismiss", "Close", show=False,
                id="help.close"),
    ]  # fmt: skip

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with VerticalScroll(id="help") as scroll:
            scroll.border_title = "Help"
            scroll.border_subtitle = "esc closes"
            yield Static("", markup=False)

    def on_mount(self) -> None:
        """The arrows scroll at once."""
        self.query_one("#help").focus()

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self.query_one(Static).update(self._text(room_for_help(self.size.width)))

    def _text(self, width: int) -> Content:
        named = tuple((self.app.keys.shown(names), act) for names, act in KEYS)
        lines = [Content.styled("Keys", "bold $primary"), *entries(named, width)]
        lines += [Content(""), *paragraph("Time", ABOUT, width)]
        lines += [Content(""), *paragraph("x plain", SPEEDUP_MEANING, width)]
        return Content("\n").join(lines)
