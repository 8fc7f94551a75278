"""Measures a pair on this machine: forward times and acceptance rates, from which trees follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sequoia_core.pair import Pair


def calibrate(pair: Pair, progress: Callable[[str, float | None], None]) -> str:
    """Measure a pair, keep the figures for later starts, and say in a line what they predict."""
    from sequoia_core.measure.tuning import Tuner

    tuner = Tuner(pair)
    for message, fraction in tuner.measure():
        progress(message, fraction)
    return tuner.summary()
