"""Overlap of reading and computing in an offloaded model, as numbers and as text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter
from typing import Any

from sequoia_core.model.offload.model import LayerStream

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
WIDTH = 88
"""Columns of a drawing."""


class Activity(StrEnum):
    READ = "read"
    WAIT = "wait"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """One activity with one layer; begin and end in seconds of `time.perf_counter`."""

    activity: Activity
    layer: int
    began: float
    ended: float


def watch(stream: LayerStream, report: Callable[[Span], None]) -> None:
    """Report every span of a stream from now on, in the thread that computes."""
    load, iterate = stream.loader.load, stream.iterate
    read: dict[int, Span] = {}

    def timed_load(layer: int, slot: int) -> None:
        began = perf_counter()
        load(layer, slot)
        read[layer] = Span(Activity.READ, layer, began, perf_counter())

    def timed(items: Sequence[Any]) -> Iterator[Any]:
        began = perf_counter()
        for layer, item in enumerate(iterate(items)):
            entered = perf_counter()
            if layer in read:
                report(read.pop(layer))
            report(Span(Activity.WAIT, layer, began, entered))
            yield item
            began = perf_counter()
            report(Span(Activity.COMPUTE, layer, entered, began))

    stream.loader.load = timed_load  # type: ignore[method-assign]
    stream.iterate = timed  # type: ignore[method-assign]


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
