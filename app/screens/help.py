"""The help screen: every key, every command, and what the figures mean."""

from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..state.slash_commands import USAGE
from ..widgets.header import SPEEDUP_MEANING

if TYPE_CHECKING:
    from ..ui.base_app import BaseApp

_WALKING = "chat.step_before and chat.step_after"
KEYS = (  # ids of actions, so that changed keys are told, and keys that cannot be changed
    ("prompt.send", "send"),
    ("prompt.new_line", "new line"),
    ('"""', "begins and ends a message of many lines"),
    ("Up, Down", "earlier messages, on the first and last line"),
    ("chat.stop", "stop the answer; what there is stays"),
    ("chat.pause", "pause or resume the decoding"),
    ("chat.step", "exactly one step, while paused and the prompt is empty"),
    (_WALKING, "walk through the steps of all answers, while the prompt is empty; those that "
     "write do so in the tree, while paused, and while an earlier step is on show"),
    ("chat.first_step, chat.live", "first step, pressed again the answer before; back to live"),
    ("chat.edit", "edit the last message, pressed again or Up the one before; Enter branches off"),
    ("chat.again", "ask the last message again, beside the answer there is"),
    ("chat.branch_before, chat.branch_after",
     "the branch before or after, at the message that says 2 of 3"),
    ("chat.sessions", "all chats: open, rename, delete; after a kill, go on where it was"),
    ("chat.race", "race: plain and speculative decoding of a prompt, side by side"),
    ("chat.copy", "copy the last answer; Ctrl+C what is selected; /copy code a block of code"),
    ("chat.tree", "tree, heat map of acceptance, or neither (under 100 columns: for the chat)"),
    ("chat.settings", "settings, which are kept; keys can be changed there"),
    ("chat.tint", "tint each token by where it came from"),
    ("Tab", "from the prompt to the tree, then to the chat"),
    ("tree.up tree.down, tree.why", "in the tree: another node; why it came out so (or click)"),
    ("Page up, Page down", "scroll the chat"),
    ("app.palette", "command palette"),
    ("chat.help", "this help"),
    ("app.quit, chat.leave", "quit (the latter while the prompt is empty)"),
)  # fmt: skip
_WIDEST = 120
"""Columns, as the style sheet has it."""
_FRAME_CELLS = 8
"""Frame, padding and scroll bar."""
_LEAST_ROOM = 28
_TINTS = (
    ("bold $bonus", "bonus: drawn by the target itself"),
    ("$rank-1", "the draft's first guess"),
    ("underline $rank-2", "its second"),
    ("underline italic $rank-3", "its third or later"),
)


class HelpScreen(ModalScreen[None]):
    """Over the chat, which goes on decoding behind it."""

    app: "BaseApp"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter", "dismiss", "Close", show=False, id="help.close")
    ]

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

    def _keys(self) -> tuple[tuple[str, str], ...]:
        keys = self.app.keys
        return tuple(
            (keys.shown(names, every=names == _WALKING), meaning) for names, meaning in KEYS
        )

    def _commands(self) -> tuple[tuple[str, str], ...]:
        keys = self.app.keys
        return tuple((usage, keys.shown(told)) for usage, told in USAGE)

    def _text(self, width: int) -> Content:
        lines = [Content.styled("Keys", "bold $primary"), *entries(self._keys(), width)]
        lines += [Content(""), Content.styled("Commands", "bold $primary")]
        lines += entries(self._commands(), width)
        tints = self.app.keys.shown("Tints, chat.tint")
        lines += [Content(""), Content.styled(tints, "bold $primary")]
        lines += [Content.assemble("  ", (text, style)) for style, text in _TINTS]
        lines += [Content(""), *paragraph("x plain", SPEEDUP_MEANING, width)]
        return Content("\n").join(lines)


def room_for_help(columns: int) -> int:
    """Cells for its text in a terminal of so many columns."""
    return max(_LEAST_ROOM, min(_WIDEST, columns * 96 // 100) - _FRAME_CELLS)


def paragraph(heading: str, text: str, width: int) -> list[Content]:
    """A heading, and a text under it, of lines at most `width` cells wide."""
    lines = [Content("  " + line) for line in wrap(text, max(1, width - 2))]
    return [Content.styled(heading, "bold $primary"), *lines]


def entries(named: tuple[tuple[str, str], ...], width: int) -> list[Content]:
    """Names in a column as wide as the longest, and what they do beside it or below.

    Args:
        named: names and what they do.
        width: in cells.
    """
    column = max(len(name) for name, _ in named) + 4
    beside = width - column >= _LEAST_ROOM
    indent = column if beside else 6
    lines: list[Content] = []
    for name, told in named:
        first, *rest = wrap(told, max(1, width - indent)) or [""]
        if not beside:
            lines.append(Content.assemble("  ", (name, "bold")))
            rest = [first, *rest]
        else:
            lines.append(Content.assemble("  ", (name.ljust(column - 2), "bold"), first))
        lines += [Content(" " * indent + line) for line in rest]
    return lines
