"""The database's tables, their versions, and how a connection is opened."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from sequoia_core.files import make_private_folder, private_file

from .errors import LaterVersionError, error_name
from .text_search import fold

WRITE_PATIENCE_SECONDS = 1.0
"""How long one attempt to write waits for another window that writes."""
READ_PATIENCE_SECONDS = 0.5

_CACHED_PAGES = -4096
_WAL_BYTES = 16 << 20

_FIRST = (
    """CREATE TABLE session (
        id TEXT PRIMARY KEY,
        name TEXT,               -- what a person called it
        title TEXT NOT NULL,     -- its first prompt
        created REAL NOT NULL,
        changed REAL NOT NULL,
        selected TEXT,           -- the exchange that the branch runs through
        target TEXT NOT NULL,
        draft TEXT,
        system TEXT,
        deleted REAL,            -- when; it is gone for good once the window that did it is closed
        deleted_by TEXT
    )""",
    """CREATE TABLE exchange (
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
        parent TEXT,
        prompt TEXT NOT NULL,
        started REAL NOT NULL,
        answer TEXT NOT NULL DEFAULT '',
        ending TEXT,             -- NULL while the answer grows: until then it is in its chunks only
        digest BLOB,
        window TEXT              -- where it grows
    )""",
    "CREATE INDEX exchange_of_session ON exchange (session, place)",
    "CREATE INDEX exchange_growing ON exchange (window) WHERE ending IS NULL",
    """CREATE TABLE chunk (
        exchange INTEGER NOT NULL REFERENCES exchange (place) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        events BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX chunk_of_exchange ON chunk (exchange, number)",
    """CREATE TABLE race (
        id INTEGER PRIMARY KEY,
        session TEXT REFERENCES session (id) ON DELETE CASCADE,
        exchange TEXT,
        run REAL NOT NULL,
        result TEXT NOT NULL
    )""",
    "CREATE INDEX race_of_session ON race (session)",
    """CREATE TABLE window (
        id TEXT PRIMARY KEY,
        session TEXT             -- what it has open
    )""",
    """CREATE VIRTUAL TABLE said USING fts5 (
        prompt, answer, content = 'exchange', content_rowid = 'place',
        tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3'
    )""",
    """CREATE TRIGGER said_more AFTER INSERT ON exchange BEGIN
        INSERT INTO said (rowid, prompt, answer) VALUES (new.place, new.prompt, new.answer);
    END""",
    """CREATE TRIGGER said_otherwise AFTER UPDATE OF prompt, answer ON exchange BEGIN
        INSERT INTO said (said, rowid, prompt, answer)
            VALUES ('delete', old.place, old.prompt, old.answer);
        INSERT INTO said (rowid, prompt, answer) VALUES (new.place, new.prompt, new.answer);
    END""",
    """CREATE TRIGGER said_less AFTER DELETE ON exchange BEGIN
        INSERT INTO said (said, rowid, prompt, answer)
            VALUES ('delete', old.place, old.prompt, old.answer);
    END""",
)

_OFFERED = (
    # a session of a killed window that this window offers to continue; if this window is killed
    # before anybody answers, the next one offers it again
    "ALTER TABLE window ADD COLUMN offered TEXT",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _OFFERED)
"""Statements that lead from version n to n + 1. Released ones never change."""

VERSION = len(MIGRATIONS)


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the database, created or migrated if need be; the caller begins transactions.

    Raises:
        OSError: its folder cannot be made.
        sqlite3.Error: it cannot be opened or written.
        LaterVersionError: it is of a version that this program does not know.
    """
    make_private_folder(path.parent)
    # SQLite would create it by the umask, and its companion files take over its mode
    with suppress(OSError):  # it exists, or cannot be made, which SQLite explains
        os.close(private_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    connection = sqlite3.connect(path, timeout=WRITE_PATIENCE_SECONDS, isolation_level=None)
    try:
        connection.create_function("fold", 1, _fold_or_none, deterministic=True)
        if _version(connection) > VERSION:  # before anything is changed
            raise _later(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        # a commit is handed to the operating system, which outlives a kill; only a loss of power
        # may take the last moments, and never leaves the file damaged
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        connection.execute(f"PRAGMA cache_size = {_CACHED_PAGES}")
        migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Migrate the schema, in one transaction.

    Raises:
        LaterVersionError: it is of a version that this program does not know.
    """
    if _version(connection) == VERSION:
        return
    with transaction(connection):
        version = _version(connection)  # another window may have been faster
        if version > VERSION:
            raise _later(path, connection)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction: committed at the end, rolled back by an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that reads one state of the database, for one thread and a short time.

    Raises:
        sqlite3.Error: it cannot be opened or read.
        LaterVersionError: it is of a version that this program does not know.
    """
    connection = _open_to_read(path)
    try:
        connection.create_function("fold", 1, _fold_or_none, deterministic=True)
        connection.execute("BEGIN")
        version = _version(connection)
        if version > VERSION:
            raise _later(path, connection)
        yield connection
    finally:
        connection.close()


def _open_to_read(path: Path) -> sqlite3.Connection:
    place = f"file:{quote(str(path))}?mode=ro"
    connection = _probed(place)
    if connection is None:
        # a folder that is read-only has no place for the log's index, and then nobody writes
        connection = _probed(f"{place}&immutable=1")
    if connection is None:
        raise sqlite3.OperationalError("unable to open database file")
    return connection


def _probed(place: str) -> sqlite3.Connection | None:
    """A connection that can read, or None if the file cannot be opened."""
    connection = sqlite3.connect(
        place, uri=True, timeout=READ_PATIENCE_SECONDS, isolation_level=None
    )
    connection.text_factory = _lenient
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if error_name(error).startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            return None
        raise
    return connection


def _lenient(text: bytes) -> str:
    """Damaged text is better than none."""
    return text.decode(errors="replace")


def _fold_or_none(text: str | None) -> str | None:
    return None if text is None else fold(text)


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _later(path: Path, connection: sqlite3.Connection) -> LaterVersionError:
    return LaterVersionError(
        f"{path} is of version {_version(connection)}, written by a later program; this one knows "
        f"versions up to {VERSION}"
    )
