"""Which windows of the app are open, and what killed ones left behind."""

import fcntl
import os
import re
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.files import make_private_folder

from .archive import events_of
from .database import DamagedError, Operation, statements
from .growing_answers import end_answer
from .packing import CUT_OFF, Digest, digest_of

_NAME = re.compile(r"[\w-]+")
"""Names of windows come from the database, which may be of another machine: none is a path."""


class WindowLock:
    """The lock of this window, which the operating system releases however its process ends.

    Raises OSError if its file cannot be made.
    """

    def __init__(self, folder: Path, window: str) -> None:
        make_private_folder(folder)
        self._path = _lock_file(folder, window)
        try:
            self._descriptor = _locked(self._path, os.O_CREAT)
        except OSError:  # the file may have been made where there are no locks
            self._path.unlink(missing_ok=True)
            raise

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_open(folder: Path, window: str) -> bool:
    """Whether a window is open; one whose lock file cannot be opened counts as open."""
    try:
        os.close(_locked(_lock_file(folder, window)))
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return False


def _locked(path: Path, flags: int = 0) -> int:
    """The descriptor of a file with its lock. Raises OSError if another process has that."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _lock_file(folder: Path, window: str) -> Path:
    if not _NAME.fullmatch(window):
        raise FileNotFoundError(f"{window!r} names no window")
    return folder / f"{window}.lock"


@dataclass(frozen=True, slots=True)
class LeftOpen:
    """The session that a window had open when it was killed."""

    session: str
    cut_off: bool  # the answer at the end of its branch was being written


def open_session(window: str, session: str | None, offered: str | None = None) -> Operation:
    """A window has a session open, or none; the person is asked about the `offered` one."""
    return statements(
        "INSERT INTO window (id, session, offered) VALUES (:window, :session, :offered) "
        "ON CONFLICT (id) DO UPDATE SET session = excluded.session, offered = excluded.offered",
        window=window, session=session, offered=offered,
    )  # fmt: skip


def recover(to: sqlite3.Connection, folder: Path) -> LeftOpen | None:
    """Put in order what killed windows left behind; returns the newest session they had open.

    Answers that were cut off are completed with the events there are, and what those windows had
    deleted is deleted for good. `folder` has the lock files.
    """
    windows = to.execute("SELECT id, coalesce(session, offered) FROM window").fetchall()
    dead = {window: session for window, session in windows if not is_open(folder, window)}
    for window in dead:
        to.execute("DELETE FROM window WHERE id = ?", (window,))
        with suppress(FileNotFoundError):
            _lock_file(folder, window).unlink()
    growing = to.execute(
        "SELECT id, place, started FROM exchange WHERE ending IS NULL "
        "AND coalesce(window, '') NOT IN (SELECT id FROM window)"
    )
    for exchange, place, started in growing.fetchall():
        try:
            digest = digest_of(events_of(to, place))
        except DamagedError:
            digest = Digest(failure=CUT_OFF)
        end_answer(exchange, digest, started)(to)
    _purge(to)
    left = to.execute(
        "SELECT id, EXISTS (SELECT 1 FROM exchange e WHERE e.id = selected AND ending = 'cut off') "
        f"FROM session WHERE id IN ({', '.join('?' * len(dead))}) AND deleted IS NULL "
        "ORDER BY changed DESC LIMIT 1",
        list(dead.values()),
    ).fetchone()
    return LeftOpen(left[0], bool(left[1])) if left else None


def leave(to: sqlite3.Connection, window: str) -> None:
    to.execute("DELETE FROM window WHERE id = ?", (window,))
    _purge(to)


def _purge(to: sqlite3.Connection) -> None:
    """Delete for good what windows deleted that are closed now, unless another one has it open."""
    gone = to.execute(
        "DELETE FROM session WHERE deleted IS NOT NULL "
        "AND coalesce(deleted_by, '') NOT IN (SELECT id FROM window) "
        "AND id NOT IN (SELECT session FROM window WHERE session IS NOT NULL)"
    )
    if gone.rowcount:  # until it is merged, the index holds the words of what was taken out of it
        to.execute("INSERT INTO said (said) VALUES ('optimize')")
