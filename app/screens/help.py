"""The help screen: every key, every command, and what the figures mean."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..slash import USAGE
from ..widgets.header import SPEEDUP_MEANING

KEYS = (
    ("Enter", "send"),
    ("Shift+Enter, Ctrl+J", "new line"),
    ('"""', "begins and ends a message of many lines"),
    ("Up, Down", "earlier messages, on the first and last line"),
    ("Esc", "stop the answer; what there is stays"),
    ("F2", "pause or resume the decoding"),
    ("Space", "exactly one step, while paused and the prompt is empty"),
    ("[  ]", "walk back and forth through the steps, while the prompt is empty"),
    ("Home, End", "first step; back to live"),
    ("Ctrl+E", "edit the last message, pressed again or Up the one before; Enter branches off"),
    ("Ctrl+R", "ask the last message again, beside the answer there is"),
    ("Alt+Left, Alt+Right", "the branch before or after, at the message that says 2 of 3"),
    ("F3", "race: plain and speculative decoding of a prompt, side by side"),
    ("Ctrl+Y", "copy the last answer; Ctrl+C what is selected; /copy code a block of code"),
    ("F4", "show or hide the tree (under 100 columns: chat or tree)"),
    ("F6", "tint each token by where it came from"),
    ("Tab", "move between prompt, chat and tree"),
    ("Page up, Page down", "scroll the chat"),
    ("Ctrl+P", "command palette"),
    ("F1", "this help"),
    ("Ctrl+Q, Ctrl+D", "quit (Ctrl+D: while the prompt is empty)"),
)
_TINTS = (
    ("bold $bonus", "bonus: drawn by the target itself"),
    ("$rank-1", "the draft's first guess"),
    ("underline $rank-2", "its second"),
    ("underline italic $rank-3", "its third or later"),
)


class HelpScreen(ModalScreen[None]):
    """Over the chat, which goes on decoding behind it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter", "dismiss", "Close", show=False, id="help.close")
    ]

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with VerticalScroll(id="help") as scroll:
            scroll.border_title = "Help"
            scroll.border_subtitle = "esc closes"
            yield Static(self._text(), markup=False)

    def on_mount(self) -> None:
        """The arrows scroll at once."""
        self.query_one("#help").focus()

    def _text(self) -> Content:
        lines = [Content.styled("Keys", "bold $primary"), *_entries(KEYS)]
        lines += [Content(""), Content.styled("Commands", "bold $primary"), *_entries(USAGE)]
        lines += [Content(""), Content.styled("Tints (F6)", "bold $primary")]
        lines += [Content.assemble("  ", (text, style)) for style, text in _TINTS]
        lines += [Content(""), Content.styled("x plain", "bold $primary")]
        lines.append(Content("  " + SPEEDUP_MEANING))
        return Content("\n").join(lines)


def _entries(entries: tuple[tuple[str, str], ...]) -> list[Content]:
    """Names in a column as wide as the longest, and what they do."""
    width = max(len(name) for name, _ in entries) + 2
    return [Content.assemble("  ", (name.ljust(width), "bold"), text) for name, text in entries]
