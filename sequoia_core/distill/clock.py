"""Time spent on a distillation, breaks left out, against the time it was given.

Owns a small file, so that minutes count across interruptions. Knows nothing of stages.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic

from sequoia_core.distill.options import write_json

SAVE_SECONDS = 10.0


class Clock:
    """Counts while it is ticked.

    Args:
        file: where the count is kept; read if it is there.
        minutes: that were given; None is as many as it takes.
    """

    def __init__(self, file: Path, minutes: float | None) -> None:
        self._file, self._minutes = file, minutes
        self._spent = 0.0
        if file.exists():
            self._spent = float(json.loads(file.read_text("utf-8"))["seconds"])
        self._since = self._saved = monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far."""
        return self._spent + monotonic() - self._since

    def tick(self) -> None:
        """Keep the count; what was spent since the last `SAVE_SECONDS` is lost to a kill."""
        if monotonic() - self._saved > SAVE_SECONDS:
            write_json(self._file, {"seconds": self.seconds})
            self._saved = monotonic()

    def left(self, share: float) -> float:
        """Seconds until this share of the given time is spent; infinite where none was given."""
        if self._minutes is None:
            return float("inf")
        return share * self._minutes * 60.0 - self.seconds
