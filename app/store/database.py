"""The database file: its tables and their versions, how it is opened, what its errors mean."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sequoia_core.errors import SequoiaError
from sequoia_core.files import make_private_folder, private_file

from .text_search import fold

WRITE_PATIENCE_SECONDS = 1.0  # how long one attempt to write waits for another window that writes
READ_PATIENCE_SECONDS = 0.5

MIGRATIONS = tuple(
    Path(__file__).with_name(f"schema_{version}.sql").read_text("utf-8") for version in (1, 2)
)
"""Statements that lead from version n to n + 1, blank lines between. Released ones never change."""
VERSION = len(MIGRATIONS)

_PRAGMAS = (
    "journal_mode = WAL",
    # a commit is handed to the operating system, which outlives a kill; only a loss of power
    # may take the last moments, and never leaves the file damaged
    "synchronous = NORMAL",
    "foreign_keys = ON",
    "secure_delete = ON",
    f"journal_size_limit = {16 << 20}",
    "cache_size = -4096",  # KiB
)


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the database, created or migrated if need be; the caller begins transactions.

    Raises OSError, sqlite3.Error, or StoreError if a later version of the program wrote it.
    """
    make_private_folder(path.parent)
    # SQLite would create it by the umask, and its companion files take over its mode
    with suppress(OSError):  # it exists, or cannot be made, which SQLite explains
        os.close(private_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    connection = sqlite3.connect(path, timeout=WRITE_PATIENCE_SECONDS, isolation_level=None)
    try:
        _add_fold(connection)
        current = _version(connection, path) == VERSION  # refuses it before anything is changed
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        if not current:
            _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    with transaction(connection):
        version = _version(connection, path)  # another window may have been faster
        for migration in MIGRATIONS[version:]:
            for statement in migration.split("\n\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction: committed at the end, rolled back by an exception."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads one state of the database, for one thread and a short time.

    What goes wrong, in the block as well, is raised as a StoreError.
    """
    try:
        if not path.exists():
            raise StoreError(f"there is no record yet at {path}")
        with closing(_open_to_read(path)) as connection:
            _add_fold(connection)
            connection.execute("BEGIN")
            _version(connection, path)
            yield connection
    except (sqlite3.Error, OSError, ValueError, TypeError, StoreError) as error:
        raise StoreError(explain(error, path).message) from None


def _open_to_read(path: Path) -> sqlite3.Connection:
    # a folder that is read-only has no place for the log's index, and then nobody writes
    for mode in ("ro", "ro&immutable=1"):
        place = f"file:{quote(str(path))}?mode={mode}"
        connection = sqlite3.connect(
            place, uri=True, timeout=READ_PATIENCE_SECONDS, isolation_level=None
        )
        # damaged text is better than none
        connection.text_factory = lambda text: text.decode(errors="replace")
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            connection.close()
            if not _error_name(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                raise
        else:
            return connection
    raise sqlite3.OperationalError("unable to open database file")


def _add_fold(connection: sqlite3.Connection) -> None:
    connection.create_function("fold", 1, lambda text: text and fold(text), deterministic=True)


def _version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise StoreError(
            f"{path} is of version {version}, written by a later program; this one knows versions "
            f"up to {VERSION}"
        )
    return int(version)


Operation = Callable[[sqlite3.Connection], None]
"""A change, carried out in a transaction, and again if that fails: it holds all of its values."""


def statements(*sql: str, **values: Any) -> Operation:
    """The operation of these statements, whose parameters are the values."""

    def execute(to: sqlite3.Connection) -> None:
        for statement in sql:
            to.execute(statement, values)

    return execute


# Errors


class StoreError(SequoiaError):
    """The record of the chats cannot be read or written, or holds no such chat."""


class DamagedError(StoreError):
    """What was read from the record does not make sense."""


@dataclass(frozen=True, slots=True)
class WriteProblem:
    message: str
    advice: str  # what this means for the chat, and what to do
    temporary: bool = False  # it may end by itself, so trying again makes sense


_IN_MEMORY = "the chat goes on in memory only, nothing of it will be saved"
_UNTIL_THEN = "the chat goes on in memory and is saved as soon as that is over"
_MOVE_AWAY = (
    "the file is left as it is, and the chat goes on in memory only: move the file away to begin a "
    "new record"
)
_TEMPORARY = {
    ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"): "{path} is locked by another program",
    ("SQLITE_FULL",): "no room is left on the disk for {path}",
    ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH"): (
        "{path} cannot be written: the file or its folder is read-only"
    ),
    ("SQLITE_IOERR",): "the disk refuses to read or write {path} ({error})",
}
"""Beginnings of SQLite's names of errors."""


def explain(error: Exception, path: Path) -> WriteProblem:
    """What an error of the database or of the file system means for the chat."""
    if isinstance(error, StoreError) and not isinstance(error, DamagedError):
        return WriteProblem(str(error), _IN_MEMORY)
    if isinstance(error, OSError):
        message = f"{path}: {error.strerror or error}"
        return WriteProblem(message, _UNTIL_THEN, temporary=True)
    name = _error_name(error)
    for beginnings, text in _TEMPORARY.items():
        if name.startswith(beginnings):
            message = text.format(path=path, error=error)
            return WriteProblem(message, _UNTIL_THEN, temporary=True)
    if isinstance(error, ValueError):
        # SQLite quotes the damage in its messages, which then need not be text
        return WriteProblem(f"{path} is damaged (unreadable)", _MOVE_AWAY)
    damaged = name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
    if damaged or isinstance(error, DamagedError):
        return WriteProblem(f"{path} is damaged ({error})", _MOVE_AWAY)
    return WriteProblem(f"{path}: {error}", _IN_MEMORY)


def _error_name(error: Exception) -> str:
    """SQLite's own name of an error; "" for other errors."""
    return getattr(error, "sqlite_errorname", None) or ""
