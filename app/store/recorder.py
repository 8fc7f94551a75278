"""Records a chat while it goes on, into the database or nowhere."""

import json
import sqlite3
import time
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from typing_extensions import override

from sequoia_core.events import Event, Step
from sequoia_core.files import encode
from sequoia_core.text.detokenizer import well_formed

from ..present.words import title_of
from ..state.history import Exchange
from .archive import Archive
from .database import Operation, StoreError, statements
from .growing_answers import EventReceived
from .open_windows import open_session
from .packing import Chunk, unpack_steps
from .writer import News, Writer

CLOSE_SECONDS = 5.0
_SETTLE_SECONDS = 0.3


class Recorder:
    """Keeps nothing; `DatabaseRecorder` keeps a chat as it happens.

    Called by the screen's thread, except `event` and `steps`; only `steps` blocks or raises.
    """

    unsaved: str = ""  # after `close`, one line on why something is not saved

    def about(self, target: str, draft: str | None, system: str | None) -> None:
        """Set what chats are held with, one that began before it was known included.

        `target` is "" while it is not known, `system` None for the chat template's own default.
        """

    def begin(self, exchange: Exchange) -> None:
        """Record a prompt, the new end of the chat's branch."""

    def event(self, exchange: str, event: Event) -> None:
        """Record an event of an exchange's answer; for all of them, in order, by any thread."""

    def select(self, exchange: str) -> None:
        """The chat's branch runs through this exchange."""

    def clear(self) -> None:
        """The chat is over; the next exchange begins another."""

    def race(self, exchange: str | None, result: Any) -> None:
        """Record a race; `result` is a `Record`."""

    def steps(self, exchange: str) -> Iterable[Step]:
        """The steps of a finished exchange; none if they are not recorded.

        For any thread; the result raises a `StoreError` if they are damaged, or if another version
        of the program wrote them.
        """
        del exchange
        return ()

    def close(self) -> None:
        """Write the rest."""


class DatabaseRecorder(Recorder):
    """Records into a database file, which is made with the first thing that is written."""

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path)
        self.session: str | None = None  # the running one; None before its first exchange
        self._writer = Writer(path)
        self._about: dict[str, str | None] = {"target": "", "draft": None, "system": None}
        self._races: list[tuple[float, str]] = []
        self._closed = False

    @override
    def about(self, target: str, draft: str | None, system: str | None) -> None:
        given = {"target": target, "draft": draft, "system": system}
        about = {name: text and well_formed(text) for name, text in given.items()}
        if self.session is not None and target and not self._about["target"]:
            self._write(
                "UPDATE session SET target = :target, draft = :draft "
                "WHERE id = :session AND target = ''",
                session=self.session, **about,
            )  # fmt: skip
        self._about = about

    @override
    def begin(self, exchange: Exchange) -> None:
        """A deleted session comes back by it; the session's models are those of its last answer."""
        races, self._races = self._races, []
        if self.session is None:
            self.resume(uuid4().hex)
        prompt = well_formed(exchange.prompt)
        self._write(
            "INSERT INTO session (id, title, created, changed, target, draft, system) "
            "VALUES (:session, :title, :started, :started, :target, :draft, :system) "
            "ON CONFLICT (id) DO NOTHING",
            "INSERT INTO exchange (id, session, parent, prompt, started, window) "
            "VALUES (:exchange, :session, :parent, :prompt, :started, :window)",
            "UPDATE session SET changed = max(changed, :started), selected = :exchange, "
            "target = iif(:target = '', target, :target), "
            "draft = iif(:target = '', draft, :draft), "
            "deleted = NULL, deleted_by = NULL WHERE id = :session",
            window=self._writer.window,
            session=self.session,
            title=title_of(prompt),
            exchange=exchange.id,
            parent=exchange.parent,
            prompt=prompt,
            started=exchange.started,
            **self._about,
        )
        for run, result in races:
            self._add_race(None, run, result)

    @override
    def event(self, exchange: str, event: Event) -> None:
        self._writer.put(EventReceived(exchange, event))

    @override
    def select(self, exchange: str) -> None:
        self._write(
            "UPDATE session SET selected = :exchange "
            "WHERE id = (SELECT session FROM exchange WHERE id = :exchange)",
            exchange=exchange,
        )

    @override
    def clear(self) -> None:
        if self.session is not None:
            self._writer.put(open_session(self._writer.window, None))
        self.session, self._races = None, []

    def resume(self, session: str) -> None:
        self.session, self._races = session, []
        self._writer.put(open_session(self._writer.window, session))

    @override
    def race(self, exchange: str | None, result: Any) -> None:
        run, text = time.time(), json.dumps(encode(result))
        if self.session is None:  # one without a message would be listed, with nothing to open
            self._races.append((run, text))
        else:
            self._add_race(exchange, run, text)

    def _add_race(self, exchange: str | None, run: float, result: str) -> None:
        """Kept with its session, after the exchange or, if it asked something new, the last one."""
        self._write(
            "INSERT INTO race (session, exchange, run, result) SELECT id, "
            "coalesce(:exchange, CASE WHEN created < :run THEN selected END), :run, :result "
            "FROM session WHERE id = :session",
            session=self.session, exchange=exchange, run=run, result=result,
        )  # fmt: skip

    @override
    def steps(self, exchange: str) -> Iterable[Step]:
        self._writer.settle(_SETTLE_SECONDS)
        # before the database is read: what is written in between is then there twice, not missing
        unwritten = self._writer.pending.chunks(exchange)
        if unwritten is None:
            return ()
        chunks: dict[int, Chunk] = {}
        with suppress(StoreError):
            chunks = self.archive.chunks(exchange)
        chunks |= {each.number: (each.steps, each.events) for each in unwritten}
        return unpack_steps(chunks.values())

    def rename(self, session: str, name: str | None) -> "Future[None]":
        """Name a session; ends with a `StoreError` if that cannot be written."""
        return self._writer.ask(_rename(session, name))

    def delete(self, session: str) -> "Future[None]":
        """Delete a session, for good when this window closes; as `rename`."""
        sql = "UPDATE session SET deleted = :at, deleted_by = :window WHERE id = :session"
        window, at = self._writer.window, time.time()
        return self._writer.ask(statements(sql, session=session, window=window, at=at))

    def undelete(self, session: str) -> "Future[None]":
        """Bring a deleted session back; as `rename`."""

        def restore(to: sqlite3.Connection) -> None:
            sql = "UPDATE session SET deleted = NULL, deleted_by = NULL WHERE id = ?"
            if not to.execute(sql, (session,)).rowcount:
                raise StoreError("that session is gone for good")

        return self._writer.ask(restore)

    def news(self) -> list[News]:
        return self._writer.news()

    def settle(self, timeout: float) -> None:
        """Wait until all is written, if possible, for at most so many seconds."""
        self._writer.settle(timeout)

    @override
    def close(self) -> None:
        if not self._closed:  # the screen closes it, and the command in any case: wait only once
            self._closed = True
            self.unsaved = self._writer.close(CLOSE_SECONDS)

    def _write(self, *sql: str, **values: Any) -> None:
        self._writer.put(statements(*sql, **values))


def _rename(session: str, name: str | None) -> Operation:
    def rename(to: sqlite3.Connection) -> None:
        known = well_formed(name) if name else None
        taken = to.execute(
            "SELECT 1 FROM session WHERE fold(name) = fold(?) AND id <> ? AND deleted IS NULL",
            (known, session),
        ).fetchone()
        if taken:
            raise StoreError(f"another session is called {name!r}; choose another name")
        if not to.execute("UPDATE session SET name = ? WHERE id = ?", (known, session)).rowcount:
            raise StoreError("that session is not in the record any more")

    return rename
