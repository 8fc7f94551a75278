"""Which windows of the app are still there: each holds a lock on a file of its own while it lives.

The operating system lets go of a lock when the process ends, however it ends, so a window that was
killed is told from one that is open without asking for process numbers, which are used again.
"""

import fcntl
import os
from pathlib import Path


class Window:
    """This window.

    Args:
        folder: where windows have their files; made if need be.
        window: names it.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: Path, window: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    _file(folder, window).unlink(missing_ok=True)


def _file(folder: Path, window: str) -> Path:
    return folder / f"{window}.lock"
