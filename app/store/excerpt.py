"""The part of a text around what was searched for, with the hits marked. Pure."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..state.sanitize import visible
from .matching import Term, hits

_BEFORE = 24
"""Characters of context before the first hit."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One line of a text.

    Attributes:
        parts: pieces that join to the line, and whether each is a hit.
    """

    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        """The line."""
        return "".join(text for text, _ in self.parts)


def excerpt(text: str, wanted: Sequence[Term], length: int) -> Excerpt | None:
    """The part of a text with the most hits on one line, control characters made visible.

    Args:
        text: as a person or a model wrote it.
        wanted: what was searched for.
        length: most characters of the excerpt.

    Returns:
        The excerpt, or None where nothing hits.
    """
    spans = hits(text, wanted)
    if not spans:
        return None
    first_hit = fullest(spans, length - _BEFORE)
    start = max(0, first_hit - _BEFORE)
    if start:
        blank = text.find(" ", start, first_hit)
        start = blank + 1 if blank >= 0 else start
    end = min(len(text), start + length)
    parts = [("… ", False)] if start else []
    at = start
    for first, last in spans:
        if last <= start:
            continue
        if first >= end:
            break
        parts += [(text[at:first], False), (text[first : min(last, end)], True)]
        at = min(last, end)
    parts.append((text[at:end], False))
    if end < len(text):
        parts.append((" …", False))
    return Excerpt(tuple((_one_line(part), hit) for part, hit in parts if part))


def fullest(spans: Sequence[tuple[int, int]], length: int) -> int:
    """Where the part of so many characters begins that holds the most hits; the first of them.

    Args:
        spans: beginnings and ends of at least one hit, in order.
        length: of the part.
    """
    beginnings = [start for start, _ in spans]
    counts = [
        bisect_right(beginnings, start + max(0, length)) - at for at, start in enumerate(beginnings)
    ]
    return beginnings[counts.index(max(counts))]


def _one_line(text: str) -> str:
    return visible(text.replace("\n", " ").replace("\t", " "))
