"""Digests of model files by their content, those of large files remembered.

Knows nothing of models or formats.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

REMEMBERED_BYTES = 16 << 20
"""Digests of files from this size on are remembered; smaller ones are read in milliseconds."""

SETTLED_NS = 2 * 10**9
"""A file that changed less than this ago may change again without its times showing it."""

BLOCK = 16 << 20


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
