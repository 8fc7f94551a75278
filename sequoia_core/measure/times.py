"""How long forwards take on this machine, by number of rows.

Owns the timing protocol: warm-up, interleaved repeats, medians. Knows nothing of trees.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch

from sequoia_core.errors import ParameterError
from sequoia_core.protocols import KVCache, LanguageModel
from sequoia_core.stopwatch import TimedModel


@dataclass(frozen=True, slots=True)
class TimeCurve:
    """Milliseconds of a forward by rows, linear in between and past the ends.

    Attributes:
        rows: ascending, at least two.
        milliseconds: one per entry of `rows`, positive.

    Raises:
        ParameterError: these are no such figures.
    """

    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in pairwise(self.rows))
        if len(self.rows) < 2 or len(self.rows) != len(self.milliseconds) or not ascending:
            raise ParameterError("a time curve needs two row counts or more, ascending, each timed")
        if not all(math.isfinite(ms) and ms > 0 for ms in self.milliseconds):
            raise ParameterError("a time curve has an entry that is no positive time")

    def __call__(self, rows: int) -> float:
        """Milliseconds of a forward of so many rows."""
        right = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1)
        low, high = self.rows[right - 1], self.rows[right]
        start, end = self.milliseconds[right - 1], self.milliseconds[right]
        return max(start + (end - start) * (rows - low) / (high - low), 1e-6)


def time_forwards(
    subjects: Sequence[tuple[LanguageModel, Sequence[int]]], context: int, repeats: int
) -> Iterator[tuple[TimeCurve, ...]]:
    """Time forwards of several models and sizes after `context` tokens.

    All take turns, so that a machine that slows down slows all of them. The first round warms up
    and is not counted, so its curves are replaced by the next.

    Args:
        subjects: models, each with its numbers of rows, ascending.
        context: tokens in the caches.
        repeats: counted rounds.

    Yields:
        one curve per subject, after every round.
    """
    benches = [_Bench(model, rows, context) for model, rows in subjects]
    for round_index in range(repeats + 1):
        for bench in benches:
            bench.run_round(counted=round_index > 0)
        yield tuple(bench.curve for bench in benches)


class _Bench:
    """One model's samples by number of rows."""

    def __init__(self, model: LanguageModel, rows: Sequence[int], context: int) -> None:
        self._model, self._cache = TimedModel(model), model.new_cache()
        model.extend(torch.ones(context, dtype=torch.int64, device=model.device), self._cache)
        self._samples: dict[int, list[float]] = {size: [] for size in rows}
        self._warm: dict[int, float] = {}

    @property
    def curve(self) -> TimeCurve:
        middles = [median(taken or [self._warm[n]]) for n, taken in self._samples.items()]
        return TimeCurve(tuple(self._samples), tuple(middles))

    def run_round(self, counted: bool) -> None:
        for size, taken in self._samples.items():
            milliseconds = _one(self._model, size, self._cache)
            if counted:
                taken.append(milliseconds)
            else:
                self._warm[size] = milliseconds


@torch.inference_mode()
def _one(timed: TimedModel, rows: int, cache: KVCache) -> float:
    context, device = cache.length, timed.device
    mask = torch.ones((rows, context + rows), dtype=torch.bool, device=device).tril(context)
    timed.forward(
        torch.ones(rows, dtype=torch.int64, device=device),
        torch.arange(context, context + rows, device=device),
        mask if rows > 1 else None,
        cache,
    )
    timed.wait()
    cache.truncate(context)
    return timed.take_ms()
