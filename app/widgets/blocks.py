"""Blocks of lines, which can be drawn and dropped again, and the matches of a search in them."""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..present.markdown import Lines
from ..store.text_search import Term, fullest, hits
from .transcript_styles import Look

_CONSOLE = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)
_CLOSE = 80  # characters within which matches stand together, about the length of an excerpt

Draw = Callable[[str, int, Look], Lines]  # makes the lines of a text at a width


class Block:
    """Lines of the transcript; their number is known once they were drawn, until then estimated."""

    __slots__ = ("_draw", "_lines", "_look", "_width", "text")

    def __init__(self, text: str, draw: Draw) -> None:
        self.become(text, draw)

    def become(self, text: str, draw: Draw) -> None:
        self.text, self._draw = text, draw
        self._lines: Lines = []
        self._width = -1  # nothing is drawn
        self._look: Look | None = None

    def measured(self, width: int) -> bool:
        """Whether the height at this width is exact."""
        return self._width == width

    def height(self, width: int) -> int:
        return len(self._lines) if self.measured(width) else estimate_height(self.text, width)

    def lines(self, width: int, look: Look) -> Lines:
        """The lines, drawn now if need be."""
        if self._width != width or self._look is not look:
            self._lines = self._draw(self.text, width, look)
            self._width, self._look = width, look
        return self._lines


def estimate_height(text: str, width: int) -> int:
    """About how many lines a text takes, with one below it."""
    room = max(1, width - 4)
    return 1 + sum(1 + len(line) // room for line in text.split("\n"))


def wrap(text: Text, width: int, hang: int = 0) -> Lines:
    """The text's lines, none wider than `width` cells.

    What is wrapped goes on at the column `hang`, where there is room for as much again.
    """
    text.expand_tabs(4)
    if hang and width >= 2 * hang:
        return [
            row for line in text.split("\n", allow_blank=True) for row in _hung(line, width, hang)
        ]
    lines = text.wrap(_CONSOLE, max(1, width), overflow="fold", no_wrap=False)
    return [list(line.render(_CONSOLE)) for line in lines]


def _hung(line: Text, width: int, hang: int) -> Lines:
    first, *others = wrap(line[hang:], width - hang) or [[]]
    before = list(line[:hang].render(_CONSOLE, end=""))
    return [[*before, *first], *([Segment(" " * hang), *row] for row in others)]


def indent(lines: Lines, mark: str, style: Style) -> Lines:
    """The lines behind a mark, with a style beneath their own."""
    return [[Segment(mark, style), *Segment.apply_style(line, style)] for line in lines]


def find_densest(texts: Sequence[str], terms: Sequence[Term]) -> tuple[int, float] | None:
    """Where in the parts of a text most matches stand together, at first if several times.

    Index of the part, and the share of it before the place; None where nothing matches.
    """
    spans = hits("\n".join(texts), terms)
    if not spans:
        return None
    before, at = fullest(spans, _CLOSE), 0
    while at < len(texts) - 1 and before > len(texts[at]):
        before -= len(texts[at]) + 1
        at += 1
    return at, before / max(1, len(texts[at]))


def match_line(lines: Lines, terms: Sequence[Term], share: float) -> int:
    """The line with the match nearest to a share of a part's source; without a match, that line."""
    expected = share * len(lines)
    found = [row for row, _, _ in _matches(lines, terms)]
    found = found or [min(int(expected), max(0, len(lines) - 1))]
    return min(found, key=lambda row: abs(row + 0.5 - expected))


def highlight(lines: Lines, terms: Sequence[Term], style: Style) -> Lines:
    """The lines with all matches in a style."""
    highlighted = list(lines)
    for row, start, end in _matches(lines, terms):
        text = _text(lines[row])
        cuts = [cell_len(text[:at]) for at in (start, end, len(text))]
        before, match, after = Segment.divide(highlighted[row], cuts)
        highlighted[row] = [*before, *Segment.apply_style(match, post_style=style), *after]
    return highlighted


def _matches(lines: Lines, terms: Sequence[Term]) -> list[tuple[int, int, int]]:
    """All matches in order: a line number, and the first character and the end in that line.

    One that goes over the end of a line is one in each.
    """
    rows = [_text(line) for line in lines]
    # A line ends between two words, but anywhere in a script without blanks between words.
    spaced = _matches_joined(rows, [term for term in terms if term.words], " ")
    solid = _matches_joined(rows, [term for term in terms if not term.words], "")
    return sorted({*spaced, *solid})


def _matches_joined(
    rows: Sequence[str], terms: Sequence[Term], joint: str
) -> Iterator[tuple[int, int, int]]:
    """Matches in the rows joined without their indents."""
    parts = [row.strip() for row in rows]
    starts = list(accumulate((len(part) + len(joint) for part in parts), initial=0))
    for first, last in hits(joint.join(parts), terms):
        for at, (row, part, start) in enumerate(zip(rows, parts, starts, strict=False)):
            begin, end = max(first - start, 0), min(last - start, len(part))
            if begin < end:
                indent = len(row) - len(row.lstrip())
                yield at, indent + begin, indent + end


def _text(line: Sequence[Segment]) -> str:
    return "".join(part.text for part in line)
