"""Converted models kept on disk, so that a GGUF file is dequantised once and not at every start.

Owns the layout of the cache folder and its safety: an entry is written beside its place and moved
there whole; a manifest with digests shows a damaged entry, which then counts as absent; two
processes that convert the same file at once both succeed. It knows nothing of models or formats:
the caller writes an entry's files.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

MANIFEST = "manifest.json"
ABANDONED_SECONDS = 3600
REMEMBERED_BYTES = 16 << 20
"""Digests of files from this size on are remembered; smaller ones are read in milliseconds."""

SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again without its times showing it."""

BLOCK = 16 << 20

_log = logging.getLogger(__name__)


def default_root() -> Path:
    """Where converted models lie: below the user's cache directory (XDG)."""
    return platformdirs.user_cache_path("sequoia") / "converted"


def digest_root() -> Path:
    """Where digests of large files are remembered."""
    return platformdirs.user_cache_path("sequoia") / "digests"


def file_digests(
    files: Sequence[Path], progress: Callable[[float], None] = lambda _fraction: None
) -> dict[str, str]:
    """SHA-256 of each file's whole content by its name, whatever its place and times.

    A large file is read once; its digest is remembered with its size, inode and times.

    Args:
        files: in one folder.
        progress: receives the part of all bytes that has been read, while a large file is.

    Raises:
        OSError: a file cannot be read.
    """
    sizes = [file.stat().st_size for file in files]
    digests: dict[str, str] = {}
    done = 0
    for file, size in zip(files, sizes, strict=True):

        def read(count: int, before: int = done) -> None:
            progress(min(1.0, (before + count) / sum(sizes)))

        digests[file.name] = _digest(file, read)
        done += size
    return digests


def _digest(file: Path, read: Callable[[int], None]) -> str:
    with file.open("rb") as content:
        state = os.fstat(content.fileno())
        large = state.st_size >= REMEMBERED_BYTES
        record = digest_root() / f"{state.st_dev:x}-{state.st_ino:x}"
        if large and (known := _remembered(record, state)) is not None:
            return known
        digest = hashlib.sha256()
        while block := content.read(BLOCK):
            digest.update(block)
            if large:
                read(content.tell())
        after = os.fstat(content.fileno())
    settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NS
    if large and settled and _times(after) == _times(state):
        _remember(record, [*_times(state), digest.hexdigest()])
    return digest.hexdigest()


def _times(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _remembered(record: Path, state: os.stat_result) -> str | None:
    """A digest that this user wrote down for a file in this state."""
    try:
        with record.open(encoding="utf-8") as file:
            written = os.fstat(file.fileno())
            if written.st_mode & 0o022 or written.st_uid != _own_user():
                return None
            *times, digest = json.load(file)
    except (OSError, ValueError, TypeError):
        return None
    return digest if times == _times(state) and isinstance(digest, str) else None


def _own_user() -> int:
    """The user that this process's files belong to; 0 where there are no users."""
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _remember(record: Path, values: list[int | str]) -> None:
    with contextlib.suppress(OSError):  # it is read again, then
        _private_folder(record.parent)
        handle, staged = tempfile.mkstemp(dir=record.parent)  # readable by this user alone
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(values, file)
        Path(staged).replace(record)


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


class ConvertCache:
    """Entries by key; a key is fit to be a file name."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, key: str) -> Path | None:
        """The folder of a whole entry, or None when there is none or it is damaged."""
        entry = self._root / key
        try:
            manifest = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
            whole = bool(manifest) and file_digests([entry / name for name in manifest]) == manifest
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _log.info("unreadable cache entry %s: %s", entry, error)
            return None
        return entry if whole else None

    def store(self, key: str, size: int, write: Callable[[Path], None]) -> Path | None:
        """Make an entry.

        Args:
            key: its name; an entry of that name that is damaged is replaced.
            size: bytes it will need, roughly.
            write: puts its files into the empty folder it is given.

        Returns:
            the entry's folder, or None when the cache cannot be written or the disk is too full.
        """
        staged: Path | None = None
        try:
            _private_folder(self._root)
            self._sweep()
            if shutil.disk_usage(self._root).free < 2 * size:
                return None
            staged = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._root))
            write(staged)
            manifest = file_digests(sorted(staged.iterdir()))
            (staged / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for file in staged.iterdir():
                file.chmod(0o600)
            return self._publish(staged, key)
        except OSError as error:
            _log.info("nothing was cached under %s: %s", self._root, error)
            return None
        finally:
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)

    def drop(self, key: str) -> None:
        """Remove an entry that turned out to be of no use."""
        entry = self._root / key
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)

    def _publish(self, staged: Path, key: str) -> Path | None:
        entry = self._root / key
        try:
            os.replace(staged, entry)  # noqa: PTH105  # Path.replace hides that this is the commit
        except OSError:
            # taken: by another process that was faster, or by the damaged entry to be replaced
            if (found := self.find(key)) is not None:
                return found
            self.drop(key)
            staged.replace(entry)
        return entry

    def _sweep(self) -> None:
        """Remove what crashed conversions left behind."""
        oldest = time.time() - ABANDONED_SECONDS
        for left in self._root.glob(".writing-*"):
            with contextlib.suppress(FileNotFoundError):  # finished in this moment
                if left.stat().st_mtime < oldest:
                    shutil.rmtree(left, ignore_errors=True)
