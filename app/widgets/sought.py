"""Where the words of a search stand in what is drawn, and how they are marked there.

Drawn lines are not what was written: Markdown is gone and long lines are wrapped, so words are
looked for again in them. Pure; which entry is looked at is the transcript's.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from ..present.markdown import Lines
from ..store.excerpt import fullest
from ..store.matching import Term, answers, hits

_Place = tuple[int, int, int]
"""Number of a line, the first character of a hit in it and the one behind the last."""
_CLOSE = 80
"""Characters within which words stand together, about as many as an excerpt has."""


def occurring(text: str, wanted: Sequence[Term]) -> int:
    """How much of what is wanted occurs in a text."""
    return sum(answers(text, (term,)) for term in wanted)


def spot(texts: Sequence[str], wanted: Sequence[Term]) -> tuple[int, float] | None:
    """Where most of what is wanted stands together, the first such place.

    Args:
        texts: the parts of a text.
        wanted: what was searched for.

    Returns:
        Number of the part, and the share of it that comes before; None where nothing is found.
    """
    spans = hits("\n".join(texts), wanted)
    if not spans:
        return None
    before = fullest(spans, _CLOSE)
    for at, text in enumerate(texts[:-1]):
        if before <= len(text):
            return at, before / max(1, len(text))
        before -= len(text) + 1
    return len(texts) - 1, before / max(1, len(texts[-1]))


def line_of(lines: Lines, wanted: Sequence[Term], share: float) -> int:
    """The line of a hit.

    Args:
        lines: a part of a text as it is drawn.
        wanted: what was searched for.
        share: of the part, that comes before the hit in what was written; of several hits in what
            is drawn it is the nearest, and it says where the line is if there is none.
    """
    guess = share * len(lines)
    found = [row for row, _, _ in _places(lines, wanted)]
    return min(
        found or [min(int(guess), max(0, len(lines) - 1))], key=lambda row: abs(row + 0.5 - guess)
    )


def mark(lines: Lines, wanted: Sequence[Term], style: Style) -> Lines:
    """The lines with all that is wanted in a style."""
    marked = list(lines)
    for row, start, end in _places(lines, wanted):
        text = _text(lines[row])
        cuts = [cell_len(text[:at]) for at in (start, end, len(text))]
        before, hit, after = Segment.divide(marked[row], cuts)
        marked[row] = [*before, *Segment.apply_style(hit, post_style=style), *after]
    return marked


def _places(lines: Lines, wanted: Sequence[Term]) -> list[_Place]:
    """Where hits are, in order."""
    rows = [_text(line) for line in lines]
    # a line ends between two words, but anywhere in a script that has no blanks between them
    spaced = _found(rows, [term for term in wanted if term.written], " ")
    solid = _found(rows, [term for term in wanted if not term.written], "")
    return sorted({*spaced, *solid})


def _found(rows: Sequence[str], wanted: Sequence[Term], glue: str) -> Iterator[_Place]:
    """Hits in a text of rows, whose indents and ends say nothing."""
    parts = [row.strip() for row in rows]
    starts = list(accumulate((len(part) + len(glue) for part in parts), initial=0))
    for first, last in hits(glue.join(parts), wanted):
        for at, (row, part, start) in enumerate(zip(rows, parts, starts, strict=False)):
            begin, end = max(first - start, 0), min(last - start, len(part))
            if begin < end:
                lead = len(row) - len(row.lstrip())
                yield at, lead + begin, lead + end


def _text(line: Sequence[Segment]) -> str:
    return "".join(part.text for part in line)
