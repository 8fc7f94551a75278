"""What is written into the database, as plain values that are carried out in a transaction.

Owns the SQL that changes anything. An operation is carried out again as it is when the transaction
it was part of failed, so it holds everything it needs.
"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.text.detokenizer import well_formed

from . import windows
from .archive import events_of
from .packing import CUT_OFF, Digest, digest_of, pack_digest
from .recording import About
from .trouble import DamagedError, StoreError

_TITLE_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Opened:
    """This window has a session open, or none.

    Attributes:
        window: id of the window.
        session: id of the session.
        offered: a session that the person is asked about, or None.
    """

    window: str
    session: str | None
    offered: str | None = None

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it."""
        to.execute(
            "INSERT INTO window (id, session, offered) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET session = excluded.session, offered = excluded.offered",
            (self.window, self.session, self.offered),
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """An exchange was begun, perhaps the first of its session."""

    window: str
    session: str
    about: About
    exchange: str
    parent: str | None
    prompt: str
    started: float

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it; a session that was deleted meanwhile is there again."""
        prompt = well_formed(self.prompt)
        title = " ".join(prompt.split())[:_TITLE_CHARACTERS]
        about = self.about
        to.execute(
            "INSERT INTO session (id, title, created, changed, target, draft, system) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (self.session, title, self.started, self.started, well_formed(about.target),
             about.draft and well_formed(about.draft),
             None if about.system is None else well_formed(about.system)),
        )  # fmt: skip
        to.execute(
            "INSERT INTO exchange (id, session, parent, prompt, started, window) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (self.exchange, self.session, self.parent, prompt, self.started, self.window),
        )
        to.execute(
            "UPDATE session SET changed = max(changed, ?), selected = ?, deleted = NULL, "
            "deleted_by = NULL WHERE id = ?",
            (self.started, self.exchange, self.session),
        )


@dataclass(frozen=True, slots=True)
class HeldWith:
    """The models of a session that began before they were known."""

    session: str
    about: About

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write them; what is known stays."""
        to.execute(
            "UPDATE session SET target = ?, draft = ? WHERE id = ? AND target = ''",
            (self.about.target, self.about.draft, self.session),
        )


@dataclass(frozen=True, slots=True)
class Told:
    """Events of a growing answer, packed."""

    exchange: str
    number: int
    steps: int
    events: bytes

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write them; they are lost on an exchange that was deleted for good."""
        to.execute(
            "INSERT INTO chunk (exchange, number, steps, events) "
            "SELECT place, ?, ?, ? FROM exchange WHERE id = ?",
            (self.number, self.steps, self.events, self.exchange),
        )


@dataclass(frozen=True, slots=True)
class StepsLost:
    """Steps of an exchange are missing, so that none is to be shown."""

    exchange: str

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it."""
        to.execute(
            "UPDATE chunk SET steps = 0 WHERE exchange = (SELECT place FROM exchange WHERE id = ?)",
            (self.exchange,),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """An answer is complete; what is left of it is packed, for it may have to wait."""

    exchange: str
    text: str
    ending: str
    digest: bytes
    at: float

    @classmethod
    def of(cls, exchange: str, digest: Digest, at: float) -> "Ended":
        """With what is left of the answer."""
        return cls(exchange, well_formed(digest.text), digest.ending, pack_digest(digest), at)

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it; from now on it is found by its words."""
        to.execute(
            "UPDATE exchange SET answer = ?, ending = ?, digest = ?, window = NULL WHERE id = ?",
            (self.text, self.ending, self.digest, self.exchange),
        )
        to.execute(
            "UPDATE session SET changed = max(changed, ?) "
            "WHERE id = (SELECT session FROM exchange WHERE id = ?)",
            (self.at, self.exchange),
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """The branch of a session runs through this exchange."""

    exchange: str

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it."""
        to.execute(
            "UPDATE session SET selected = ?1 "
            "WHERE id = (SELECT session FROM exchange WHERE id = ?1)",
            (self.exchange,),
        )


@dataclass(frozen=True, slots=True)
class Raced:
    """A race was run.

    Attributes:
        session: in which it was run, or that began next.
        exchange: whose prompt was raced, or None for a prompt that was not asked before.
        run: seconds since the epoch.
        result: as JSON.
    """

    session: str
    exchange: str | None
    run: float
    result: str

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it, after an exchange or before the first; it is lost without its session."""
        to.execute(
            "INSERT INTO race (session, exchange, run, result) "
            "SELECT id, coalesce(?, CASE WHEN created < ? THEN selected END), ?, ? "
            "FROM session WHERE id = ?",
            (self.exchange, self.run, self.run, self.result, self.session),
        )


@dataclass(frozen=True, slots=True)
class Renamed:
    """A person called a session something, or nothing in particular."""

    session: str
    name: str | None

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it.

        Raises:
            StoreError: there is no such session, or another one has this name.
        """
        name = well_formed(self.name) if self.name else None
        taken = to.execute(
            "SELECT 1 FROM session WHERE fold(name) = fold(?) AND id <> ? AND deleted IS NULL",
            (name, self.session),
        ).fetchone()
        if taken:
            raise StoreError(f"another session is called {self.name!r}; choose another name")
        changed = to.execute("UPDATE session SET name = ? WHERE id = ?", (name, self.session))
        if not changed.rowcount:
            raise StoreError("that session is not in the record any more")


@dataclass(frozen=True, slots=True)
class Deleted:
    """A session was deleted; it can come back while the window is open."""

    session: str
    window: str
    at: float

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it."""
        to.execute(
            "UPDATE session SET deleted = ?, deleted_by = ? WHERE id = ?",
            (self.at, self.window, self.session),
        )


@dataclass(frozen=True, slots=True)
class Undeleted:
    """A deleted session is wanted after all."""

    session: str

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write it.

        Raises:
            StoreError: it is gone for good.
        """
        changed = to.execute(
            "UPDATE session SET deleted = NULL, deleted_by = NULL WHERE id = ?", (self.session,)
        )
        if not changed.rowcount:
            raise StoreError("that session is gone for good")


Operation = (
    Opened
    | Begun
    | HeldWith
    | Told
    | StepsLost
    | Ended
    | Selected
    | Raced
    | Renamed
    | Deleted
    | Undeleted
)


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """A session that a window had open when it was killed.

    Attributes:
        session: its id.
        cut_off: the answer at the end of its branch was being written.
    """

    session: str
    cut_off: bool


def recover(to: sqlite3.Connection, folder: Path) -> tuple[LeftOpen, ...]:
    """Put in order what killed windows left behind.

    Answers that were cut off are completed with what there is of them, and what those windows had
    deleted is taken away for good.

    Returns:
        The sessions they had open, the one last used first.
    """
    known = [row[0] for row in to.execute("SELECT id FROM window")]
    dead = [window for window in known if not windows.is_open(folder, window)]
    alive = set(known) - set(dead)
    _complete(to, alive)
    marks = ", ".join("?" * len(dead))
    rows = to.execute(
        "SELECT DISTINCT s.id, EXISTS (SELECT 1 FROM exchange e WHERE e.id = s.selected "
        "AND e.ending = 'cut off') FROM window w "
        "JOIN session s ON s.id = coalesce(w.session, w.offered) "
        f"WHERE w.id IN ({marks}) AND s.deleted IS NULL ORDER BY s.changed DESC",
        dead,
    ).fetchall()
    _purge(to, lambda window: window not in alive)
    to.execute(f"DELETE FROM window WHERE id IN ({marks})", dead)
    for window in dead:
        windows.forget(folder, window)
    return tuple(LeftOpen(session, bool(cut_off)) for session, cut_off in rows)


def leave(to: sqlite3.Connection, window: str) -> None:
    """This window is closed; what it deleted is gone for good."""
    _purge(to, lambda deleted_by: deleted_by == window)
    to.execute("DELETE FROM window WHERE id = ?", (window,))


def _complete(to: sqlite3.Connection, alive: set[str]) -> None:
    """End the answers that nobody goes on writing."""
    growing = to.execute(
        "SELECT id, place, started, window FROM exchange WHERE ending IS NULL"
    ).fetchall()
    for exchange, place, started, window in growing:
        if window not in alive:
            Ended.of(exchange, _what_is_left(to, place), started).carry_out(to)


def _what_is_left(connection: sqlite3.Connection, place: int) -> Digest:
    try:
        return digest_of(events_of(connection, place))
    except DamagedError:
        return Digest(failure=CUT_OFF)


def _purge(to: sqlite3.Connection, of: Callable[[str], bool]) -> None:
    """Take away what the windows in question deleted, unless it is open in another one."""
    deleted = to.execute(
        "SELECT id, deleted_by FROM session WHERE deleted IS NOT NULL "
        "AND id NOT IN (SELECT session FROM window WHERE session IS NOT NULL)"
    ).fetchall()
    gone = [session for session, window in deleted if of(window)]
    for session in gone:
        to.execute("DELETE FROM session WHERE id = ?", (session,))
    if gone:  # until its parts are merged, the index holds the words of what was taken out of it
        to.execute("INSERT INTO said (said) VALUES ('optimize')")


def now() -> float:
    """Seconds since the epoch."""
    return time.time()
