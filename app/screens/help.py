"""The help of the chat and of the replay: keys, commands, and what the figures mean."""

from collections.abc import Iterable
from textwrap import wrap
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ..state.slash_commands import USAGE
from ..ui.base_app import BaseApp
from ..widgets.header import SPEEDUP_MEANING

# Ids of actions in these tables are shown as their keys.
_WALKING = "chat.step_before and chat.step_after"
_CHAT_KEYS = (
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
_REPLAY_KEYS = (
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
_REPLAY_TIME = (
    "At 1x every step takes the time it took when it was recorded, reading the prompt included. "
    "What passed between an answer and the next prompt is cut to a second and a half."
)
_TINTS = (
    ("bold $bonus", "bonus: drawn by the target itself"),
    ("$rank-1", "the draft's first guess"),
    ("underline $rank-2", "its second"),
    ("underline italic $rank-3", "its third or later"),
)
_WIDEST = 120
"""Columns, as in the style sheet."""
_FRAME_CELLS = 8
"""Frame, padding and scroll bar."""
_LEAST_ROOM = 28


class HelpScreen(ModalScreen[None]):
    """The help of the chat, which goes on decoding behind it."""

    app: BaseApp
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
        """Wrap the text to the width."""
        width = max(_LEAST_ROOM, min(_WIDEST, self.size.width * 96 // 100) - _FRAME_CELLS)
        self.query_one(Static).update(Content("\n").join(self._lines(width)))

    def _lines(self, width: int) -> Iterable[Content]:
        keys = self.app.keys
        yield from self._keys(_CHAT_KEYS, width)
        yield from (Content(""), _heading("Commands"))
        yield from _table([(usage, keys.shown(told)) for usage, told in USAGE], width)
        yield from (Content(""), _heading(keys.shown("Tints, chat.tint")))
        yield from (Content.assemble("  ", (text, style)) for style, text in _TINTS)
        yield from _paragraph("x plain", SPEEDUP_MEANING, width)

    def _keys(self, meanings: tuple[tuple[str, str], ...], width: int) -> Iterable[Content]:
        shown = self.app.keys.shown
        rows = [(shown(names, every=names == _WALKING), meaning) for names, meaning in meanings]
        yield _heading("Keys")
        yield from _table(rows, width)


class ReplayHelp(HelpScreen):
    """The help of the replay, which goes on behind it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,enter,question_mark", "dismiss", "Close", show=False,
                id="help.close"),
    ]  # fmt: skip

    def _lines(self, width: int) -> Iterable[Content]:
        yield from self._keys(_REPLAY_KEYS, width)
        yield from _paragraph("Time", _REPLAY_TIME, width)
        yield from _paragraph("x plain", SPEEDUP_MEANING, width)


def _heading(text: str) -> Content:
    return Content.styled(text, "bold $primary")


def _paragraph(heading: str, text: str, width: int) -> Iterable[Content]:
    yield from (Content(""), _heading(heading))
    yield from (Content("  " + line) for line in wrap(text, max(1, width - 2)))


def _table(rows: list[tuple[str, str]], width: int) -> Iterable[Content]:
    """Names in a column, and meanings next to them, or below them if there is no room."""
    column = max(len(name) for name, _ in rows) + 4
    beside = width - column >= _LEAST_ROOM
    indent = column if beside else 6
    for name, meaning in rows:
        first, *rest = wrap(meaning, max(1, width - indent)) or [""]
        if beside:
            yield Content.assemble("  ", (name.ljust(column - 2), "bold"), first)
        else:
            yield Content.assemble("  ", (name, "bold"))
            rest = [first, *rest]
        yield from (Content(" " * indent + line) for line in rest)
