"""The keys of the replay screen."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..widgets.header import SPEEDUP_MEANING

KEYS = (
    ("Space", "play or pause; at the end, play again"),
    ("[  ]", "one step back or on; pauses"),
    ("Left, Right", "two seconds of the recording back or on"),
    ("Home, End", "to the beginning; to the end"),
    ("p, n", "where this answer begins, the one before; the next one"),
    ("+  -", "faster, slower"),
    ("click", "on the line of time goes there"),
    ("F4", "show or hide the tree (under 100 columns: chat or tree)"),
    ("F6", "tint each token by where it came from"),
    ("Tab", "move between chat and tree; Up, Down, Page up, Page down scroll"),
    ("Ctrl+P", "command palette: themes, a picture"),
    ("F1, ?", "this help"),
    ("q, Ctrl+Q", "quit"),
)
ABOUT = (
    "At 1x every step takes the time it took when it was recorded, reading the prompt included. "
    "What passed between an answer and the next prompt is cut to a second and a half."
)


class ReplayHelp(ModalScreen[None]):
    """Over the recording, which goes on behind it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter,question_mark", "dismiss", "Close", show=False,
                id="help.close"),
    ]  # fmt: skip

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        width = max(len(name) for name, _ in KEYS) + 2
        lines = [Content.styled("Keys", "bold $primary")]
        lines += [Content.assemble("  ", (name.ljust(width), "bold"), act) for name, act in KEYS]
        lines += [Content(""), Content.styled("Time", "bold $primary"), Content("  " + ABOUT)]
        lines += [Content(""), Content.styled("x plain", "bold $primary")]
        lines.append(Content("  " + SPEEDUP_MEANING))
        with VerticalScroll(id="help") as scroll:
            scroll.border_title = "Help"
            scroll.border_subtitle = "esc closes"
            yield Static(Content("\n").join(lines), markup=False)

    def on_mount(self) -> None:
        """The arrows scroll at once."""
        self.query_one("#help").focus()
