"""Matches of a search in drawn text.

Drawn lines differ from the source: Markdown is gone and long lines are wrapped, so the terms are
searched again in the lines.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from ..present.markdown import Lines
from ..store.text_search import Term, answers, fullest, hits

_Match = tuple[int, int, int]
"""A line number, first character and end of a match in that line."""
_CLOSE = 80
"""Characters within which matches stand together, about the length of an excerpt."""


def count_found(text: str, terms: Sequence[Term]) -> int:
    """How many of the terms occur in a text."""
    return sum(answers(text, (term,)) for term in terms)


def find_densest(texts: Sequence[str], terms: Sequence[Term]) -> tuple[int, float] | None:
    """Where in the parts of a text most matches stand together, at first if several times.

    Returns:
        Index of the part, and the share of it before the place; None where nothing matches.
    """
    spans = hits("\n".join(texts), terms)
    if not spans:
        return None
    before = fullest(spans, _CLOSE)
    for at, text in enumerate(texts[:-1]):
        if before <= len(text):
            return at, before / max(1, len(text))
        before -= len(text) + 1
    return len(texts) - 1, before / max(1, len(texts[-1]))


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


def _matches(lines: Lines, terms: Sequence[Term]) -> list[_Match]:
    """All matches in order, those that go over the end of a line as one per line."""
    rows = [_text(line) for line in lines]
    # A line ends between two words, but anywhere in a script without blanks between words.
    spaced = _matches_joined(rows, [term for term in terms if term.words], " ")
    solid = _matches_joined(rows, [term for term in terms if not term.words], "")
    return sorted({*spaced, *solid})


def _matches_joined(rows: Sequence[str], terms: Sequence[Term], joint: str) -> Iterator[_Match]:
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
