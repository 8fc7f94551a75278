"""How files are read that others made, and how files are written.

Text is UTF-8; a byte order mark is skipped, and only LF and CR LF end a line, so that U+2028
and the other separators of `str.splitlines` stay where they are. JSON is read strictly. A file is
written whole or not at all, through a new file that no link can stand for.
"""

import io
import json
import os
import secrets
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

_MOST_DIGITS = 300
"""Of a whole number, its sign included."""
_PRIVATE = 0o600
_PRIVATE_FOLDER = 0o700
_PUBLIC = 0o666
"""Before the umask."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


def is_file_name(name: str) -> bool:
    """Whether the operating system can look for a file of this name at all."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def read_text(path: Path, limit: int | None = None) -> str:
    """The text of a file, without a byte order mark; line ends are as they are.

    Args:
        path: of the file.
        limit: most bytes, or None for any number. A larger file is not read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than the limit, or not UTF-8 (`UnicodeDecodeError`).
    """
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8-sig")


def split_lines(text: str) -> list[str]:
    r"""The lines of a text without their ends, which are `\n` or `\r\n` and nothing else."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    NaN and infinities are accepted, as `json` writes them; a caller that needs a finite number
    checks it. A whole number always fits into a float.

    Raises:
        ValueError: it is no JSON, is nested too deep, or has a whole number that is out of range.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text.removeprefix("\ufeff"), parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"the number {digits:.20}... is out of range")
    return int(digits)


def parse_toml(text: str) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        ValueError: it is no TOML (`TOMLDecodeError`), is nested too deep, or has a number that is
            out of range.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def private_file(path: str | Path, flags: int) -> int:
    """An `opener` for `open`: a new file is its owner's alone; one that is there keeps its mode."""
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), _PRIVATE)


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each its owner's alone.

    Raises:
        OSError: it cannot be made.
    """
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            each.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


@contextmanager
def written_whole(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes its place when the block ends, and never if it raises.

    A file that is there keeps its mode, and a link goes on to point where it did. What is no
    regular file, such as `/dev/stdout`, is written as it is.

    Args:
        path: of the file.
        private: a new file is its owner's alone.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    path = Path(os.path.realpath(path))
    before = _mode(path)
    if before is not None and not stat.S_ISREG(before):
        with path.open("wb") as file:
            yield file
        return
    # the name is random, and O_EXCL refuses an existing file, a link as well
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, _NEW, _PRIVATE if private or before is not None else _PUBLIC)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if before is not None:
                os.fchmod(descriptor, stat.S_IMODE(before))
            yield file
            file.flush()
            os.fsync(descriptor)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def text_written_whole(path: Path, *, private: bool = False) -> Iterator[TextIO]:
    """As `written_whole`, for text in UTF-8; half a surrogate pair is written as `?`."""
    with written_whole(path, private=private) as file:
        text = io.TextIOWrapper(file, "utf-8", "replace", newline="")
        try:
            yield text
        finally:
            text.detach()


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text; see `text_written_whole`.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with text_written_whole(path, private=private) as file:
        file.write(text)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None
