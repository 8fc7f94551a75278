"""What is found, printed as it comes and kept as JSON after every line."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic

from sequoia_core.errors import ParameterError

NAME = "gpu-day.json"
VERSION = 1  # of the format

Value = str | int | float | bool
Row = Mapping[str, Value]


class DayReport:
    """Parts with rows of named values; a name ends with its unit. Nothing found is ever lost."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(f"no report can be kept in {folder}: {error}") from error
        self.path = folder / NAME
        self.parts: dict[str, dict[str, Row]] = {}
        self.failures: dict[str, str] = {}  # by part
        self.left_out: dict[str, str] = {}  # the same
        self.seconds: dict[str, float] = {}  # that each part took
        self._say, self._part, self._began = say, "", 0.0

    def begin(self, part: str) -> None:
        self._part, self._began = part, monotonic()
        self.parts[part] = {}
        self._say(f"[{part}]")
        self._save()

    def end(self, failure: str = "") -> None:
        """The part is over; a failure is a traceback or a reason, whose last line is printed."""
        self.seconds[self._part] = round(monotonic() - self._began, 3)
        if failure:
            self.failures[self._part] = failure
            self._say(f"  failed: {failure.strip().splitlines()[-1]}")
        self._save()

    def leave_out(self, part: str, reason: str) -> None:
        self.left_out[part] = reason
        self._say(f"[{part}] left out: {reason}")
        self._save()

    def row(self, name: str, values: Row) -> None:
        values = {key: _plain(value) for key, value in values.items()}
        self.parts[self._part][name] = values
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in values.items())
        self._say(f"  {name}: {shown}")
        self._save()

    @property
    def broken(self) -> bool:
        """Whether a part failed, or a row says that decoding is not lossless."""
        rows = (row for part in self.parts.values() for row in part.values())
        checked = (row[name] for row in rows for name in row if name.endswith("lossless"))
        return bool(self.failures) or not all(checked)

    def number(self, part: str, row: str, key: str) -> float | None:
        """A number that was found; None if it was not."""
        value = self.parts.get(part, {}).get(row, {}).get(key)
        return float(value) if isinstance(value, int | float) else None

    def _save(self) -> None:
        kept = {
            "version": VERSION,
            "parts": self.parts,
            "seconds": self.seconds,
            "failures": self.failures,
            "left_out": self.left_out,
        }
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(self.path)


def _plain(value: Value) -> Value:
    """As JSON can state it: not a number, and infinity, are words there."""
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _shown(value: Value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
