"""What is written into the database, as plain values that are carried out in a transaction.

An operation is carried out again when the transaction that it was part of failed, so it holds
everything that it needs.
"""

import sqlite3
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from sequoia_core.text.detokenizer import well_formed

from ..state.history import Exchange
from .digest import Digest
from .errors import StoreError
from .packing import pack_digest
from .recorder import About

_TITLE_CHARACTERS = 200


class Operation:
    """A change of the database.

    Attributes:
        statements: SQL; the parameters are the operation's fields by name.
    """

    __slots__ = ()
    statements: ClassVar[tuple[str, ...]] = ()

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Execute the statements.

        Raises:
            StoreError: a person asked for what cannot be done.
        """
        values: dict[str, Any] = {
            each.name: getattr(self, each.name)
            for each in fields(self)  # type: ignore[arg-type]
        }
        for statement in self.statements:
            to.execute(statement, values)


@dataclass(frozen=True, slots=True)
class SessionOpened(Operation):
    """This window has a session open, or none.

    Attributes:
        window: id of the window.
        session: id of the session.
        offered: a session that the person is asked about, or None.
    """

    window: str
    session: str | None
    offered: str | None = None

    statements = (
        "INSERT INTO window (id, session, offered) VALUES (:window, :session, :offered) "
        "ON CONFLICT (id) DO UPDATE SET session = excluded.session, offered = excluded.offered",
    )


@dataclass(frozen=True, slots=True)
class ExchangeStarted(Operation):
    """An exchange began, perhaps the first of its session. A deleted session comes back by it."""

    window: str
    session: str
    title: str
    target: str
    draft: str | None
    system: str | None
    exchange: str
    parent: str | None
    prompt: str
    started: float

    statements = (
        "INSERT INTO session (id, title, created, changed, target, draft, system) "
        "VALUES (:session, :title, :started, :started, :target, :draft, :system) "
        "ON CONFLICT (id) DO NOTHING",
        "INSERT INTO exchange (id, session, parent, prompt, started, window) "
        "VALUES (:exchange, :session, :parent, :prompt, :started, :window)",
        "UPDATE session SET changed = max(changed, :started), selected = :exchange, "
        "deleted = NULL, deleted_by = NULL WHERE id = :session",
    )

    @classmethod
    def of(cls, window: str, session: str, about: About, exchange: Exchange) -> "ExchangeStarted":
        """The operation for an exchange without an answer."""
        prompt = well_formed(exchange.prompt)
        return cls(
            window,
            session,
            title=" ".join(prompt.split())[:_TITLE_CHARACTERS],
            target=well_formed(about.target),
            draft=about.draft and well_formed(about.draft),
            system=about.system and well_formed(about.system),
            exchange=exchange.id,
            parent=exchange.parent,
            prompt=prompt,
            started=exchange.started,
        )


@dataclass(frozen=True, slots=True)
class ModelsNamed(Operation):
    """The models of a session that began before they were known; known ones stay."""

    session: str
    target: str
    draft: str | None

    statements = (
        "UPDATE session SET target = :target, draft = :draft WHERE id = :session AND target = ''",
    )


@dataclass(frozen=True, slots=True)
class ChunkWritten(Operation):
    """Events of a growing answer, packed; lost if its exchange was deleted for good."""

    exchange: str
    number: int
    steps: int
    events: bytes

    statements = (
        "INSERT INTO chunk (exchange, number, steps, events) "
        "SELECT place, :number, :steps, :events FROM exchange WHERE id = :exchange",
    )


@dataclass(frozen=True, slots=True)
class StepsDropped(Operation):
    """Steps of an exchange are missing, so none is shown."""

    exchange: str

    statements = (
        "UPDATE chunk SET steps = 0 "
        "WHERE exchange = (SELECT place FROM exchange WHERE id = :exchange)",
    )


@dataclass(frozen=True, slots=True)
class AnswerEnded(Operation):
    """An answer is complete; from now on it is found by its words."""

    exchange: str
    text: str
    ending: str
    digest: bytes
    at: float

    statements = (
        "UPDATE exchange SET answer = :text, ending = :ending, digest = :digest, window = NULL "
        "WHERE id = :exchange",
        "UPDATE session SET changed = max(changed, :at) "
        "WHERE id = (SELECT session FROM exchange WHERE id = :exchange)",
    )

    @classmethod
    def of(cls, exchange: str, digest: Digest, at: float) -> "AnswerEnded":
        """The operation for an answer with this digest, packed since it may have to wait."""
        return cls(exchange, well_formed(digest.text), digest.ending, pack_digest(digest), at)


@dataclass(frozen=True, slots=True)
class BranchSelected(Operation):
    """The branch of a session runs through this exchange."""

    exchange: str

    statements = (
        "UPDATE session SET selected = :exchange "
        "WHERE id = (SELECT session FROM exchange WHERE id = :exchange)",
    )


@dataclass(frozen=True, slots=True)
class RaceRecorded(Operation):
    """A race was run after an exchange or before the first; it is lost without its session.

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

    statements = (
        "INSERT INTO race (session, exchange, run, result) "
        "SELECT id, coalesce(:exchange, CASE WHEN created < :run THEN selected END), :run, :result "
        "FROM session WHERE id = :session",
    )


@dataclass(frozen=True, slots=True)
class SessionRenamed(Operation):
    """A person named a session, or took the name away."""

    session: str
    name: str | None

    def carry_out(self, to: sqlite3.Connection) -> None:
        """Write the name.

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
class SessionDeleted(Operation):
    """A session was deleted; it can come back while the window is open."""

    session: str
    window: str
    at: float

    statements = ("UPDATE session SET deleted = :at, deleted_by = :window WHERE id = :session",)


@dataclass(frozen=True, slots=True)
class SessionRestored(Operation):
    """A deleted session comes back."""

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
