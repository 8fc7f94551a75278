"""Converted models kept on disk, so that a GGUF file is dequantised once and not at every start.

Owns the layout of the cache folder and its safety: an entry is written beside its place and moved
there whole; a manifest with sizes and checksums tells a damaged entry, which then counts as
absent; two processes that convert the same file at once both succeed. It knows nothing of models or
formats: the caller writes an entry's files.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import platformdirs

MANIFEST = "manifest.json"
ABANDONED_SECONDS = 3600
CHECKED_BYTES = 1 << 30
"""Most bytes read to recognise a model, all its files together: a fraction of a second's work."""

BLOCK = 1 << 20

_log = logging.getLogger(__name__)


def default_root() -> Path:
    """Where converted models lie: below the user's cache directory (XDG)."""
    return platformdirs.user_cache_path("sequoia") / "converted"


def file_digests(files: Sequence[Path]) -> dict[str, str]:
    """Size and checksum of each file's content by its name, whatever its place and times.

    When all together are larger than `CHECKED_BYTES`, blocks spread evenly over them are read.

    Raises:
        OSError: a file cannot be read.
    """
    sizes = [file.stat().st_size for file in files]
    step = BLOCK * max(1, math.ceil(sum(sizes) / CHECKED_BYTES))
    return {
        file.name: f"{size:x}-{_checksum(file, range(0, size, step)):08x}"
        for file, size in zip(files, sizes, strict=True)
    }


def _checksum(path: Path, offsets: Iterable[int]) -> int:
    checksum = 0
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            checksum = zlib.crc32(file.read(BLOCK), checksum)
    return checksum


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
            self._root.mkdir(parents=True, exist_ok=True)
            self._sweep()
            if shutil.disk_usage(self._root).free < 2 * size:
                return None
            staged = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._root))
            write(staged)
            manifest = file_digests(sorted(staged.iterdir()))
            (staged / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
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
