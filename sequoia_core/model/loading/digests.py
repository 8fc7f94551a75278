"""SHA-256 digests of model files; those of large files are remembered."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from sequoia_core.files import make_private_folder, write_whole

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
    """SHA-256 of the content of each file in a folder, by its name.

    A large file is read once; its digest is remembered with its size, inode and times.
    `progress` receives the fraction of all bytes read, while a large file is.

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
        with contextlib.suppress(OSError):  # then the file is read again next time
            make_private_folder(record.parent)
            record.unlink(missing_ok=True)  # an existing file would keep its mode
            values = [*_times(state), digest.hexdigest()]
            write_whole(record, json.dumps(values), private=True)
    return digest.hexdigest()


def _times(state: os.stat_result) -> list[int]:
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns]


def _remembered(record: Path, state: os.stat_result) -> str | None:
    """The digest of a file in this state, if this user alone could have written it down."""
    own_user = os.geteuid() if hasattr(os, "geteuid") else 0
    try:
        with record.open(encoding="utf-8") as file:
            written = os.fstat(file.fileno())
            if written.st_mode & 0o022 or written.st_uid != own_user:
                return None
            *times, digest = json.load(file)
    except (OSError, ValueError, TypeError):
        return None
    return digest if times == _times(state) and isinstance(digest, str) else None
