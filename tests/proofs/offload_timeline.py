"""Overlap of reading and computing in an offloaded model, as numbers and as text."""

from collections.abc import Sequence
from dataclasses import dataclass

from sequoia_core.model.offload.layer_stream import Activity, Span

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
WIDTH = 88
"""Columns of a drawing."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Seconds in which layers were read, computed, both at once, or waited for."""

    reading: float
    computing: float
    both: float
    waiting: float

    @classmethod
    def of(cls, spans: Sequence[Span]) -> "Overlap":
        by = {each: [s for s in spans if s.activity is each] for each in Activity}
        return cls(
            reading=_seconds(by[Activity.READ]),
            computing=_seconds(by[Activity.COMPUTE]),
            both=sum(
                max(0.0, min(one.ended, other.ended) - max(one.began, other.began))
                for one in by[Activity.READ]
                for other in by[Activity.COMPUTE]
            ),
            waiting=_seconds(by[Activity.WAIT]),
        )

    @property
    def hidden(self) -> float:
        """Share of the shorter of reading and computing that lies within the other."""
        shorter = min(self.reading, self.computing)
        return self.both / shorter if shorter else 0.0


def draw(spans: Sequence[Span], began: float, ended: float, width: int = WIDTH) -> list[str]:
    """Lines `read`, `wait` and `compute`, a column each `(ended - began) / width` seconds.

    A column shows the layer, as one character, that took most of it; a dot where there was none.
    """
    lines = []
    length = (ended - began) / width
    for activity in Activity:
        mine = [span for span in spans if span.activity is activity]
        cells = [_cell(mine, began + length * at, length) for at in range(width)]
        lines.append(f"{activity.value:<8}{''.join(cells)}")
    return lines


def _cell(spans: Sequence[Span], began: float, length: float) -> str:
    shares = {span: min(span.ended, began + length) - max(span.began, began) for span in spans}
    longest = max(shares, key=shares.__getitem__, default=None)
    if longest is None or shares[longest] < length / 4:
        return "·"
    return DIGITS[longest.layer % len(DIGITS)]


def _seconds(spans: Sequence[Span]) -> float:
    return sum(span.ended - span.began for span in spans)
