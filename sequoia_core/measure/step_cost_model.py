"""The time of a step on this machine: measured once, and corrected by the steps that follow.

A step is a target forward over its nodes, a draft forward per level, and the overhead: sampling,
verification, caches and events, which grow with levels and nodes. Corrections are medians, so no
single step changes anything.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from sequoia_core.errors import ParameterError
from sequoia_core.events import Origin, Step
from sequoia_core.measure.forward_timings import TimeSurface
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import drafting_ms

KEPT = 31
"""Samples behind a median."""
LEAST = 9
"""Samples below which there is no correction."""
STALE_STEPS = 256
"""Steps after which the correction of a size expires that was not seen again."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds of a step besides its forwards.

    Attributes:
        base_ms: of any tree.
        level_ms: per level of the tree.
        node_ms: per node.
        plain_ms: of a plain step, in total.

    Raises:
        ParameterError: a value is negative or not finite.
    """

    base_ms: float
    level_ms: float
    node_ms: float
    plain_ms: float

    def __post_init__(self) -> None:
        every = (self.base_ms, self.level_ms, self.node_ms, self.plain_ms)
        if not all(math.isfinite(ms) and ms >= 0 for ms in every):
            raise ParameterError(f"the overhead of a step cannot be {every} ms")

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
        parts = [0.0, 0.0, 0.0]
        for column, part in zip(columns, found, strict=True):
            parts[column] = max(float(part), 0.0)
        return cls(parts[0], parts[1], parts[2], plain_ms)

    def of(self, nodes: int, depth: int) -> float:
        """Milliseconds of a tree."""
        return self.base_ms + depth * self.level_ms + nodes * self.node_ms


@dataclass(frozen=True, slots=True)
class MachineTimes:
    """What was measured of a pair on a machine.

    Attributes:
        target: t(n), a target forward by rows and context.
        draft: a draft forward by rows and context, without sampling.
        greedy: overhead at temperature 0.
        sampled: overhead above.
    """

    target: TimeSurface
    draft: TimeSurface
    greedy: Overhead
    sampled: Overhead

    def overhead(self, temperature: float) -> Overhead:
        """At a temperature."""
        return self.sampled if temperature else self.greedy


class StepCostModel:
    """Costs that start from measured times and follow the steps of a running engine."""

    def __init__(self, times: MachineTimes) -> None:
        self._times = times
        self._steps = 0
        self._verify: defaultdict[int, _Ratio] = defaultdict(_Ratio)
        self._draft, self._overhead, self._plain = _Ratio(), _Ratio(), _Ratio()

    def observe(self, step: Step, temperature: float, adaptive: bool = False) -> None:
        """Learn from the timings of a step.

        Args:
            step: the step.
            temperature: it was decoded at.
            adaptive: its tree was adaptive, whose overhead was not measured.
        """
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
        rows = drafted_rows(step)
        draft = self._times.draft.at(step.context_length)
        if rows:
            self._draft.note(timings.draft_ms / math.fsum(map(draft, rows)), self._steps)
        looked_up = any(node.origin is Origin.LOOKUP for node in step.nodes)
        expected = overhead.of(nodes, len(rows))
        # the measured overhead includes neither lookups nor deciding a shape
        if expected > 0 and not looked_up and not adaptive:
            self._overhead.note(timings.bookkeeping_ms / expected, self._steps)

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        """What steps cost now."""
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
    """The median of the latest measured times over expected ones."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=KEPT)
        self.latest = 0

    def note(self, ratio: float, step: int) -> None:
        self._samples.append(ratio)
        self.latest = step

    @property
    def value(self) -> float | None:
        """None if there are too few."""
        return median(self._samples) if len(self._samples) >= LEAST else None


def drafted_rows(step: Step) -> list[int]:
    """Rows of the draft forward of each level."""
    inner = {node.parent for node in step.nodes[1:] if node.origin is Origin.DRAFT}
    rows = Counter(step.nodes[node].depth for node in inner)
    return [rows[depth] for depth in sorted(rows)]


def step_ms(tree: GrowMap, costs: StepCosts) -> float:
    """Milliseconds of a step with this tree."""
    if tree.size == 1:
        return costs.plain_ms
    return costs.target_ms(tree.size) + drafting_ms(tree, costs.draft_ms) + costs.overhead_ms
