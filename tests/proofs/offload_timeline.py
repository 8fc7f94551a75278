"""Overlap of reading and computing in an offloaded model, as numbers and as text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from time import perf_counter
from typing import Any, Protocol

import torch

from sequoia_core.model.offload.model import GpuLoader, LayerLoader, LayerStream

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
WIDTH = 88
"""Columns of a drawing."""


class Activity(StrEnum):
    READ = "read"
    WAIT = "wait"
    COMPUTE = "compute"


@dataclass(frozen=True, slots=True)
class Span:
    """One activity with one layer; begin and end in seconds of a `Clock`."""

    activity: Activity
    layer: int
    began: float
    ended: float


class Clock(Protocol):
    def mark(self) -> Any:
        """Now, for `seconds`."""

    def seconds(self, mark: Any) -> float:
        """When a mark was made."""


class HostClock:
    def mark(self) -> float:
        return perf_counter()

    def seconds(self, mark: float) -> float:
        return mark


class DeviceClock:
    """A mark is made when the device comes to it, in the stream that is the current one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = self.mark()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, mark: torch.cuda.Event) -> float:
        mark.synchronize()
        return float(self._first.elapsed_time(mark)) / 1e3


def watch(stream: LayerStream, report: Callable[[Span], None]) -> None:
    """Report every span of a stream from now on, pass by pass, in the thread that computes.

    On a GPU copies and products are timed by the device itself; the host only issues them.
    """
    loader, iterate = stream.loader, stream.iterate
    clock: Clock = HostClock()
    if isinstance(loader, GpuLoader):
        clock = DeviceClock(loader.device)
    read = _read_layers(loader, clock)

    def timed(items: Sequence[Any]) -> Iterator[Any]:
        marks: list[tuple[Activity, int, Any, Any]] = []
        began = clock.mark()
        for layer, item in enumerate(iterate(items)):
            entered = clock.mark()
            if layer in read:
                marks.append((Activity.READ, layer, *read.pop(layer)))
            marks.append((Activity.WAIT, layer, began, entered))
            yield item
            began = clock.mark()
            marks.append((Activity.COMPUTE, layer, entered, began))
        for activity, layer, first, last in marks:
            report(Span(activity, layer, clock.seconds(first), clock.seconds(last)))

    stream.iterate = timed  # type: ignore[method-assign]


def _read_layers(loader: LayerLoader, clock: Clock) -> dict[int, tuple[Any, Any]]:
    """By layer, marks of the begin and the end of its last load; of a GPU, of the copy alone."""
    read: dict[int, tuple[Any, Any]] = {}
    load, loading = loader.load, [0]

    def timed(work: Callable[..., None], *given: Any) -> None:
        began = clock.mark()
        work(*given)
        read[loading[0]] = began, clock.mark()

    if isinstance(loader, GpuLoader):
        loader.copy = partial(timed, loader.copy)  # type: ignore[method-assign]
    else:
        load = partial(timed, load)

    def numbered(layer: int, slot: int) -> None:
        loading[0] = layer
        load(layer, slot)

    loader.load = numbered  # type: ignore[method-assign]
    return read


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
