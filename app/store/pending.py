"""What waits to be written: events of growing answers, packed some at a time, and operations.

If the file cannot be written for long, steps are dropped, which are nearly all of the memory.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sequoia_core.events import Event, Failed, Finished, Step

from ..state.stats import Statistics
from .digest import Digest
from .operations import AnswerEnded, ChunkWritten, Operation, StepsDropped
from .packing import pack_events

CLOSED = "stopped: the program was closed in the middle of this answer"
MOST_BYTES = 64 << 20
"""Of packed events; some 30,000 steps."""


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event of an answer; with the event that ends it, `statistics` after its last step."""

    exchange: str
    event: Event
    statistics: Statistics | None = None


@dataclass(slots=True)
class _Answer:
    digest: Digest = field(default_factory=Digest)
    steps: int = 0
    chunks: int = 0
    events: list[Event] = field(default_factory=list)


class GrowingAnswers:
    """All answers of a window that have not ended."""

    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}

    def add(self, received: EventReceived) -> Iterator[Operation]:
        """Take in an event; what is to be written now if it ended the answer."""
        answer = self._answers.setdefault(received.exchange, _Answer())
        answer.events.append(received.event)
        answer.digest.add(received.event, answer.steps)
        answer.steps += isinstance(received.event, Step)
        if isinstance(received.event, Finished | Failed):
            yield from self._end(received.exchange, received.statistics)

    def pack(self) -> Iterator[Operation]:
        """The events since the last call."""
        for exchange in self._answers:
            yield from self._pack(exchange)

    def end(self) -> Iterator[Operation]:
        """End the answers that are unfinished when the app is closed."""
        for exchange in list(self._answers):
            yield from self._end(exchange, None)

    def _end(self, exchange: str, statistics: Statistics | None) -> Iterator[Operation]:
        yield from self._pack(exchange)
        digest = self._answers.pop(exchange).digest
        digest.statistics = statistics
        digest.close(CLOSED)
        yield AnswerEnded.of(exchange, digest, time.time())

    def _pack(self, exchange: str) -> Iterator[Operation]:
        answer = self._answers[exchange]
        if answer.events:
            steps = sum(isinstance(event, Step) for event in answer.events)
            yield ChunkWritten(exchange, answer.chunks, steps, pack_events(answer.events))
            answer.chunks += 1
            answer.events = []


class Pending:
    """Operations that are not written yet. Filled and emptied by the writer's thread.

    Attributes:
        dropped: of how many answers the steps were dropped since all was written last.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._bytes = 0
        self._stepless: set[str] = set()

    @property
    def operations(self) -> Sequence[Operation]:
        """All of them; for the writer's thread."""
        return self._operations

    def add(self, *operations: Operation) -> None:
        """Add what is to be written."""
        with self._lock:
            for operation in operations:
                match operation:
                    case ChunkWritten(exchange, events=events):
                        if exchange in self._stepless:
                            continue
                        self._bytes += len(events)
                    case AnswerEnded(exchange):
                        self._stepless.discard(exchange)
                self._operations.append(operation)

    def clear(self) -> None:
        """All of it was written, or will never be."""
        with self._lock:
            self._operations = []
            self._bytes = self.dropped = 0

    def chunks(self, exchange: str) -> list[ChunkWritten] | None:
        """Packed events of an exchange, or None if steps were dropped; for any thread."""
        with self._lock:
            operations = self._operations[:]
            dropped = exchange in self._stepless
        if dropped or StepsDropped(exchange) in operations:
            return None
        return [
            each
            for each in operations
            if isinstance(each, ChunkWritten) and each.exchange == exchange
        ]

    def shorten(self) -> bool:
        """Drop the steps of the oldest answers until the rest fits into `MOST_BYTES`.

        An answer keeps all of its steps or none. Its text and its figures are written when it ends.

        Returns:
            Whether any were dropped.
        """
        dropped = 0
        with self._lock:
            while self._bytes > MOST_BYTES:
                oldest = next(each for each in self._operations if isinstance(each, ChunkWritten))
                self._drop_steps(oldest.exchange)
                dropped += 1
            self.dropped += dropped
        return dropped > 0

    def _drop_steps(self, exchange: str) -> None:
        kept: list[Operation] = []
        growing = True
        for each in self._operations:
            if isinstance(each, ChunkWritten) and each.exchange == exchange:
                self._bytes -= len(each.events)
                continue
            growing = growing and not (isinstance(each, AnswerEnded) and each.exchange == exchange)
            kept.append(each)
        self._operations = [*kept, StepsDropped(exchange)]
        if growing:
            self._stepless.add(exchange)
