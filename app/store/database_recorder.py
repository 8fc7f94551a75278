"""The recorder that writes the database: the chat as operations for the writer."""

import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from uuid import uuid4

from typing_extensions import override

from sequoia_core.events import Event, Failed, Finished, Step
from sequoia_core.files import encode

from ..state.history import Exchange
from .archive import Archive
from .errors import StoreError
from .operations import (
    BranchSelected,
    ExchangeStarted,
    ModelsNamed,
    RaceRecorded,
    SessionDeleted,
    SessionOpened,
    SessionRenamed,
    SessionRestored,
)
from .packing import RecordedSteps
from .pending import EventReceived
from .recorder import About, Recorder
from .writer import News, Writer

CLOSE_SECONDS = 5.0
_SETTLE_SECONDS = 0.3
_log = logging.getLogger("sequoia.store")


def open_record(path: Path, *, record: bool) -> Recorder:
    """The recorder of a window; without `record`, the database is not touched."""
    return DatabaseRecorder(path) if record else Recorder()


class DatabaseRecorder(Recorder):
    """A `Recorder` into a database file; begins to write at once.

    Args:
        path: the database; made with the first thing that is written.

    Attributes:
        archive: reads the record.
        session: the running session; None before its first exchange.
        window: id of this window.
    """

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path)
        self.session: str | None = None
        self._writer = Writer(path)
        self.window = self._writer.window
        self._about = About()
        self._growing: dict[str, Exchange] = {}
        self._races: list[tuple[float, str]] = []
        self._closed = False
        self._writer.start()

    @override
    def about(self, about: About) -> None:
        if self.session is not None and about.target and not self._about.target:
            self._writer.put(ModelsNamed(self.session, about.target, about.draft))
        self._about = about

    @override
    def begin(self, exchange: Exchange) -> None:
        races, self._races = self._races, []
        if self.session is None:
            self.resume(uuid4().hex)
        assert self.session is not None
        self._growing[exchange.id] = exchange
        started = ExchangeStarted.of(self.window, self.session, self._about, exchange)
        self._writer.put(started)
        for run, result in races:
            self._writer.put(RaceRecorded(self.session, None, run, result))

    @override
    def event(self, exchange: str, event: Event) -> None:
        statistics = None
        if isinstance(event, Finished | Failed):
            ended = self._growing.pop(exchange, None)
            if ended is not None and ended.answer.statistics:
                statistics = ended.answer.statistics[-1]
        self._writer.put(EventReceived(exchange, event, statistics))

    @override
    def select(self, exchange: str) -> None:
        self._writer.put(BranchSelected(exchange))

    @override
    def clear(self) -> None:
        self._races = []
        if self.session is not None:
            self.session = None
            self._writer.put(SessionOpened(self.window, None))

    def resume(self, session: str) -> None:
        """Continue this session."""
        self.session, self._races = session, []
        self._writer.put(SessionOpened(self.window, session))

    @override
    def race(self, exchange: str | None, result: Any) -> None:
        try:
            text = json.dumps(encode(result))
        except (TypeError, ValueError):
            _log.exception("a race's result is no plain value")
            return
        run = time.time()
        if self.session is None:  # one without a message would be listed, with nothing to open
            self._races.append((run, text))
        else:
            self._writer.put(RaceRecorded(self.session, exchange, run, text))

    @override
    def steps(self, exchange: str) -> Sequence[Step]:
        self._writer.settle(_SETTLE_SECONDS)
        # before the database is read: what is written in between is then there twice, not missing
        unwritten = self._writer.unwritten_chunks(exchange)
        if unwritten is None:
            return ()
        try:
            written = self.archive.chunks(exchange)
        except StoreError:
            written = {}
        chunks = written | {each.number: (each.steps, each.events) for each in unwritten}
        steps = RecordedSteps([chunks[number] for number in sorted(chunks)])
        try:
            steps.check()
        except StoreError:
            return ()
        return steps

    def rename(self, session: str, name: str | None) -> "Future[None]":
        """Name a session; ends with a `StoreError` if that cannot be written."""
        return self._writer.ask(SessionRenamed(session, name))

    def delete(self, session: str) -> "Future[None]":
        """Delete a session, for good when this window closes; as `rename`."""
        return self._writer.ask(SessionDeleted(session, self.window, time.time()))

    def undelete(self, session: str) -> "Future[None]":
        """Bring a deleted session back; as `rename`."""
        return self._writer.ask(SessionRestored(session))

    def news(self) -> list[News]:
        """The writer's news since the last call."""
        return self._writer.news()

    def settle(self, timeout: float) -> None:
        """Wait until all is written, if possible, for at most so many seconds."""
        self._writer.settle(timeout)

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.unsaved = self._writer.close(CLOSE_SECONDS)
