"""The recorder that writes the database: what the chat screen tells, as operations for the writer.

Owns which session is under way. Called from the screen's thread, but for what only reads.
"""

import json
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

from sequoia_core.events import Event, Failed, Finished, Step
from sequoia_core.files import encode

from ..state.history import Exchange
from .archive import Archive
from .growing import Happened
from .operations import (
    Begun,
    Deleted,
    HeldWith,
    Opened,
    Raced,
    Renamed,
    Selected,
    Undeleted,
    now,
)
from .recorded_steps import RecordedSteps
from .recording import About, NoRecord
from .trouble import StoreError
from .writer import News, Writer

CLOSE_SECONDS = 5.0
_SETTLE_SECONDS = 0.3
_log = logging.getLogger("sequoia.store")


def open_record(path: Path, *, record: bool) -> "DatabaseRecorder | NoRecord":
    """The recorder of a window; where nothing is to be recorded, the database is left alone.

    Args:
        path: the database.
        record: whether anything is.
    """
    return DatabaseRecorder(path) if record else NoRecord()


class DatabaseRecorder:
    """A `Recorder` into a database file; begins to write at once.

    Args:
        path: the database; made with the first thing that is written.

    Attributes:
        archive: reads what was recorded.
        unsaved: after `close`: why something is not saved, or "".
    """

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path)
        self.unsaved = ""
        self._writer = Writer(path)
        self._about = About()
        self._session: str | None = None
        self._growing: dict[str, Exchange] = {}
        self._raced: list[tuple[float, str]] = []
        self._closed = False
        self._writer.start()

    @property
    def session(self) -> str | None:
        """The session under way; None before its first exchange."""
        return self._session

    @property
    def window(self) -> str:
        """Id of this window."""
        return self._writer.window

    def about(self, about: About) -> None:
        """This is what sessions are held with, one that began before it was known too."""
        if self._session is not None and about.target and not self._about.target:
            self._writer.put(HeldWith(self._session, about))
        self._about = about

    def begin(self, exchange: Exchange) -> None:
        """A prompt was sent; the first one begins a session, which has the races before it."""
        raced, self._raced = self._raced, []
        if self._session is None:
            self.resume(uuid4().hex)
        assert self._session is not None
        self._growing[exchange.id] = exchange
        self._writer.put(
            Begun(
                window=self._writer.window,
                session=self._session,
                about=self._about,
                exchange=exchange.id,
                parent=exchange.parent,
                prompt=exchange.prompt,
                started=exchange.started,
            )
        )
        for run, result in raced:
            self._writer.put(Raced(self._session, None, run, result))

    def event(self, exchange: str, event: Event) -> None:
        """An event of an exchange's answer."""
        statistics = None
        if isinstance(event, Finished | Failed):
            ended = self._growing.pop(exchange, None)
            if ended is not None and ended.answer.statistics:
                statistics = ended.answer.statistics[-1]
        self._writer.put(Happened(exchange, event, statistics))

    def select(self, exchange: str) -> None:
        """The branch on show runs through this exchange."""
        self._writer.put(Selected(exchange))

    def clear(self) -> None:
        """The session is over; the next exchange begins another."""
        self._raced = []
        if self._session is not None:
            self._session = None
            self._writer.put(Opened(self._writer.window, None))

    def resume(self, session: str) -> None:
        """The session under way is this one from now on."""
        self._session, self._raced = session, []
        self._writer.put(Opened(self._writer.window, session))

    def race(self, exchange: str | None, result: Any) -> None:
        """A race was run; before the first message it waits for it."""
        try:
            text = json.dumps(encode(result))
        except (TypeError, ValueError):
            _log.exception("a race's result is no plain value")
            return
        if self._session is None:  # one without a message would be listed, with nothing to open
            self._raced.append((now(), text))
        else:
            self._writer.put(Raced(self._session, exchange, now(), text))

    def steps(self, exchange: str) -> Sequence[Step]:
        """The steps of a finished exchange, also where they still wait to be written."""
        self._writer.settle(_SETTLE_SECONDS)
        # asked first: what is written between the two is then there twice and not missing
        waiting = self._writer.waiting(exchange)
        if waiting is None:
            return ()
        try:
            written = self.archive.chunks(exchange)
        except StoreError:
            written = {}
        chunks = written | {each.number: (each.steps, each.events) for each in waiting}
        steps = RecordedSteps([chunks[number] for number in sorted(chunks)])
        try:
            steps.check()
        except StoreError:
            return ()
        return steps

    def rename(self, session: str, name: str | None) -> "Future[None]":
        """Call a session something; ends with a `StoreError` where that cannot be written."""
        return self._writer.ask(Renamed(session, name))

    def delete(self, session: str) -> "Future[None]":
        """Delete a session, for good when this window closes; likewise."""
        return self._writer.ask(Deleted(session, self._writer.window, now()))

    def undelete(self, session: str) -> "Future[None]":
        """Bring a deleted session back; likewise."""
        return self._writer.ask(Undeleted(session))

    def news(self) -> list[News]:
        """What the writer has to tell since the last call."""
        return self._writer.news()

    def settle(self, timeout: float) -> None:
        """Wait until what was told so far is written, if it can be, for at most so many seconds."""
        self._writer.settle(timeout)

    def close(self) -> None:
        """Write what is left and end the writer; once is enough."""
        if not self._closed:
            self._closed = True
            self.unsaved = self._writer.close(CLOSE_SECONDS)
