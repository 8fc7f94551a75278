"""Reads files that others made, and writes files whole or not at all; text is UTF-8."""

import io
import json
import os
import secrets
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import msgspec

_MOST_DIGITS = 300  # of a whole number, its sign included
_MESSAGE_CHARACTERS = 200
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700
_PUBLIC = 0o666  # before the umask
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


class MisfitError(ValueError):
    """A JSON value does not fit the type it should have; the message is one line."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Written as a JSON object of its fields; unknown ones, and those missing, are an error."""


class TaggedRecord(Record, frozen=True, tag=True, tag_field="event"):
    """A member of a union: its object also has the name of its class, as entry `event`."""


def is_file_name(name: str) -> bool:
    """Whether the operating system can look for a file of this name at all."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def expanded(path: str | Path) -> Path:
    """The path with a home folder for `~`; an unknown user's `~name` stays."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path's raises for an unknown user


def path_exists(path: str | Path) -> bool:
    """Whether there is a file or a folder; there is none of a name that the system refuses."""
    return os.path.exists(expanded(path))  # noqa: PTH110  # Path's raises for a long name


def read_text(path: Path, limit: int | None = None) -> str:
    """The text of a file without a byte order mark, line ends as they are.

    Raises OSError, or ValueError if it has more than `limit` bytes or is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return data.decode("utf-8-sig")


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends, LF or CR LF; U+2028 and its like end none."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text, which may have NaN and infinities, as `json` writes them.

    Raises ValueError if it is no JSON, is nested too deep, or has a whole number beyond a float.
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
    """The table of a TOML text; raises ValueError if it is none or is nested too deep."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def encode(value: Any) -> Any:
    """What `json.dumps` takes for a record, a dataclass, or a collection of such."""
    return msgspec.to_builtins(value)


def decode(kind: Any, value: Any) -> Any:
    """The value of type `kind` that `value`, from `parse_json`, stands for, or MisfitError.

    Nothing is converted but whole numbers to floats and names to enums.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text = str(error)[:_MESSAGE_CHARACTERS]
        raise MisfitError("".join(c if c.isprintable() else "?" for c in text)) from None
    except UnicodeEncodeError:  # names are compared in UTF-8
        raise MisfitError("a name is not Unicode text") from None


def private_file(path: str | Path, flags: int) -> int:
    """An `opener` for `open`: a new file is its owner's alone; one that is there keeps its mode."""
    return os.open(path, flags | getattr(os, "O_CLOEXEC", 0), _PRIVATE)


def make_private_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, each its owner's alone."""
    for each in reversed([folder, *folder.parents]):
        if not each.is_dir():
            each.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)


@contextmanager
def written_whole(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes its place when the block ends, and never if it raises.

    What is there keeps its mode, a link goes on to point where it did, and what is no regular file,
    such as `/dev/stdout`, is written as it is. A new file that is `private` is its owner's alone.
    """
    path = Path(os.path.realpath(path))
    mode: int | None = None
    with suppress(FileNotFoundError):
        mode = path.stat().st_mode
    if mode is not None and not stat.S_ISREG(mode):
        with path.open("wb") as file:
            yield file
        return
    # the name is random, and O_EXCL refuses an existing file, a link as well
    part = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, _NEW, _PRIVATE if private or mode is not None else _PUBLIC)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, stat.S_IMODE(mode))
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
    with text_written_whole(path, private=private) as file:
        file.write(text)
