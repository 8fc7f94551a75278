"""How long forwards and steps take on this machine, measured once and corrected by later steps."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np
import torch

from sequoia_core.decode.timed_model import TimedModel
from sequoia_core.errors import ParameterError
from sequoia_core.events import Origin, Step
from sequoia_core.model.interface import KVCache, LanguageModel
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.growmap import GrowMap

KEPT = 31  # samples behind a median
LEAST = 9  # samples below which there is no correction
STALE_STEPS = 256  # steps after which the correction of a size expires that was not seen again


@dataclass(frozen=True, slots=True)
class TimeCurve:
    """Milliseconds of a forward by rows, linear in between; outside see `_time_at`."""

    rows: tuple[int, ...]
    milliseconds: tuple[float, ...]

    def __post_init__(self) -> None:
        fits = len(self.rows) == len(self.milliseconds) > 1 and not _falls(self.rows)
        if not fits or not all(math.isfinite(ms) and ms > 0 for ms in self.milliseconds):
            raise ParameterError("a time curve needs positive times of two or more ascending rows")

    def __call__(self, rows: int) -> float:
        return _time_at(self.rows, self.milliseconds, rows)


@dataclass(frozen=True, slots=True)
class TimeSurface:
    """Time curves by tokens in the cache, linear in between; outside see `_time_at`."""

    contexts: tuple[int, ...]
    curves: tuple[TimeCurve, ...]

    def __post_init__(self) -> None:
        fits = len(self.contexts) == len(self.curves) and not _falls(self.contexts)
        if not fits or len({curve.rows for curve in self.curves}) != 1:
            raise ParameterError("a time surface needs ascending contexts, curves over like rows")

    def at(self, context: int) -> TimeCurve:
        if len(self.curves) == 1:
            return self.curves[0]
        columns = zip(*(curve.milliseconds for curve in self.curves), strict=True)
        times = tuple(_time_at(self.contexts, each, context) for each in columns)
        return TimeCurve(self.curves[0].rows, times)

    def scaled(self, factor: float) -> TimeSurface:
        times = (tuple(factor * ms for ms in curve.milliseconds) for curve in self.curves)
        curves = tuple(TimeCurve(self.curves[0].rows, each) for each in times)
        return TimeSurface(self.contexts, curves)


def _falls(numbers: Sequence[int]) -> bool:
    return any(low >= high for low, high in pairwise(numbers))


def _time_at(places: Sequence[int], times: Sequence[float], place: int) -> float:
    """The time on the line through the two neighbours of a place, or the last two.

    No forward gets cheaper with more rows or a longer context: what falls past the last place is
    noise, and before the first place a time is hardly less.
    """
    if place <= places[0]:
        return times[0]
    right = min(bisect_left(places, place), len(places) - 1)
    low, high = places[right - 1], places[right]
    start, end = times[right - 1], times[right]
    time = start + (end - start) * (place - low) / (high - low)
    return max(time, times[-1]) if place > places[-1] else time


class ForwardTimer:
    """Times forwards of a target and its draft, if any, for several sizes and contexts.

    They are interleaved, so that a machine that slows down slows all of them, and a draft's weights
    leave the processor's caches in between, as in decoding. The first round warms up.
    """

    def __init__(
        self, target: LanguageModel, draft: LanguageModel | None, contexts: Sequence[int]
    ) -> None:
        self._models = tuple(TimedModel(model) for model in (target, draft) if model is not None)
        self._contexts = tuple(contexts)
        self._samples = defaultdict[tuple[int, int, int], list[float]](list)
        """Milliseconds by model, context and rows."""

    def run(
        self, rows: tuple[Sequence[int], Sequence[int]], rounds: int, seconds: float
    ) -> Iterator[float]:
        """Fill the caches and time target and draft; yields the share that is done.

        It can be left and called again. After so many seconds it ends, if one round was counted.
        """
        caches: list[list[KVCache]] = []
        for context in self._contexts:
            big = self._models[0].new_cache()
            caches.append([big, *(model.new_cache(big) for model in self._models[1:])])
            for model, cache in zip(self._models, caches[-1], strict=True):
                while left := context - cache.length:
                    count = min(left, model.prompt_rows)
                    chunk = torch.ones(count, dtype=torch.int64, device=model.device)
                    model.extend(chunk, cache)
                    yield 0.0
        spread = sorted(
            ((at + 0.5) / len(sizes), which, size)
            for which, sizes in enumerate(rows)
            for at, size in enumerate(sizes)
        )
        turn = [(at, which, size) for at in range(len(caches)) for _, which, size in spread]
        total, began = (rounds + 1) * len(turn), perf_counter()
        for done in range(sum(map(len, self._samples.values())), total):
            if done >= 2 * len(turn) and perf_counter() - began > seconds:
                return
            at, which, size = turn[done % len(turn)]
            taken = _one(self._models[which], size, caches[at][which])
            self._samples[which, at, size].append(taken)
            yield (done + 1) / total

    @property
    def surfaces(self) -> tuple[TimeSurface, TimeSurface]:
        """Medians of target and draft, or twice the target's; of the first round until others."""
        times: list[list[dict[int, float]]] = [[{} for _ in self._contexts] for _ in self._models]
        for (model, at, size), samples in sorted(self._samples.items()):
            times[model][at][size] = median(samples[1:] or samples)  # the first warmed up
        curves = ([TimeCurve(tuple(each), tuple(each.values())) for each in part] for part in times)
        made = [TimeSurface(self._contexts, tuple(each)) for each in curves]
        return made[0], made[-1]


@torch.inference_mode()
def _one(timed: TimedModel, rows: int, cache: KVCache) -> float:
    context, device = cache.length, timed.device
    ids = torch.ones(rows, dtype=torch.int64, device=device)
    positions = torch.arange(context, context + rows, device=device)
    mask = parents = None
    if rows > 1:
        mask = torch.ones((rows, rows), dtype=torch.bool, device=device).tril()
        parents = torch.full((rows,), -1, device=device)
    timed.forward(ids, positions, mask, cache, parents)
    timed.wait()
    cache.truncate(context)
    return timed.take_ms()


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds of a step besides its forwards."""

    base_ms: float  # of any tree
    level_ms: float  # per level of the tree
    node_ms: float
    plain_ms: float  # of a plain step, in total

    def __post_init__(self) -> None:
        if not all(math.isfinite(ms) and ms >= 0 for ms in astuple(self)):
            raise ParameterError(f"the overhead of a step cannot be {astuple(self)} ms")

    @classmethod
    def fitted(cls, plain_ms: float, by_shape: Mapping[tuple[int, int], float]) -> Overhead:
        """Least squares, from milliseconds by (nodes, depth) of trees."""
        shapes = np.array([(1.0, depth, nodes) for nodes, depth in by_shape])
        measured = np.array(list(by_shape.values()))
        columns = [0, 1, 2]
        while True:  # drop the parts that come out negative
            found = np.linalg.lstsq(shapes[:, columns], measured, rcond=None)[0]
            if found.min() >= 0 or len(columns) == 1:
                break
            columns.pop(int(found.argmin()))
        parts = np.zeros(3)
        parts[columns] = found.clip(min=0.0)
        base_ms, level_ms, node_ms = parts.tolist()
        return cls(base_ms, level_ms, node_ms, plain_ms)

    def of(self, nodes: int, depth: int) -> float:
        return self.base_ms + depth * self.level_ms + nodes * self.node_ms


@dataclass(frozen=True, slots=True)
class MachineTimes:
    target: TimeSurface
    draft: TimeSurface  # without sampling
    greedy: Overhead  # at temperature 0
    sampled: Overhead

    def overhead(self, temperature: float) -> Overhead:
        return self.sampled if temperature else self.greedy


class StepCostModel:
    """Costs that start from measured times and follow the steps of a running engine.

    Corrections are medians, so no single step changes anything.
    """

    def __init__(self, times: MachineTimes) -> None:
        self._times = times
        self._steps = 0
        self._verify: defaultdict[int, _Ratio] = defaultdict(_Ratio)  # by rows
        self._draft, self._overhead, self._plain = _Ratio(), _Ratio(), _Ratio()

    def observe(self, step: Step, temperature: float, adaptive: bool = False) -> None:
        """Learn from the timings of a step; `adaptive` if its tree was."""
        self._steps += 1
        timings, nodes = step.timings, len(step.nodes)
        curve = self._times.target.at(step.context_length)
        self._verify[nodes].note(timings.verify_ms / curve(nodes), self._steps)
        overhead = self._times.overhead(temperature)
        if step.plain_ms:
            slower = step.plain_ms / (curve(1) + overhead.plain_ms)
            self._plain.note(slower, self._steps)
            if nodes > 1:
                self._verify[1].note(slower, self._steps)
        if nodes == 1:
            return
        if rows := drafted_rows(step):
            draft = self._times.draft.at(step.context_length)
            self._draft.note(timings.draft_ms / math.fsum(map(draft, rows)), self._steps)
        looked_up = any(node.origin is Origin.LOOKUP for node in step.nodes)
        expected = overhead.of(nodes, len(rows))
        # the measured overhead includes neither lookups nor deciding a shape
        if expected > 0 and not looked_up and not adaptive:
            self._overhead.note(timings.bookkeeping_ms / expected, self._steps)

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        target = self._times.target.at(context_length)
        draft = self._times.draft.at(context_length)
        overhead, more = self._times.overhead(temperature), self._overhead.value or 1.0
        slower = self._draft.value or 1.0
        known = {
            rows: ratio.value
            for rows, ratio in sorted(self._verify.items())
            if ratio.value is not None and self._steps - ratio.latest <= STALE_STEPS
        }
        sizes, factors = np.array(list(known) or [1]), np.array(list(known.values()) or [1.0])

        def target_ms(rows: int) -> float:
            factor = float(np.interp(rows, sizes, factors))
            return target(rows) * factor + rows * overhead.node_ms * more

        return StepCosts(
            target_ms=target_ms,
            draft_ms=lambda rows: draft(rows) * slower + overhead.level_ms * more,
            overhead_ms=overhead.base_ms * more,
            plain_ms=(target(1) + overhead.plain_ms) * (self._plain.value or 1.0),
        )


class _Ratio:
    """The median of the latest measured times over expected ones; None from too few."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=KEPT)
        self.latest = 0

    def note(self, ratio: float, step: int) -> None:
        self._samples.append(ratio)
        self.latest = step

    @property
    def value(self) -> float | None:
        return median(self._samples) if len(self._samples) >= LEAST else None


def drafted_rows(step: Step) -> list[int]:
    """Rows of the draft forward of each level."""
    inner = {node.parent for node in step.nodes[1:] if node.origin is Origin.DRAFT}
    rows = Counter(step.nodes[node].depth for node in inner)
    return [rows[depth] for depth in sorted(rows)]


def step_ms(tree: GrowMap, costs: StepCosts) -> float:
    if tree.size == 1:
        return costs.plain_ms
    drafting_ms = math.fsum(map(costs.draft_ms, tree.passes))
    return costs.target_ms(tree.size) + drafting_ms + costs.overhead_ms
