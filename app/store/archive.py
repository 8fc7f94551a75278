"""Reads the record: lists of sessions, whole sessions, steps of old answers, and searches."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequoia_core.events import Event, Piece, TextDelta

from ..present.words import moment
from ..state.answer import Answer
from ..state.history import Exchange, History
from .database import DamagedError, StoreError, reading
from .packing import Chunk, Digest, digest_of, unpack_digest, unpack_events
from .text_search import Term, index_query

_MOST_TERMS, _MOST_LETTERS = 200, 10_000
"""Of a search: SQLite takes expressions up to a depth, and a long phrase takes seconds."""
_GROWING_ELSEWHERE = "this answer was still being written in another window"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A line of the list of sessions."""

    id: str
    name: str | None  # what a person called it
    title: str  # the first words of its first prompt
    changed: float  # by its last message, in seconds since the epoch
    exchanges: int
    cut_off: int  # how many of its answers were
    windows: int  # how many have it open
    deleted: bool  # by a window, which may bring it back

    @property
    def label(self) -> str:
        return self.name or self.title


@dataclass(frozen=True, slots=True)
class StoredSession:
    info: SessionInfo
    target: str  # name of the model that answered
    system: str | None  # None for the chat template's own default
    history: History


@dataclass(frozen=True, slots=True)
class SearchHit:
    session: str
    label: str
    exchange: str
    started: float
    prompt: str
    answer: str


class Archive:
    """The record, for any thread: each call opens a connection, and none waits for the writer.

    Methods raise StoreError if it cannot be read or lacks what is asked for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def sessions(self) -> list[SessionInfo]:
        """All sessions, the last used first, deleted ones included."""
        with reading(self._path) as connection:
            return _infos(connection, "")

    def find(self, wanted: str) -> SessionInfo:
        """The session of this name, or the only one whose name or title begins so, or has it."""
        infos = [info for info in self.sessions() if not info.deleted]
        wanted = wanted.strip().casefold()
        named = [info for info in infos if (info.name or "").casefold() == wanted]
        begun = [info for info in infos if info.label.casefold().startswith(wanted)]
        containing = [info for info in infos if wanted in info.label.casefold()]
        chosen = named or begun or containing
        if not chosen:
            raise StoreError(f"no session is called {wanted!r}; /sessions lists all")
        if len(chosen) > 1:
            raise StoreError(
                f"{len(chosen)} sessions have {wanted!r} in their title; say more, or choose in "
                "/sessions"
            )
        return chosen[0]

    def load(self, session: str) -> StoredSession:
        with reading(self._path) as connection:
            infos = _infos(connection, "WHERE s.id = ?", session)
            if not infos:
                raise StoreError("that session is not in the record any more")
            target, system, selected = connection.execute(
                "SELECT target, system, selected FROM session WHERE id = ?", (session,)
            ).fetchone()
            history = _history(connection, session)
        exchanges = history.exchanges
        if exchanges:
            history.select(exchanges.get(selected) or list(exchanges.values())[-1])
        return StoredSession(infos[0], _text(target), _text_or_none(system), history)

    def search(self, wanted: Sequence[Term], limit: int) -> list[SearchHit]:
        """Exchanges in which all terms occur, the newest first."""
        if not wanted:
            return []
        if sum(len(term.exact) + sum(map(len, term.words)) for term in wanted) > _MOST_LETTERS:
            raise StoreError(f"the search has more than {_MOST_LETTERS:,} letters; give fewer")
        if len(wanted) > _MOST_TERMS:
            raise StoreError(f"the search has more than {_MOST_TERMS} words; give fewer")
        conditions, values = ["s.deleted IS NULL"], list[str]()
        if index := index_query(wanted):
            conditions.append("e.place IN (SELECT rowid FROM said WHERE said MATCH ?)")
            values.append(index)
        for term in wanted:
            if term.exact:
                conditions.append("instr(fold(e.prompt || char(10) || e.answer), ?)")
                values.append(term.exact)
        with reading(self._path) as connection:
            rows = connection.execute(
                "SELECT e.session, coalesce(s.name, s.title), e.id, e.started, e.prompt, e.answer "
                "FROM exchange e JOIN session s ON s.id = e.session "
                f"WHERE {' AND '.join(conditions)} ORDER BY e.started DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [
            SearchHit(
                _text(session), _text(label), _text(exchange), moment(started), _text(prompt),
                _text(answer),
            )
            for session, label, exchange, started, prompt, answer in rows
        ]  # fmt: skip

    def chunks(self, exchange: str) -> dict[int, Chunk]:
        """Packed events of an exchange by their number, in order."""
        with reading(self._path) as connection:
            rows = connection.execute(
                "SELECT c.number, c.steps, c.events FROM chunk c "
                "JOIN exchange e ON e.place = c.exchange WHERE e.id = ? ORDER BY c.number",
                (exchange,),
            )
            return {number: (steps, events) for number, steps, events in rows}

    def races(self, session: str) -> list[tuple[str | None, str]]:
        """A session's races, the oldest first: id of the exchange before it, result as JSON."""
        with reading(self._path) as connection:
            return connection.execute(
                "SELECT coalesce(r.exchange, (SELECT e.id FROM exchange e "
                "WHERE e.session = r.session AND e.started < r.run "
                "ORDER BY e.started DESC LIMIT 1)), r.result "
                "FROM race r WHERE r.session = ? ORDER BY r.id",
                (session,),
            ).fetchall()


def events_of(connection: sqlite3.Connection, place: int) -> Iterator[Event]:
    """Events of an exchange as far as they are written. Raises DamagedError if one is damaged."""
    query = "SELECT events FROM chunk WHERE exchange = ? ORDER BY number"
    for (blob,) in connection.execute(query, (place,)).fetchall():
        yield from unpack_events(blob)


def _infos(connection: sqlite3.Connection, where: str, *values: str) -> list[SessionInfo]:
    rows = connection.execute(
        "SELECT s.id, s.name, s.title, s.changed, "
        "(SELECT count(*) FROM exchange e WHERE e.session = s.id), "
        "(SELECT count(*) FROM exchange e WHERE e.session = s.id AND e.ending = 'cut off'), "
        "(SELECT count(*) FROM window w WHERE w.session = s.id), "
        f"s.deleted IS NOT NULL FROM session s {where} ORDER BY s.changed DESC, s.id",
        values,
    )
    return [
        SessionInfo(
            _text(session), _text_or_none(name), _text(title), moment(changed), exchanges,
            cut_off, windows, bool(deleted),
        )
        for session, name, title, changed, exchanges, cut_off, windows, deleted in rows
    ]  # fmt: skip


def _history(connection: sqlite3.Connection, session: str) -> History:
    rows = connection.execute(
        "SELECT place, id, parent, prompt, started, answer, ending, digest FROM exchange "
        "WHERE session = ? ORDER BY place",
        (session,),
    ).fetchall()
    history = History()
    for place, exchange, parent, asked, started, *answered in rows:
        name, prompt = _text(exchange), _text(asked)
        # the exchange before it may have been deleted for good in another window
        known = parent if parent in history.exchanges else None
        answer = _answer(connection, place, prompt, *answered)
        if name not in history.exchanges:  # ids that are no text may read alike
            history.add(Exchange(name, known, prompt, answer, moment(started)))
    return history


def _answer(
    connection: sqlite3.Connection, place: int, prompt: str, text: Any, ending: Any, digest: Any
) -> Answer:
    """The answer from its digest, or from its events, or its text alone."""
    try:
        if ending is None:
            return digest_of(events_of(connection, place), _GROWING_ELSEWHERE).answer(prompt)
        if digest is not None:
            return unpack_digest(digest).answer(prompt)
    except DamagedError:
        pass
    failure = f"{_text(ending) or 'not ended'}; its figures are not in the record"
    text = _text(text)
    deltas = [TextDelta(0, text, (Piece(text, 0),))] if text else []
    return Digest(deltas, failure=failure).answer(prompt)


def _text(value: object) -> str:
    """A text of the database, which may be of another machine: a column takes any value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)
