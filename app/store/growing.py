"""The answers that are being written: their events, packed some at a time, and at last a digest.

Owns what is made of events; knows neither thread nor database. Who writes the operations asks for
them when it is time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sequoia_core.events import Event, Failed, Finished, Step

from ..state.stats import Statistics
from .operations import Ended, Operation, Told, now
from .packing import Digesting, pack_events

CLOSED = "stopped: the program was closed in the middle of this answer"


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of an answer; `statistics` as of the last step, with the event that ends it."""

    exchange: str
    event: Event
    statistics: Statistics | None = None


@dataclass(slots=True)
class _Answer:
    """One of them."""

    digesting: Digesting = field(default_factory=Digesting)
    chunks: int = 0
    events: list[Event] = field(default_factory=list)


class Growing:
    """All answers of a window that have not ended."""

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}

    def add(self, happened: Happened) -> Iterator[Operation]:
        """Take in an event; what is to be written at once, if it ended the answer."""
        answer = self._answers.setdefault(happened.exchange, _Answer())
        answer.events.append(happened.event)
        answer.digesting.add(happened.event)
        if isinstance(happened.event, Finished | Failed):
            yield from self._end(happened.exchange, happened.statistics)

    def pack(self) -> Iterator[Operation]:
        """What has happened since the last call."""
        for exchange in self._answers:
            yield from self._pack(exchange)

    def end(self) -> Iterator[Operation]:
        """End what the closing of the app leaves unfinished."""
        for exchange in list(self._answers):
            yield from self._end(exchange, None)

    def _end(self, exchange: str, statistics: Statistics | None) -> Iterator[Operation]:
        yield from self._pack(exchange)
        digest = self._answers.pop(exchange).digesting.digest(statistics, CLOSED)
        yield Ended.of(exchange, digest, now())

    def _pack(self, exchange: str) -> Iterator[Operation]:
        answer = self._answers[exchange]
        if answer.events:
            steps = sum(isinstance(event, Step) for event in answer.events)
            yield Told(exchange, answer.chunks, steps, pack_events(answer.events))
            answer.chunks += 1
            answer.events = []
