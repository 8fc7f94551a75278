"""What can go wrong with the database, in the words a person needs."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.errors import SequoiaError

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_READ_ONLY = ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


class StoreError(SequoiaError):
    """The record of the chats cannot be read or written, or holds no such chat."""


class DamagedError(StoreError):
    """What was read from the record does not make sense."""


class LaterVersionError(StoreError):
    """The database was written by a later version of the program."""


@dataclass(frozen=True, slots=True)
class WriteProblem:
    """Why nothing can be written now.

    Attributes:
        message: one line on what is wrong.
        advice: one line on what this means for the chat, and what to do.
        temporary: it may end by itself, so trying again makes sense.
    """

    message: str
    advice: str
    temporary: bool

    @property
    def line(self) -> str:
        """Both in one line."""
        return f"{self.message}; {self.advice}"


_IN_MEMORY = "the chat goes on in memory only, nothing of it will be saved"


def explain(error: Exception, path: Path) -> WriteProblem:
    """What an error of the database or of the file system means for the chat."""
    if isinstance(error, StoreError) and not isinstance(error, DamagedError):
        return WriteProblem(str(error), _IN_MEMORY, temporary=False)
    if isinstance(error, OSError):
        return _temporary(f"{path}: {error.strerror or error}")
    name = error_name(error)
    if name.startswith(_BUSY):
        return _temporary(f"{path} is locked by another program")
    if name.startswith("SQLITE_FULL"):
        return _temporary(f"no room is left on the disk for {path}")
    if name.startswith(_READ_ONLY):
        return _temporary(f"{path} cannot be written: the file or its folder is read-only")
    if name.startswith("SQLITE_IOERR"):
        return _temporary(f"the disk refuses to read or write {path} ({error})")
    if name.startswith(_DAMAGED) or isinstance(error, DamagedError | ValueError):
        # a ValueError: SQLite quotes the damage in its messages, which then need not be text
        reason = "unreadable" if isinstance(error, ValueError) else str(error)
        return WriteProblem(
            f"{path} is damaged ({reason})",
            "the file is left as it is, and the chat goes on in memory only: move the file away to "
            "begin a new record",
            temporary=False,
        )
    return WriteProblem(f"{path}: {error}", _IN_MEMORY, temporary=False)


def _temporary(message: str) -> WriteProblem:
    advice = "the chat goes on in memory and is saved as soon as that is over"
    return WriteProblem(message, advice, temporary=True)


def error_name(error: Exception) -> str:
    """SQLite's own name of an error; "" for other errors."""
    if not isinstance(error, sqlite3.Error):
        return ""
    return getattr(error, "sqlite_errorname", None) or ""
