"""A model's JSON files, with errors of one line, and SHA-256 digests of its files."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from sequoia_core.errors import ModelLoadError
from sequoia_core.files import make_private_folder, parse_json, read_text, write_whole

MOST_JSON_BYTES = 64 << 20  # an index of a thousand shards takes a few megabytes
REMEMBERED_BYTES = 16 << 20  # smaller files are read in milliseconds
SETTLED_NS = 2 * 10**9  # a file that changed later may change again unseen

BLOCK = 16 << 20


def first_line(error: Exception) -> str:
    """A library's message, cut to one line without control characters."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line)


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON object; {} for a missing file if that is allowed."""
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelLoadError(f"{path}: larger than {MOST_JSON_BYTES >> 20} MiB")
        found = parse_json(read_text(path))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise ModelLoadError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path}: no readable JSON ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: a JSON object was expected")
    return found


def file_digest(file: Path, progress: Callable[[float], None] = lambda _fraction: None) -> str:
    """SHA-256 of a file's content; `progress` receives the fraction of a large one that is read.

    A large file is read once; its digest is remembered with its size, inode and times.
    """
    with file.open("rb") as content:
        state = os.fstat(content.fileno())
        large = state.st_size >= REMEMBERED_BYTES
        folder = platformdirs.user_cache_path("sequoia") / "digests"
        record = folder / f"{state.st_dev:x}-{state.st_ino:x}"
        if large and (known := _remembered(record, state)) is not None:
            return known
        digest = hashlib.sha256()
        while block := content.read(BLOCK):
            digest.update(block)
            if large:
                progress(min(1.0, content.tell() / state.st_size))
        after = os.fstat(content.fileno())
    settled = time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NS
    if large and settled and _times(after) == _times(state):
        with contextlib.suppress(OSError):  # then the file is read again next time
            make_private_folder(folder)
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
