"""Answers that grow: their events are packed some at a time, and wait until they are written."""

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sequoia_core.events import Event, Step
from sequoia_core.text.detokenizer import well_formed

from ..state.answer import Answer
from .database import Operation, statements
from .packing import Digest, pack_digest, pack_events, without_steps

CLOSED = "stopped: the program was closed in the middle of this answer"
MOST_BYTES = 64 << 20  # of packed events; some 30,000 steps


@dataclass(frozen=True, slots=True)
class ChunkWritten:
    """The operation that writes packed events; lost if their exchange was deleted for good."""

    exchange: str
    number: int
    steps: int
    events: bytes

    def __call__(self, to: sqlite3.Connection) -> None:
        to.execute(
            "INSERT INTO chunk (exchange, number, steps, events) "
            "SELECT place, ?, ?, ? FROM exchange WHERE id = ?",
            (self.number, self.steps, self.events, self.exchange),
        )


def end_answer(exchange: str, digest: Digest, at: float) -> Operation:
    """An answer is complete; from now on it is found by its words."""
    return statements(
        "UPDATE exchange SET answer = :text, ending = :ending, digest = :digest, window = NULL "
        "WHERE id = :exchange",
        "UPDATE session SET changed = max(changed, :at) "
        "WHERE id = (SELECT session FROM exchange WHERE id = :exchange)",
        exchange=exchange, text=well_formed(digest.text), ending=digest.ending,
        digest=pack_digest(digest), at=at,
    )  # fmt: skip


def drop_steps(exchange: str) -> Operation:
    """An answer keeps all of its steps or none."""
    sql = "UPDATE chunk SET steps = 0 WHERE exchange = (SELECT place FROM exchange WHERE id = :id)"
    return statements(sql, id=exchange)


@dataclass(frozen=True, slots=True)
class EventReceived:
    exchange: str
    event: Event


@dataclass(slots=True)
class _Growing:
    answer: Answer = field(default_factory=lambda: Answer(""))  # without its steps
    events: list[Event] = field(default_factory=list)  # not packed yet
    chunks: int = 0


class GrowingAnswers:
    """All answers of a window that have not ended."""

    def __init__(self) -> None:
        self._growing: dict[str, _Growing] = {}

    def add(self, received: EventReceived) -> Iterator[Operation]:
        """Take in an event; what is to be written now if it ended the answer."""
        growing = self._growing.setdefault(received.exchange, _Growing())
        growing.events.append(received.event)
        growing.answer.add(received.event)
        if growing.answer.done:
            yield from self._end(received.exchange)
        else:
            growing.answer.forget_steps()

    def pack(self) -> Iterator[Operation]:
        """The events since the last call."""
        for exchange in self._growing:
            yield from self._pack(exchange)

    def end(self) -> Iterator[Operation]:
        """End the answers that are unfinished when the app is closed."""
        for exchange in list(self._growing):
            yield from self._end(exchange)

    def _end(self, exchange: str) -> Iterator[Operation]:
        yield from self._pack(exchange)
        digest = Digest.of(self._growing.pop(exchange).answer, CLOSED)
        yield end_answer(exchange, digest, time.time())

    def _pack(self, exchange: str) -> Iterator[Operation]:
        growing = self._growing[exchange]
        if growing.events:
            steps = sum(isinstance(event, Step) for event in growing.events)
            yield ChunkWritten(exchange, growing.chunks, steps, pack_events(growing.events))
            growing.chunks += 1
            growing.events = []


class Pending:
    """Operations that are not written yet. Filled and emptied by the writer's thread.

    Once `MOST_BYTES` of packed events wait, answers that bring more lose their steps and nothing
    else: their texts survive a kill.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.dropped = 0  # answers whose steps were since all was written last
        self._bytes = 0
        self._stepless: set[str] = set()

    def add(self, operation: Operation) -> None:
        if isinstance(operation, ChunkWritten):
            exchange = operation.exchange
            if exchange not in self._stepless:
                self._bytes += len(operation.events)
                if self._bytes > MOST_BYTES:
                    self._stepless.add(exchange)
                    self.dropped += 1
                    self.operations.append(drop_steps(exchange))
            if exchange in self._stepless:
                operation = replace(operation, steps=0, events=without_steps(operation.events))
                if not operation.events:
                    return
        self.operations.append(operation)

    def clear(self) -> None:
        """All of it was written, or will never be."""
        self.operations = []
        self._bytes = self.dropped = 0

    def chunks(self, exchange: str) -> list[ChunkWritten] | None:
        """Packed events of an exchange, or None if steps were dropped; for any thread."""
        waiting = [each for each in self.operations if isinstance(each, ChunkWritten)]
        chunks = [each for each in waiting if each.exchange == exchange]
        return None if exchange in self._stepless else chunks
