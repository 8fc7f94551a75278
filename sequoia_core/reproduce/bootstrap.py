"""How certain a figure over prompts is: bootstrap intervals of tokens per step.

Prompts are resampled, not steps, since the steps of one answer depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sequoia_core.measure.spread import Spread

RESAMPLES = 4000
LEVEL = 0.95  # part of the resampled figures that an interval holds
_SEED = 17

Counts = Sequence[tuple[int, int]]  # tokens and steps of each prompt, one step or more


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    value: float
    high: float

    def spread(self) -> Spread:
        return Spread(self.low, self.value, self.high)


def tokens_per_step(counts: Counts) -> Interval:
    """All tokens over all steps of one prompt or more, with the interval over prompts."""
    return _interval(*_resampled(counts))


def mean_difference(counts: Sequence[Counts], others: Sequence[Counts]) -> Interval:
    """How many more tokens a step gives than with another rule, as a mean over settings.

    The counts of each setting are of the same prompts in the same order, resampled in pairs.
    """
    values, resampled = _differences(counts, others)
    return _interval(float(values.mean()), resampled.mean(axis=0))


def simultaneous_differences(counts: Sequence[Counts], others: Sequence[Counts]) -> list[Interval]:
    """As `mean_difference` for each setting, with intervals that hold all at once.

    Of many intervals that hold one by one, some fail by chance. The half-width of these, in
    standard errors, is a quantile of the largest deviation over all settings.
    """
    values, resampled = _differences(counts, others)
    errors = resampled.std(axis=1)  # [settings]
    deviations = np.abs(resampled - values[:, None])
    scaled = deviations / np.where(errors > 0, errors, 1.0)[:, None]
    widths = errors * np.quantile(scaled.max(axis=0), LEVEL)
    bounds = np.stack([values - widths, values, values + widths], axis=1)
    return [Interval(*each) for each in bounds.tolist()]


def _differences(
    counts: Sequence[Counts], others: Sequence[Counts]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As counted [settings], and resampled [settings, RESAMPLES]."""
    pairs = [(_resampled(a), _resampled(b)) for a, b in zip(counts, others, strict=True)]
    values = np.array([value - other for (value, _), (other, _) in pairs])
    return values, np.stack([drawn - other for (_, drawn), (_, other) in pairs])


def _resampled(counts: Counts) -> tuple[float, NDArray[np.float64]]:
    """Tokens per step as counted, and resampled [RESAMPLES]."""
    prompts = np.array(counts, dtype=np.float64)  # [prompts, 2]
    draws = np.random.default_rng(_SEED).integers(len(prompts), size=(RESAMPLES, len(prompts)))
    tokens, steps = prompts[draws].sum(1).T
    return float(prompts[:, 0].sum() / prompts[:, 1].sum()), tokens / steps


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    tail = (1.0 - LEVEL) / 2
    low, high = np.quantile(resampled, (tail, 1.0 - tail))
    return Interval(float(low), value, float(high))
