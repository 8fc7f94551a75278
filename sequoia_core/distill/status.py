"""What a distillation tells whoever watches it. Knows neither stages nor screens."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Status:
    """How far a distillation has come.

    Attributes:
        stage: what is being done.
        fraction: of the stage, 0 to 1.
        rate: tokens per second of this stage, since it was begun or gone on with.
        loss: of the last training step; None outside training.
        tokens_per_step: predicted from text that was held out; None before the first look at it.
    """

    stage: str
    fraction: float
    rate: float
    loss: float | None = None
    tokens_per_step: float | None = None


class Pace:
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
