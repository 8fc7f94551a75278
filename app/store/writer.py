"""The one thread that writes: takes what it is handed, packs it, and commits a few times a second.

What cannot be written is kept and tried again, so that a locked file or a full disk costs nothing
but memory, and of that so much as `pending` gives. Whoever hands something over never waits. Knows
the order of things and nothing of what is written; that is `operations`.
"""

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sequoia_core.files import make_private_folder

from .growing import Growing, Happened
from .inbox import Asked, Closing, Inbox, Item, Marker
from .operations import LeftOpen, Opened, Operation, Told, leave, recover
from .pending import MOST_BYTES, Pending
from .schema import open_to_write, transaction
from .trouble import StoreError, Trouble, explain
from .windows import Window

FLUSH_SECONDS = 0.04
"""Between two commits. The decode thread hands events over itself, so that a kill costs less than
100 ms of text whatever the screen is at."""
RETRY_SECONDS = 2.0

_log = logging.getLogger("sequoia.store")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Troubled:
    """Nothing can be written for now; the person should know."""

    message: str


@dataclass(frozen=True, slots=True)
class Relieved:
    """All that waited is written."""

    message: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """Sessions that killed windows had open, the one last used first."""

    sessions: tuple[LeftOpen, ...]


News = Troubled | Relieved | Recovered


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
        self._folder = path.parent / "windows"
        self._inbox = Inbox()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._growing = Growing()
        self._pending = Pending()
        self._items: list[Item] = []
        self._failure = ""
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock_file: Window | None = None
        self._trouble: Trouble | None = None
        self._retry_at = 0.0
        self._flushed_at = float("-inf")
        self._opened_session: str | None = None
        self._thread = threading.Thread(target=self._run, name="sequoia-writer", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, item: Operation | Happened) -> None:
        """Hand something over; it is written as soon as that is possible."""
        self._inbox.hand(item)

    def ask(self, operation: Operation) -> "Future[None]":
        """Hand over what a person waits for.

        Returns:
            Ends when it is written, with a `StoreError` when it cannot be.
        """
        asked = Asked(operation, Future())
        if not self._inbox.hand(asked):
            asked.end(StoreError(self._inbox.refusal))
        return asked.done

    def news(self) -> list[News]:
        """What there is to tell since the last call, in order."""
        news: list[News] = []
        while True:
            try:
                news.append(self._news.get_nowait())
            except queue.Empty:
                return news

    def settle(self, timeout: float) -> None:
        """Wait until what was handed over so far is packed, for at most so many seconds."""
        marker = Marker(threading.Event())
        if self._inbox.hand(marker):
            marker.reached.wait(timeout)

    def waiting(self, exchange: str) -> list[Told] | None:
        """Packed events of an exchange that are not written yet; None where some were let go."""
        return self._pending.told(exchange)

    def close(self, timeout: float) -> str:
        """Write what is left and end the thread.

        Returns:
            Why something is left over, in one line; "" if nothing is.
        """
        if self._thread.ident is None:
            return ""
        self._inbox.hand(Closing())
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"the disk takes too long to write {self._path}; the last messages may be lost"
        why = self._failure
        if self._pending.operations and self._trouble is not None:
            why = self._trouble.message
        return f"{why}; what was said since then is not saved" if why else ""

    # In the thread

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # the chat must never end for the record's sake
            _log.exception("unexpected error in the writer thread")
            self._failure = f"the record failed unexpectedly: {' '.join(str(error).split())}"
            self._news.put(Troubled(f"{self._failure}; nothing is saved from now on"))
        finally:
            self._refuse(self._failure or "the record is closed")
            if self._connection is not None:
                self._connection.close()
            if self._lock_file is not None:
                self._lock_file.close()

    def _refuse(self, why: str) -> None:
        """Take nothing from now on; whoever waits learns why."""
        self._items += self._inbox.refuse(why)
        for item in self._items:
            if isinstance(item, Marker):
                item.reached.set()
            elif isinstance(item, Asked):
                item.end(StoreError(why))
        self._items = []
        if self._failure:
            self._pending.clear()
            self._growing = Growing()

    def _work(self) -> None:
        self._attempt()
        closing = False
        while not closing:
            self._items = self._collect()
            closing = any(isinstance(item, Closing) for item in self._items)
            for item in self._items:
                self._take(item)
            self._pending.add(*(self._growing.end() if closing else self._growing.pack()))
            self._attempt(last=closing)
            self._answer(self._items)
            self._items = []
        if self._connection is not None and self._trouble is None:
            self._leave(self._connection)

    def _collect(self) -> list[Item]:
        """What was handed over, once it is time to write again; nothing if it is time to retry."""
        items: list[Item] = []
        retries = self._trouble is not None and self._trouble.passes
        try:
            patience = max(0.0, self._retry_at - time.monotonic()) if retries else None
            items.append(self._inbox.get(timeout=patience))
            while not isinstance(items[-1], Asked | Marker | Closing):
                room = self._flushed_at + FLUSH_SECONDS - time.monotonic()
                items.append(self._inbox.get(block=room > 0, timeout=max(0.0, room)))
        except queue.Empty:
            pass
        return items

    def _take(self, item: Item) -> None:
        match item:
            case Happened():
                self._pending.add(*self._growing.add(item))
            case Asked() | Marker() | Closing():
                pass
            case _:
                if isinstance(item, Opened):
                    self._opened_session = item.session
                self._pending.add(item)

    def _attempt(self, *, last: bool = False) -> None:
        """Write what waits, unless that failed a moment ago."""
        if self._trouble is not None:
            due = time.monotonic() >= self._retry_at or last
            if not (self._trouble.passes and due):
                self._save_memory(self._trouble)
                return
        try:
            if self._connection is None:
                self._open()
            self._write(self._pending.operations)
        except Exception as error:  # the thread must live on, whatever is in the file
            self._save_memory(self._fail(error))
            return
        lost = self._pending.lost
        self._pending.clear()
        self._flushed_at = time.monotonic()
        if self._trouble is not None:
            self._trouble = None
            answers = "an answer" if lost == 1 else f"{lost} answers"
            but = f" but the steps of {answers}" if lost else ""
            self._news.put(Relieved(f"the record can be written again; everything is saved{but}"))

    def _save_memory(self, trouble: Trouble) -> None:
        """Keep no more than the memory is given; said once, where what waits may yet be saved."""
        first = not self._pending.lost
        if self._pending.shorten() and first and trouble.passes:
            most = MOST_BYTES >> 20
            self._news.put(
                Troubled(
                    f"{trouble.message}, and more than {most} MiB wait to be saved: the steps of "
                    "the oldest answers are let go, the texts are kept"
                )
            )

    def _open(self) -> None:
        if self._lock_file is None:
            make_private_folder(self._path.parent)
            self._lock_file = Window(self._folder, self.window)
        connection = open_to_write(self._path)
        try:
            with transaction(connection):
                left = recover(connection, self._folder)
                offered = left[0].session if left else None
                Opened(self.window, self._opened_session, offered).carry_out(connection)
            self._identity = _identity(self._path)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if left:
            self._news.put(Recovered(left))

    def _write(self, operations: Sequence[Operation]) -> None:
        assert self._connection is not None
        if not operations:
            return
        if _identity(self._path) != self._identity:
            raise StoreError(f"{self._path} was moved away or replaced while it was open")
        with transaction(self._connection):
            for operation in operations:
                operation.carry_out(self._connection)

    def _fail(self, error: Exception) -> Trouble:
        trouble = explain(error, self._path)
        if self._trouble is None or self._trouble.message != trouble.message:
            _log.warning("%s: %s", type(error).__name__, error)
            self._news.put(Troubled(trouble.line))
        self._trouble = trouble
        self._retry_at = time.monotonic() + RETRY_SECONDS
        return trouble

    def _answer(self, items: Sequence[Item]) -> None:
        """Do what is waited for, after all that was handed over before it."""
        for item in items:
            if isinstance(item, Marker):
                item.reached.set()
            elif isinstance(item, Asked):
                self._do(item)

    def _do(self, asked: Asked) -> None:
        if self._trouble is not None:
            asked.end(StoreError(self._trouble.message))
            return
        try:
            self._write([asked.operation])
        except StoreError as error:
            asked.end(error)
        except Exception as error:  # somebody waits for it
            asked.end(StoreError(explain(error, self._path).message))
        else:
            asked.end()

    def _leave(self, connection: sqlite3.Connection) -> None:
        try:
            with transaction(connection):
                leave(connection, self.window)
        except sqlite3.Error as error:
            _log.warning("leaving: %s", error)  # the next start puts it in order


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is there; None for none."""
    try:
        status = os.stat(path)  # noqa: PTH116 as cheap as it gets, many times a second
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
