"""The one thread that writes: takes operations and events, and commits a few times a second."""

import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sequoia_core.errors import counted

from .database import Operation, StoreError, WriteProblem, explain, open_to_write, transaction
from .growing_answers import MOST_BYTES, EventReceived, GrowingAnswers, Pending
from .open_windows import LeftOpen, WindowLock, leave, open_session, recover

FLUSH_SECONDS = 0.04
"""Between two commits. The decode thread hands events over itself, so that a kill costs less than
100 ms of text whatever the screen does."""
RETRY_SECONDS = 2.0

_log = logging.getLogger("sequoia.store")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class WriteNews:
    message: str
    failed: bool = True  # else all can be written again


News = WriteNews | LeftOpen


@dataclass(frozen=True, slots=True)
class _Demand:
    """Something that is waited for."""

    operation: Operation | None  # carried out now or not at all; None waits for what was put before
    done: "Future[None]"


_Item = Operation | EventReceived | _Demand | None  # none is the last one


class Writer:
    """Keeps what cannot be written and tries again; handing something over never blocks."""

    def __init__(self, path: Path) -> None:
        self.window = uuid4().hex
        self.pending = Pending()
        self._path = path
        self._refusal = ""  # why nothing is taken any more
        self._handing_over = threading.Lock()
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._news: deque[News] = deque()
        self._answers = GrowingAnswers()
        self._items: list[_Item] = []
        self._failure = ""
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock: WindowLock | None = None
        self._problem: WriteProblem | None = None
        self._retry_at = 0.0
        self._flushed_at = float("-inf")
        self._thread = threading.Thread(target=self._run, name="sequoia-writer", daemon=True)
        self._thread.start()

    def put(self, item: _Item) -> bool:
        """Hand something over, to be written as soon as possible; returns whether it is taken."""
        with self._handing_over:
            if not self._refusal:
                self._inbox.put(item)
            return not self._refusal

    def ask(self, operation: Operation | None) -> "Future[None]":
        """Carry out an operation after all that was put before; ends with a StoreError if it fails.

        None only waits until the rest is packed, and written if possible.
        """
        demand = _Demand(operation, Future())
        if not self.put(demand):
            _end(demand, StoreError(self._refusal))
        return demand.done

    def settle(self, timeout: float) -> None:
        """Wait until what was handed over so far is packed, for at most so many seconds."""
        with suppress(StoreError, TimeoutError):
            self.ask(None).result(timeout)

    def news(self) -> list[News]:
        return [self._news.popleft() for _ in range(len(self._news))]

    def close(self, timeout: float) -> str:
        """Write the rest and end the thread; one line on what could not be written, or ""."""
        self.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"the disk takes too long to write {self._path}; the last messages may be lost"
        why = self._failure
        if self.pending.operations and self._problem is not None:
            why = self._problem.message
        return f"{why}; what was said since then is not saved" if why else ""

    # In the thread

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # an error of the record must never end the chat
            _log.exception("unexpected error in the writer thread")
            self._failure = f"the record failed unexpectedly: {' '.join(str(error).split())}"
            self._news.append(WriteNews(f"{self._failure}; nothing is saved from now on"))
        finally:
            self._refuse(self._failure or "the record is closed")
            if self._connection is not None:
                self._connection.close()
            if self._lock is not None:
                self._lock.close()

    def _refuse(self, why: str) -> None:
        """Take nothing from now on, and end what is waited for."""
        with self._handing_over:
            self._refusal = why
            self._items += [self._inbox.get() for _ in range(self._inbox.qsize())]
        for item in self._items:
            if isinstance(item, _Demand):
                _end(item, StoreError(why))
        self._items = []
        if self._failure:
            self.pending.clear()
            self._answers = GrowingAnswers()

    def _work(self) -> None:
        self._attempt()
        closing = False
        while not closing:
            self._collect()
            closing = None in self._items
            for item in self._items:
                if isinstance(item, EventReceived):
                    self._add(self._answers.add(item))
                elif not isinstance(item, _Demand | None):
                    self._add([item])
            self._add(self._answers.end() if closing else self._answers.pack())
            self._attempt(last=closing)
            for item in self._items:
                if isinstance(item, _Demand):
                    self._meet(item)
            self._items = []
        if self._connection is not None and self._problem is None:
            try:
                with transaction(self._connection):
                    leave(self._connection, self.window)
            except sqlite3.Error as error:
                _log.warning("leaving: %s", error)  # the next start puts it in order

    def _collect(self) -> None:
        """Take the items until it is time to write again; none if it is time to retry."""
        until = self._retry_at if self._problem and self._problem.temporary else None
        with suppress(queue.Empty):
            while not (self._items and isinstance(self._items[-1], _Demand | None)):
                wait = None if until is None else max(0.0, until - time.monotonic())
                self._items.append(self._inbox.get(wait != 0, wait))
                until = self._flushed_at + FLUSH_SECONDS

    def _add(self, operations: Iterable[Operation]) -> None:
        before, problem = self.pending.dropped, self._problem
        for operation in operations:
            self.pending.add(operation)
        if self.pending.dropped and not before and (problem is None or problem.temporary):
            why = problem.message if problem else f"the disk takes too long to write {self._path}"
            lost = "until that is over, the steps of answers are dropped, the texts are kept"
            self._news.append(WriteNews(f"{why}; {MOST_BYTES >> 20} MiB wait to be saved: {lost}"))

    def _attempt(self, *, last: bool = False) -> None:
        """Write what waits, unless that failed a moment ago."""
        problem = self._problem
        due = last or time.monotonic() >= self._retry_at
        if problem is not None and not (problem.temporary and due):
            return
        try:
            if self._connection is None:
                self._connection = self._open()
            self._write(self._connection, self.pending.operations)
        except Exception as error:  # the thread must go on, whatever is in the file
            self._note_problem(error)
            return
        dropped = self.pending.dropped
        but = f" but the steps of {counted(dropped, 'answer')}" if dropped else ""
        self.pending.clear()
        self._flushed_at = time.monotonic()
        self._problem = None
        if problem is not None:
            message = f"the record can be written again; everything is saved{but}"
            self._news.append(WriteNews(message, failed=False))

    def _open(self) -> sqlite3.Connection:
        folder = self._path.parent / "windows"
        if self._lock is None:
            self._lock = WindowLock(folder, self.window)
        connection = open_to_write(self._path)
        try:
            with transaction(connection):
                left = recover(connection, folder)
                open_session(self.window, None, left.session if left else None)(connection)
            self._identity = _identity(self._path)
        except BaseException:
            connection.close()
            raise
        if left:
            self._news.append(left)
        return connection

    def _write(self, connection: sqlite3.Connection, operations: Sequence[Operation]) -> None:
        if not operations:
            return
        if _identity(self._path) != self._identity:
            raise StoreError(f"{self._path} was moved away or replaced while it was open")
        with transaction(connection):
            for operation in operations:
                operation(connection)

    def _note_problem(self, error: Exception) -> None:
        problem = explain(error, self._path)
        if self._problem is None or self._problem.message != problem.message:
            _log.warning("%s: %s", type(error).__name__, error)
            self._news.append(WriteNews(f"{problem.message}; {problem.advice}"))
        self._problem = problem
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def _meet(self, demand: _Demand) -> None:
        failure: StoreError | None = None
        try:
            if demand.operation is not None:
                if self._problem is not None:
                    raise StoreError(self._problem.message)
                assert self._connection is not None
                self._write(self._connection, [demand.operation])
        except Exception as error:  # somebody waits for it
            failure = StoreError(explain(error, self._path).message)
        _end(demand, failure)


def _end(demand: _Demand, error: StoreError | None) -> None:
    """End the future unless it was cancelled or has ended."""
    future = demand.done
    if not future.done() and future.set_running_or_notify_cancel():
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None for none."""
    try:
        status = os.stat(path)  # noqa: PTH116 as cheap as it gets, many times a second
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
