"""Frames stay in their columns on terminals that disagree about the width of characters."""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import rich._unicode_data
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import get_character_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.strip import Strip

from app.ui.columns import UNCERTAIN, hold_columns, steady

FAMILY = "👨\u200d👩\u200d👧\u200d👦"
CLUSTERS = [
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "👍🏿",
    "👩🏽\u200d🚀",
    FAMILY,
    "नि",
    "या",
    "🫩",
    "🇩🇪",
    "Z͑ͫ",
    "⌚",
    "\u200b",
]
BOLD = Style(bold=True)
_SEQUENCE = re.compile(r"\x1b\[([\d;]*)([A-Za-z])|\x1b([78])")


class Screen:
    """One row of a terminal that has its own idea of widths.

    Args:
        width: cells that it gives to a character.
        cells: of the row.
    """

    def __init__(self, width: Callable[[str], int], cells: int) -> None:
        self._width = width
        self.row = ["?"] * cells  # what was there before
        self._at = self._saved = 0

    def write(self, text: str) -> "Screen":
        at = 0
        while at < len(text):
            if found := _SEQUENCE.match(text, at):
                self._obey(found)
                at = found.end()
            else:
                self._put(text[at])
                at += 1
        return self

    def _obey(self, found: re.Match[str]) -> None:
        if found[3] == "7":
            self._saved = self._at
        elif found[3] == "8":
            self._at = self._saved
        elif found[2] == "C":
            self._at = min(self._at + int(found[1]), len(self.row) - 1)
        else:
            assert found[2] == "m"

    def _put(self, character: str) -> None:
        for _ in range(self._width(character)):
            self.row[min(self._at, len(self.row) - 1)] = character
            self._at += 1

    @property
    def frames(self) -> list[int]:
        return [at for at, cell in enumerate(self.row) if cell == "│"]


def line(*texts: str) -> Strip:
    return Strip([Segment(text, BOLD if at % 2 else None) for at, text in enumerate(texts)])


def shown(strip: Strip, width: Callable[[str], int], after: int = 4) -> Screen:
    """The row after the line was written, and cells of another widget after it."""
    return Screen(width, strip.cell_length + after).write(steady(strip, ColorSystem.TRUECOLOR))


def narrow(character: str) -> int:
    """Terminals of old: no character but the oldest wide ones takes two cells."""
    return 0 if unicodedata.category(character)[0] in "MC" else 1


def broad(character: str) -> int:
    """A terminal that draws each part of a sequence by itself."""
    if UNCERTAIN.match(character) is None:
        return get_character_cell_size(character)
    if unicodedata.category(character) in ("Mn", "Me") and character != "\ufe0f":
        return 0
    return 2 if ord(character) >= 0x1F000 else 1


WIDTHS = [narrow, broad, get_character_cell_size]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_what_stands_behind_a_cluster_stays_in_its_column(
    width: Callable[[str], int], cluster: str
) -> None:
    strip = line("│ a ", cluster, " b" + " " * 20, "│")
    screen = shown(strip, width)
    assert screen.frames == [0, strip.cell_length - 1]
    assert screen.row[-4:] == ["?"] * 4
    assert "?" not in screen.row[:-4]  # nothing is left of what was there before
    assert "b" in screen.row


@pytest.mark.parametrize("width", WIDTHS)
def test_blanks_between_words_are_no_columns(width: Callable[[str], int]) -> None:
    strip = line("│ ", "या" * 4 + "  b", " " * 20, "│")
    screen = shown(strip, width)
    assert screen.frames == [0, strip.cell_length - 1]
    assert "".join(screen.row).count("य") == 4
    assert "b" in screen.row


@given(
    st.lists(st.sampled_from([*CLUSTERS, "a", "bc ", "東京 ", "  ", "─"]), max_size=12),
    st.integers(0, 6),
    st.sampled_from(WIDTHS),
)
@settings(deadline=None)
def test_no_line_runs_into_what_stands_beside_it(
    texts: list[str], room: int, width: Callable[[str], int]
) -> None:
    if width is narrow:  # it would not draw these right even alone
        texts = [text for text in texts if not text.startswith("東")]
    strip = line("│", *texts, " " * room, "│")
    screen = shown(strip, width)
    assert screen.frames == [0, strip.cell_length - 1]
    assert screen.row[-4:] == ["?"] * 4


def test_a_line_without_uncertain_characters_is_left_to_textual() -> None:
    plain, odd = line("│ plain 東京 ✔ ", "text │"), line("│ odd ❤\ufe0f ", "text │")
    console = Console(color_system="truecolor", force_terminal=True)
    hold_columns(LayoutUpdate([[plain, odd]], Region(0, 0, 40, 1)), console)
    assert plain._render_cache is None
    assert odd._render_cache == steady(odd, ColorSystem.TRUECOLOR)


@pytest.mark.parametrize("span", [(0, 12), (5, 6), (0, 40)])
def test_a_line_with_uncertain_characters_is_painted_whole(span: tuple[int, int]) -> None:
    strip = line("│ odd ❤\ufe0f ", "text and more of it", " │")
    after = line("another widget")
    ends = [strip.cell_length, strip.cell_length + after.cell_length]
    update = ChopsUpdate([{0: strip, ends[0]: after}], [(0, *span)], [ends])
    console = Console(color_system="truecolor", force_terminal=True)
    hold_columns(update, console)
    written = update.render_segments(console)
    assert steady(strip, ColorSystem.TRUECOLOR) in written
    assert ("another" in written) == (span[1] > ends[0])


def test_parts_of_other_lines_are_painted_as_before() -> None:
    strip = line("│ plain ", "text and more of it", " │")
    update = ChopsUpdate([{0: strip}], [(0, 5, 6)], [[strip.cell_length]])
    hold_columns(update, Console(color_system="truecolor", force_terminal=True))
    assert update.spans == [(0, 5, 6)]


def test_uncertain_are_all_whose_width_changed_or_depends_on_others() -> None:
    folder = Path(rich._unicode_data.__file__).parent
    versions = [each.stem[7:].replace("-", ".") for each in folder.glob("unicode*.py")]
    missed = []
    for code in range(0xA0, 0x20000):
        character = chr(code)
        if UNCERTAIN.match(character) is not None:
            continue
        widths = {get_character_cell_size.__wrapped__(character, each) for each in versions}
        depends = unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf", "Cs", "Co")
        if len(widths) > 1 or 0 in widths or depends:
            missed.append(f"{code:x}")
    assert missed == []


@pytest.mark.parametrize(
    "text", ["plain text", "Größe", "Привет", "東京タワー", "한국어", "│─▇▁", "✔✘➜●·…“”"]
)
def test_common_text_is_certain(text: str) -> None:
    assert UNCERTAIN.search(text) is None
