"""How long forwards take on this machine, by number of rows and tokens of context."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch

from sequoia_core.decode.timed_model import TimedModel
from sequoia_core.errors import ParameterError
from sequoia_core.model.interface import KVCache, LanguageModel

_CHUNK = 256
"""Tokens of context that are read in one slice."""


@dataclass(frozen=True, slots=True)
class TimeCurve:
    """Milliseconds of a forward by rows, linear in between; outside see `_time_at`.

    Attributes:
        rows: ascending, at least two.
        milliseconds: one per entry of `rows`, positive.

    Raises:
        ParameterError: the figures are not of that form.
    """

    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rows) < 2 or len(self.rows) != len(self.milliseconds) or _falls(self.rows):
            raise ParameterError("a time curve needs two row counts or more, ascending, each timed")
        if not all(math.isfinite(ms) and ms > 0 for ms in self.milliseconds):
            raise ParameterError("a time curve has an entry that is no positive time")

    def __call__(self, rows: int) -> float:
        """Milliseconds of a forward of so many rows."""
        return _time_at(self.rows, self.milliseconds, rows)


@dataclass(frozen=True, slots=True)
class TimeSurface:
    """Time curves by context length, linear in between; outside see `_time_at`.

    Attributes:
        contexts: tokens in the cache, ascending, at least one.
        curves: one per context, all over the same rows.

    Raises:
        ParameterError: the figures are not of that form.
    """

    contexts: tuple[int, ...]
    curves: tuple[TimeCurve, ...]

    def __post_init__(self) -> None:
        matched = len(self.contexts) == len(self.curves) > 0
        if not matched or _falls(self.contexts):
            raise ParameterError("a time surface needs ascending contexts, each with its curve")
        if len({curve.rows for curve in self.curves}) > 1:
            raise ParameterError("the curves of a time surface are not over the same rows")

    def at(self, context: int) -> TimeCurve:
        """The curve at a context length."""
        if len(self.curves) == 1:
            return self.curves[0]
        columns = zip(*(curve.milliseconds for curve in self.curves), strict=True)
        times = (_time_at(self.contexts, each, context) for each in columns)
        return TimeCurve(self.curves[0].rows, tuple(times))

    def scaled(self, factor: float) -> "TimeSurface":
        """The same, every time multiplied."""
        curves = (
            TimeCurve(curve.rows, tuple(factor * ms for ms in curve.milliseconds))
            for curve in self.curves
        )
        return TimeSurface(self.contexts, tuple(curves))


def _falls(numbers: Sequence[int]) -> bool:
    return any(low >= high for low, high in pairwise(numbers))


def _time_at(places: Sequence[int], times: Sequence[float], place: int) -> float:
    """The time on the line through the two neighbours of a place, or the last two.

    No forward gets cheaper with more rows or a longer context: a line that falls past the last
    place is noise, and before the first place a time is hardly less than the first.
    """
    if place <= places[0]:
        return times[0]
    right = min(bisect_left(places, place), len(places) - 1)
    low, high = places[right - 1], places[right]
    start, end = times[right - 1], times[right]
    time = start + (end - start) * (place - low) / (high - low)
    return max(time, times[-1]) if place > places[-1] else time


class ForwardTimer:
    """Times forwards of a target and its draft for several sizes and contexts.

    They are interleaved, so that a machine that slows down slows all of them, and a draft's weights
    leave the processor's caches in between, as in decoding. The first round warms up.

    Args:
        target: the model that verifies.
        draft: the model that drafts, or None.
        contexts: tokens in the caches, ascending.
    """

    def __init__(
        self, target: LanguageModel, draft: LanguageModel | None, contexts: Sequence[int]
    ) -> None:
        self._models = tuple(TimedModel(model) for model in (target, draft) if model is not None)
        self._contexts = tuple(contexts)
        self._samples: dict[tuple[int, int, int], list[float]] = {}
        self._done = 0

    def run(
        self, rows: tuple[Sequence[int], Sequence[int]], rounds: int, seconds: float
    ) -> Iterator[float]:
        """Fill the caches and time; yields the share that is done after every slice.

        It can be left and called again, and then continues.

        Args:
            rows: numbers of rows of the target and of the draft, ascending; () without a draft.
            rounds: counted rounds, at least one.
            seconds: after which it ends early, if one round was counted.
        """
        caches: list[list[KVCache]] = []
        for context in self._contexts:
            yield from self._fill(caches, context)
        turn = [(at, *job) for at in range(len(caches)) for job in _interleaved(rows)]
        total, began = (rounds + 1) * len(turn), perf_counter()
        for done in range(self._done, total):
            if done >= 2 * len(turn) and perf_counter() - began > seconds:
                return
            at, which, size = turn[done % len(turn)]
            taken = _one(self._models[which], size, caches[at][which])
            self._samples.setdefault((which, at, size), []).append(taken)
            self._done = done + 1
            yield self._done / total

    def _fill(self, caches: list[list[KVCache]], context: int) -> Iterator[float]:
        big = self._models[0].new_cache()
        filled = [big, *(model.new_cache(big) for model in self._models[1:])]
        for model, cache in zip(self._models, filled, strict=True):
            while left := context - cache.length:
                chunk = torch.ones(min(left, _CHUNK), dtype=torch.int64, device=model.device)
                model.extend(chunk, cache)
                yield 0.0
        caches.append(filled)

    @property
    def surfaces(self) -> tuple[TimeSurface, TimeSurface]:
        """Medians of target and draft; of the first round until there are others.

        Without a draft both are the target's.
        """
        return self._surface(0), self._surface(len(self._models) - 1)

    def _surface(self, which: int) -> TimeSurface:
        curves = []
        for at in range(len(self._contexts)):
            middles = {
                size: median(samples[1:] or samples)  # the first warmed up
                for (model, place, size), samples in self._samples.items()
                if (model, place) == (which, at)
            }
            rows = tuple(sorted(middles))
            curves.append(TimeCurve(rows, tuple(middles[size] for size in rows)))
        return TimeSurface(self._contexts, tuple(curves))


def _interleaved(rows: tuple[Sequence[int], Sequence[int]]) -> list[tuple[int, int]]:
    """(model, rows) in turns, spread evenly."""
    jobs = [
        ((at + 0.5) / len(sizes), which, size)
        for which, sizes in enumerate(rows)
        for at, size in enumerate(sizes)
    ]
    return [(which, size) for _, which, size in sorted(jobs)]


@torch.inference_mode()
def _one(timed: TimedModel, rows: int, cache: KVCache) -> float:
    context, device = cache.length, timed.device
    mask = torch.ones((rows, context + rows), dtype=torch.bool, device=device).tril(context)
    parents = torch.full((rows,), -1, device=device)
    timed.forward(
        torch.ones(rows, dtype=torch.int64, device=device),
        torch.arange(context, context + rows, device=device),
        mask if rows > 1 else None,
        cache,
        parents if rows > 1 else None,
    )
    timed.wait()
    cache.truncate(context)
    return timed.take_ms()
