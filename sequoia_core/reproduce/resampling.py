"""How sure a figure over prompts is: bootstrap intervals of tokens per step.

Owns the statistics. Prompts are what is resampled, since steps of one answer depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
LEVEL = 0.95
"""Part of the resampled figures that an interval holds."""

_SEED = 17


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and the ends of its interval."""

    low: float
    value: float
    high: float

    def text(self, digits: int = 2) -> str:
        """`2.13 (1.98 to 2.30)`."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Counted:
    """What was decoded after one prompt."""

    tokens: int
    steps: int


def tokens_per_step(counts: Sequence[Counted]) -> Interval:
    """All tokens over all steps, with the interval over prompts.

    Args:
        counts: one for each prompt, at least one; each with a step or more.
    """
    return _interval(*_tokens_per_step(counts))


def difference(
    counts: Sequence[Sequence[Counted]], others: Sequence[Sequence[Counted]]
) -> Interval:
    """How many more tokens a step gives than another way's, prompts resampled in pairs.

    Args:
        counts: for one setting or more, one for each prompt; the mean over settings is taken.
        others: of the same settings and prompts in the same order.
    """
    ahead = [_tokens_per_step(each) for each in counts]
    behind = [_tokens_per_step(each) for each in others]
    both = list(zip(ahead, behind, strict=True))
    values = [value - other for (value, _), (other, _) in both]
    resampled = [drawn - others_drawn for (_, drawn), (_, others_drawn) in both]
    return _interval(sum(values) / len(values), np.mean(resampled, axis=0))


def differences(
    counts: Sequence[Sequence[Counted]], others: Sequence[Sequence[Counted]]
) -> list[Interval]:
    """As `difference`, setting by setting, with intervals that all hold at once.

    Of many intervals that hold one by one some do not hold by chance. These are as wide, in
    standard errors, as the resampled figures' largest deviation of all seldom is.

    Args:
        counts: for one setting or more, one for each prompt; the prompts are the same.
        others: of the same settings and prompts in the same order.
    """
    ahead = [_tokens_per_step(each) for each in counts]
    behind = [_tokens_per_step(each) for each in others]
    both = list(zip(ahead, behind, strict=True))
    values = np.array([value - other for (value, _), (other, _) in both])
    resampled = np.stack([drawn - others_drawn for (_, drawn), (_, others_drawn) in both])
    errors = resampled.std(axis=1)  # [settings]
    deviations = np.abs(resampled - values[:, None])
    scaled = deviations / np.where(errors > 0, errors, 1.0)[:, None]
    widths = errors * np.quantile(scaled.max(axis=0), LEVEL)
    return [
        Interval(float(value - width), float(value), float(value + width))
        for value, width in zip(values, widths, strict=True)
    ]


def _tokens_per_step(counts: Sequence[Counted]) -> tuple[float, NDArray[np.float64]]:
    """As counted, and resampled [RESAMPLES]."""
    tokens = np.array([count.tokens for count in counts], dtype=np.float64)
    steps = np.array([count.steps for count in counts], dtype=np.float64)
    draws = np.random.default_rng(_SEED).integers(len(counts), size=(RESAMPLES, len(counts)))
    return float(tokens.sum() / steps.sum()), tokens[draws].sum(1) / steps[draws].sum(1)


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1.0 - tail))
    return Interval(float(low), value, float(high))
