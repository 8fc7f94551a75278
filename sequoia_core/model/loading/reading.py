"""Reading configuration files of models, with errors of one line."""

from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.files import parse_json, read_text

MOST_JSON_BYTES = 64 << 20
"""An index of a thousand shards takes a few megabytes."""


def first_line(error: Exception) -> str:
    """A library's message, cut to one line without control characters."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line)


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON object from a file; {} for a missing file if that is allowed.

    Raises:
        ModelLoadError: the file is missing, unreadable, or holds something else.
    """
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
