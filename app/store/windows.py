"""Which windows of the app are still there: each holds a lock on a file of its own while it lives.

The operating system lets go of a lock when the process ends, however it ends, so a window that was
killed is told from one that is open without asking for process numbers, which are used again.
"""

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path

from sequoia_core.files import make_private_folder

_NAME = re.compile(r"[\w-]+")
"""Names of windows come from the database, which may be of another machine: none is a path."""


class Window:
    """This window.

    Args:
        folder: where windows have their files; made if need be.
        window: names it.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, window: str) -> None:
        make_private_folder(folder)
        self._path = _file(folder, window)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """The window is no more."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def is_open(folder: Path, window: str) -> bool:
    """Whether a window is still there; one whose file cannot be looked at counts as open."""
    try:
        descriptor = os.open(_file(folder, window), os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def forget(folder: Path, window: str) -> None:
    """Take away the file of a window that was killed."""
    with suppress(FileNotFoundError):
        _file(folder, window).unlink()


def _file(folder: Path, window: str) -> Path:
    if not _NAME.fullmatch(window):
        raise FileNotFoundError(f"{window!r} names no window")
    return folder / f"{window}.lock"
