"""What can go wrong with the database, in the words a person needs.

Owns which errors pass by themselves and which need a hand. Knows no SQL and no thread.
"""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.errors import SequoiaError

_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_BARRED = ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")
_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")


class StoreError(SequoiaError):
    """The record of the chats cannot be read or written, or holds no such chat."""


class DamagedError(StoreError):
    """What was read from the record does not make sense."""


class LaterVersionError(StoreError):
    """The database was written by a later version of the program."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why nothing can be written now.

    Attributes:
        message: one line on what is wrong.
        advice: one line on what becomes of the chat, and what to do.
        passes: it may be over by itself, so that trying again makes sense.
    """

    message: str
    advice: str
    passes: bool

    @property
    def line(self) -> str:
        """Both in one line."""
        return f"{self.message}; {self.advice}"


_MEANWHILE = "the chat goes on in memory and is saved as soon as that is over"
_IN_MEMORY = "the chat goes on in memory only, nothing of it will be saved"


def explain(error: Exception, path: Path) -> Trouble:
    """What an error of the database or of the file system means for the chat."""
    if isinstance(error, StoreError) and not isinstance(error, DamagedError):
        return Trouble(str(error), _IN_MEMORY, passes=False)
    if isinstance(error, OSError):
        return Trouble(f"{path}: {error.strerror or error}", _MEANWHILE, passes=True)
    name = error_name(error)
    if name.startswith(_BUSY):
        return Trouble(f"{path} is locked by another program", _MEANWHILE, passes=True)
    if name.startswith("SQLITE_FULL"):
        return Trouble(f"no room is left on the disk for {path}", _MEANWHILE, passes=True)
    if name.startswith(_BARRED):
        barred = f"{path} cannot be written: the file or its folder is read-only"
        return Trouble(barred, _MEANWHILE, passes=True)
    # SQLite quotes what it stumbles over in its messages, which then need not be text
    if name.startswith(_DAMAGED) or isinstance(error, DamagedError | ValueError):
        return Trouble(
            f"{path} is damaged ({_reason(error)})",
            "the file is left as it is, and the chat goes on in memory only: move the file away to "
            "begin a new record",
            passes=False,
        )
    if name.startswith("SQLITE_IOERR"):
        refused = f"the disk refuses to read or write {path} ({error})"
        return Trouble(refused, _MEANWHILE, passes=True)
    return Trouble(f"{path}: {error}", _IN_MEMORY, passes=False)


def _reason(error: Exception) -> str:
    return "unreadable" if isinstance(error, ValueError) else str(error)


def error_name(error: Exception) -> str:
    """SQLite's own name of an error, "" for other errors."""
    if not isinstance(error, sqlite3.Error):
        return ""
    return getattr(error, "sqlite_errorname", None) or ""
