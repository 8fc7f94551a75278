"""Progress of a distillation, and the time it has taken."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from sequoia_core.distill.options import write_json

SAVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class DistillStatus:
    """Progress of a stage.

    Attributes:
        stage: its name.
        fraction: done of the stage, 0 to 1.
        rate: tokens per second since the stage was begun or resumed.
        loss: of the last training step; None outside training.
        tokens_per_step: predicted on held-out text; None before the first evaluation.
    """

    stage: str
    fraction: float
    rate: float
    loss: float | None = None
    tokens_per_step: float | None = None


class TokenRate:
    """Tokens per second since the first count."""

    def __init__(self) -> None:
        self._began: tuple[float, int] | None = None

    def at(self, tokens: int) -> float:
        """The rate, now that so many tokens are done."""
        now = monotonic()
        if self._began is None:
            self._began = (now, tokens)
        since, before = self._began
        return (tokens - before) / (now - since) if now > since else 0.0


class TimeBudget:
    """Counts the time of a run across interruptions, without the breaks, in a file.

    The budget is so many minutes, or None for as long as it takes.
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
        """Save the count every `SAVE_SECONDS`; what came after is lost to a kill."""
        if monotonic() - self._saved > SAVE_SECONDS:
            write_json(self._file, {"seconds": self.seconds})
            self._saved = monotonic()

    def left(self, share: float) -> float:
        """Seconds until this share of the budget is spent; infinite without a budget."""
        if self._minutes is None:
            return float("inf")
        return share * self._minutes * 60.0 - self.seconds
