"""The printable tokens of an answer.

A chat of 50,000 tokens would hold as many objects and strings; packed, a token takes a dozen bytes
and its text.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload


@dataclass(frozen=True, slots=True)
class Span:
    """A token's printable text, where it came from and in which step."""

    text: str
    rank: int
    step: int


class PackedSpans(Sequence[Span]):
    """Spans that do not change any more.

    Args:
        spans: in order.

    Attributes:
        text: of all of them.
    """

    __slots__ = ("_ends", "_ranks", "_steps", "text")

    def __init__(self, spans: Iterable[Span]) -> None:
        known = list(spans)
        self.text = "".join(span.text for span in known)
        self._ends = array("I", accumulate(len(span.text) for span in known))
        self._ranks = array("I", (span.rank for span in known))
        self._steps = array("I", (span.step for span in known))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, at: int) -> Span: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Span]: ...

    def __getitem__(self, at: int | slice) -> Span | Sequence[Span]:
        if isinstance(at, slice):
            return [self._span(each) for each in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"no token {at} in an answer of {len(self)}")
        return self._span(place)

    def _span(self, at: int) -> Span:
        start = self._ends[at - 1] if at else 0
        return Span(self.text[start : self._ends[at]], self._ranks[at], self._steps[at])


def text_of(spans: Sequence[Span]) -> str:
    """The text of tokens."""
    return spans.text if isinstance(spans, PackedSpans) else "".join(span.text for span in spans)
