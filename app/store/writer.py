"""The one thread that writes: takes operations and events, and commits a few times a second.

What cannot be written is kept and tried again, so a locked file or a full disk costs only memory,
and of that no more than `pending.MOST_BYTES`. Handing something over never blocks.
"""

import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sequoia_core.files import make_private_folder

from .errors import StoreError, WriteProblem, explain
from .inbox import Closing, Demand, Inbox, Item
from .operations import ChunkWritten, Operation, SessionOpened
from .pending import MOST_BYTES, EventReceived, GrowingAnswers, Pending
from .schema import open_to_write, transaction
from .windows import LeftOpen, WindowLock, leave, recover

FLUSH_SECONDS = 0.04
"""Between two commits. The decode thread hands events over itself, so that a kill costs less than
100 ms of text whatever the screen does."""
RETRY_SECONDS = 2.0

_log = logging.getLogger("sequoia.store")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class WriteFailed:
    """Nothing can be written for now; the person should know."""

    message: str


@dataclass(frozen=True, slots=True)
class WriteRecovered:
    """Everything that waited is written."""

    message: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """Sessions that killed windows had open, the one last used first."""

    sessions: tuple[LeftOpen, ...]


News = WriteFailed | WriteRecovered | Recovered


class Writer:
    """Handle of the writer thread.

    Args:
        path: the database.

    Attributes:
        window: id of this window.
    """

    def __init__(self, path: Path) -> None:
        self.window = uuid4().hex
        self._path = path
        self._inbox = Inbox()
        self._news: deque[News] = deque()
        self._answers = GrowingAnswers()
        self._pending = Pending()
        self._items: list[Item] = []
        self._failure = ""
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock: WindowLock | None = None
        self._problem: WriteProblem | None = None
        self._retry_at = 0.0
        self._flushed_at = float("-inf")
        self._session: str | None = None
        self._thread = threading.Thread(target=self._run, name="sequoia-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, item: Operation | EventReceived) -> None:
        """Hand something over; it is written as soon as possible."""
        self._inbox.put(item)

    def ask(self, operation: Operation | None) -> "Future[None]":
        """Carry out an operation that a person waits for, after all that was put before.

        Args:
            operation: None only waits until the rest is packed, and written if possible.

        Returns:
            Ends when it is done, with a `StoreError` if it cannot be.
        """
        demand = Demand(operation)
        if not self._inbox.put(demand):
            demand.end(StoreError(self._inbox.refusal))
        return demand.done

    def settle(self, timeout: float) -> None:
        """Wait until what was handed over so far is packed, for at most so many seconds."""
        with suppress(StoreError, TimeoutError):
            self.ask(None).result(timeout)

    def news(self) -> list[News]:
        """The news since the last call, in order."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def unwritten_chunks(self, exchange: str) -> list[ChunkWritten] | None:
        """Packed events of an exchange that are not written yet; None if some were dropped."""
        return self._pending.chunks(exchange)

    def close(self, timeout: float) -> str:
        """Write the rest and end the thread.

        Returns:
            Why something could not be written, in one line; "" if all was.
        """
        if self._thread.ident is None:
            return ""
        self._inbox.put(Closing())
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"the disk takes too long to write {self._path}; the last messages may be lost"
        why = self._failure
        if self._pending.operations and self._problem is not None:
            why = self._problem.message
        return f"{why}; what was said since then is not saved" if why else ""

    # In the thread

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # an error of the record must never end the chat
            _log.exception("unexpected error in the writer thread")
            self._failure = f"the record failed unexpectedly: {' '.join(str(error).split())}"
            self._news.append(WriteFailed(f"{self._failure}; nothing is saved from now on"))
        finally:
            self._refuse(self._failure or "the record is closed")
            if self._connection is not None:
                self._connection.close()
            if self._lock is not None:
                self._lock.close()

    def _refuse(self, why: str) -> None:
        """Take nothing from now on, and end what is waited for."""
        for item in [*self._items, *self._inbox.refuse(why)]:
            if isinstance(item, Demand):
                item.end(StoreError(why))
        self._items = []
        if self._failure:
            self._pending.clear()
            self._answers = GrowingAnswers()

    def _work(self) -> None:
        self._attempt()
        closing = False
        while not closing:
            self._items = self._collect()
            closing = any(isinstance(item, Closing) for item in self._items)
            for item in self._items:
                self._take(item)
            self._pending.add(*(self._answers.end() if closing else self._answers.pack()))
            self._attempt(last=closing)
            for item in self._items:
                if isinstance(item, Demand):
                    self._meet(item)
            self._items = []
        if self._connection is not None and self._problem is None:
            self._leave(self._connection)

    def _collect(self) -> list[Item]:
        """The items until it is time to write again; none if it is time to retry."""
        items: list[Item] = []
        with suppress(queue.Empty):
            retries = self._problem is not None and self._problem.temporary
            items.append(self._inbox.get(_until(self._retry_at) if retries else None))
            while not isinstance(items[-1], Demand | Closing):
                items.append(self._inbox.get(_until(self._flushed_at + FLUSH_SECONDS)))
        return items

    def _take(self, item: Item) -> None:
        if isinstance(item, EventReceived):
            self._pending.add(*self._answers.add(item))
        elif isinstance(item, Operation):
            if isinstance(item, SessionOpened):
                self._session = item.session
            self._pending.add(item)

    def _attempt(self, *, last: bool = False) -> None:
        """Write what waits, unless that failed a moment ago."""
        problem = self._problem
        if problem is not None:
            due = time.monotonic() >= self._retry_at or last
            if not (problem.temporary and due):
                self._save_memory(problem)
                return
        try:
            if self._connection is None:
                self._connection = self._open()
            self._write(self._connection, self._pending.operations)
        except Exception as error:  # the thread must go on, whatever is in the file
            self._save_memory(self._note_problem(error))
            return
        dropped = self._pending.dropped
        self._pending.clear()
        self._flushed_at = time.monotonic()
        self._problem = None
        if problem is not None:
            answers = "an answer" if dropped == 1 else f"{dropped} answers"
            but = f" but the steps of {answers}" if dropped else ""
            message = f"the record can be written again; everything is saved{but}"
            self._news.append(WriteRecovered(message))

    def _save_memory(self, problem: WriteProblem) -> None:
        """Drop what exceeds the memory's bound; reported once, if the rest may yet be saved."""
        first = not self._pending.dropped
        if self._pending.shorten() and first and problem.temporary:
            message = (
                f"{problem.message}, and more than {MOST_BYTES >> 20} MiB wait to be saved: the "
                "steps of the oldest answers are dropped, the texts are kept"
            )
            self._news.append(WriteFailed(message))

    def _open(self) -> sqlite3.Connection:
        folder = self._path.parent / "windows"
        if self._lock is None:
            make_private_folder(self._path.parent)
            self._lock = WindowLock(folder, self.window)
        connection = open_to_write(self._path)
        try:
            with transaction(connection):
                left = recover(connection, folder)
                offered = left[0].session if left else None
                SessionOpened(self.window, self._session, offered).carry_out(connection)
            self._identity = _identity(self._path)
        except BaseException:
            connection.close()
            raise
        if left:
            self._news.append(Recovered(left))
        return connection

    def _write(self, connection: sqlite3.Connection, operations: Sequence[Operation]) -> None:
        if not operations:
            return
        if _identity(self._path) != self._identity:
            raise StoreError(f"{self._path} was moved away or replaced while it was open")
        with transaction(connection):
            for operation in operations:
                operation.carry_out(connection)

    def _note_problem(self, error: Exception) -> WriteProblem:
        problem = explain(error, self._path)
        if self._problem is None or self._problem.message != problem.message:
            _log.warning("%s: %s", type(error).__name__, error)
            self._news.append(WriteFailed(problem.line))
        self._problem = problem
        self._retry_at = time.monotonic() + RETRY_SECONDS
        return problem

    def _meet(self, demand: Demand) -> None:
        if demand.operation is None:
            demand.end()
        elif self._problem is not None:
            demand.end(StoreError(self._problem.message))
        else:
            try:
                assert self._connection is not None
                self._write(self._connection, [demand.operation])
            except StoreError as error:
                demand.end(error)
            except Exception as error:  # somebody waits for it
                demand.end(StoreError(explain(error, self._path).message))
            else:
                demand.end()

    def _leave(self, connection: sqlite3.Connection) -> None:
        try:
            with transaction(connection):
                leave(connection, self.window)
        except sqlite3.Error as error:
            _log.warning("leaving: %s", error)  # the next start puts it in order


def _until(moment: float) -> float:
    """Seconds until a moment of the monotonic clock; 0 if it is past."""
    return max(0.0, moment - time.monotonic())


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None for none."""
    try:
        status = os.stat(path)  # noqa: PTH116 as cheap as it gets, many times a second
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
