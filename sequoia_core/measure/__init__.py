"""Measures a pair on this machine: forward times and acceptance rates, from which trees follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sequoia_core.events import Progress

if TYPE_CHECKING:
    from sequoia_core.measure.tuner import Tuner
    from sequoia_core.model.loading.pair import Pair


def calibrate(pair: Pair, temperature: float, progress: Progress) -> Tuner:
    """Measure a pair and keep the figures for later starts.

    Args:
        pair: the models.
        temperature: to sample at beside greedy decoding; 0 is the usual one.
        progress: told what is being done and which part is done.
    """
    from sequoia_core.measure.tuner import Tuner

    tuner = Tuner(pair)
    for message, fraction in tuner.measure(temperature):
        progress(message, fraction)
    return tuner
