"""The help of the chat, the replay and the race: keys, commands, and what the figures mean."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import wrap

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from sequoia_core.files import parse_toml

from ..config.actions import actions, bindings
from ..state.slash_commands import USAGE
from ..ui.base_app import BaseApp
from ..widgets.header import FIGURES_MEANING
from .explain import GLOSSARY

_KEYS = parse_toml(Path(__file__).with_name("help_keys.toml").read_text("utf-8"))
_REPLAY_TIME = (
    "At 1x every step takes the time it took when it was recorded, reading the prompt included. "
    "The time between an answer and the next prompt is cut to a second and a half."
)
_RACE = (
    "Both lanes answer the same prompt with the same target. They take turns on the machine, and "
    "each clock counts only its own work, from the first token on: reading the prompt is not "
    "counted.",
    "The speeds are compared while both run. At temperature 0 both texts are the target's own, so "
    "they are compared token by token; above it each lane draws its own text at random.",
    "/race A vs B races two modes, tree shapes or drafts; chat.race races what stands in the "
    "prompt, or the last message. The chat is not changed.",
)
_TINTS = (
    ("bold $bonus", "written by the target itself"),
    ("$rank-1", "the draft's 1st guess"),
    ("underline $rank-2", "its 2nd guess"),
    ("underline italic $rank-3", "its 3rd or a later guess"),
    ("italic $foreground", "looked up: copied from an earlier place in the chat"),
)
_WIDEST = 120  # columns, as in the style sheet
_FRAME_CELLS = 8  # frame, padding and scroll bar
_LEAST_ROOM, _INDENT = 28, 6  # cells of a meaning, and of what is left of it


class HelpScreen(ModalScreen[None]):
    app: BaseApp
    BINDINGS = bindings("help")

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help") as scroll:
            scroll.border_title, scroll.border_subtitle = "Help", "esc closes"
            yield Static("", markup=False)

    def on_resize(self) -> None:
        width = max(_LEAST_ROOM, min(_WIDEST, self.size.width * 96 // 100) - _FRAME_CELLS)
        self.query_one(Static).update(Content("\n\n").join(self._sections(width)))

    def _sections(self, width: int) -> Iterable[Content]:
        shown = self.app.keys.shown
        commands = [(usage, shown(text)) for usage, text in USAGE]
        yield _section("Keys", _table(self._keys("chat"), width))
        yield _section("Commands", _table(commands, width))
        yield _section(shown("Tints, chat.tint"), _tints())
        yield from _meanings(width)

    def _keys(self, where: str) -> Sequence[tuple[str, str]]:
        rows: list[tuple[str, str]] = []
        for each in _KEYS[where]:
            rows += self._of_context(each) if isinstance(each, str) else [each]
        return rows

    def _of_context(self, context: str) -> Iterable[tuple[str, str]]:
        for each in actions(context):
            if each.keys and each.help and not each.listed_with:
                also = [other.id for other in actions(context) if other.listed_with == each.id]
                names = ", ".join([each.id, *also])
                most = 2 if each.id in ("chat.step_before", "prompt.new_line") else 1
                yield self.app.keys.shown(names, most=most), each.help


class ReplayHelp(HelpScreen):
    """Of a `replay` or the `demo`."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self._of = of

    def _sections(self, width: int) -> Iterable[Content]:
        yield _section("Keys", _table(self._keys(self._of), width))
        yield _section("Time", _paragraph(_REPLAY_TIME, width))
        yield from _meanings(width)


class RaceHelp(HelpScreen):
    def _sections(self, width: int) -> Iterable[Content]:
        shown = self.app.keys.shown
        yield _section("Keys", _table(self._keys("race"), width))
        yield _section("The race", _paragraphs(map(shown, _RACE), width))
        yield _section(shown("Tints, race.tint"), _tints())
        yield from _meanings(width)


def _tints() -> Iterable[Content]:
    return (Content.assemble("  ", (text, style)) for style, text in _TINTS)


def _meanings(width: int) -> Iterable[Content]:
    yield _section("Figures", _paragraphs(FIGURES_MEANING, width))
    yield _section("Glossary", _table(list(GLOSSARY.items()), width))


def _section(heading: str, lines: Iterable[Content]) -> Content:
    return Content("\n").join([Content.styled(heading, "bold $primary"), *lines])


def _paragraph(text: str, width: int) -> Iterable[Content]:
    return (Content("  " + line) for line in wrap(text, max(1, width - 2)))


def _paragraphs(texts: Iterable[str], width: int) -> Iterable[Content]:
    return (line for text in texts for line in _paragraph(text, width))


def _table(rows: Sequence[tuple[str, str]], width: int) -> Iterable[Content]:
    """Names in a column, and meanings next to them, or below one that is too long for it."""
    column = min(max(len(name) for name, _ in rows) + 4, max(_INDENT, width - _LEAST_ROOM))
    for name, meaning in rows:
        lines = wrap(meaning, max(1, width - column))
        fits = len(name) + 4 <= column
        label = name.ljust(column - 2) if fits else name
        yield Content.assemble("  ", (label, "bold"), lines.pop(0) if fits else "")
        yield from (Content(" " * column + line) for line in lines)
