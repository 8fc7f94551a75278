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
    tokens, steps = _columns(counts)
    draws = _draws(len(counts))
    return _interval(float(tokens.sum() / steps.sum()), tokens[draws].sum(1) / steps[draws].sum(1))


def difference(counts: Sequence[Counted], others: Sequence[Counted]) -> Interval:
    """How many more tokens a step gives than another way's, prompts resampled in pairs.

    Args:
        counts: one for each prompt.
        others: of the same prompts in the same order.
    """
    assert len(counts) == len(others)
    tokens, steps = _columns(counts)
    other_tokens, other_steps = _columns(others)
    draws = _draws(len(counts))
    resampled = tokens[draws].sum(1) / steps[draws].sum(1)
    resampled -= other_tokens[draws].sum(1) / other_steps[draws].sum(1)
    value = tokens.sum() / steps.sum() - other_tokens.sum() / other_steps.sum()
    return _interval(float(value), resampled)


def _columns(counts: Sequence[Counted]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    tokens = np.array([count.tokens for count in counts], dtype=np.float64)
    return tokens, np.array([count.steps for count in counts], dtype=np.float64)


def _draws(prompts: int) -> NDArray[np.int64]:
    """Prompts of each resampling, [RESAMPLES, prompts]; the same ones every time."""
    return np.random.default_rng(_SEED).integers(prompts, size=(RESAMPLES, prompts))


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1.0 - tail))
    return Interval(float(low), value, float(high))
