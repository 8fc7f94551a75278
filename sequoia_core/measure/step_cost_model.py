"""What the parts of a step cost on this machine: as measured once, and as steps then say.

Owns the model of a step's time and how it follows the machine. Knows nothing of acceptance.

A step is a target forward over its nodes, a drafting pass per level, and the rest: sampling,
verdict, caches and events, which grow with levels and nodes. Steps correct what was measured by
medians, so no stray step changes anything.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np

from sequoia_core.errors import ParameterError
from sequoia_core.events import Origin, Step
from sequoia_core.measure.forward_timings import TimeSurface, straight
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.growmap import GrowMap

KEPT = 31
"""Samples behind a median."""
LEAST = 9
"""Samples below which what was measured stands."""
STALE_STEPS = 256
"""Steps after which a size that was not seen again says nothing of the machine as it is now."""


@dataclass(frozen=True, slots=True)
class RestCosts:
    """Milliseconds of a step beyond its forwards.

    Attributes:
        base_ms: whatever the tree.
        level_ms: per level of the tree.
        node_ms: per node.
        plain_ms: of a plain step, all in all.

    Raises:
        ParameterError: one is no time.
    """

    base_ms: float
    level_ms: float
    node_ms: float
    plain_ms: float

    def __post_init__(self) -> None:
        every = (self.base_ms, self.level_ms, self.node_ms, self.plain_ms)
        if not all(math.isfinite(ms) and ms >= 0 for ms in every):
            raise ParameterError(f"bookkeeping cannot take {every} ms")

    @classmethod
    def fitted(cls, plain_ms: float, by_shape: Mapping[tuple[int, int], float]) -> RestCosts:
        """Least squares over (nodes, depth) of trees and what was measured of each."""
        shapes = np.array([(1.0, depth, nodes) for nodes, depth in by_shape])
        measured = np.array(list(by_shape.values()))
        columns = [0, 1, 2]
        while True:  # no part of a step takes less than nothing
            found = np.linalg.lstsq(shapes[:, columns], measured, rcond=None)[0]
            if found.min() >= 0 or len(columns) == 1:
                break
            columns.pop(int(found.argmin()))
        parts = [0.0, 0.0, 0.0]
        for column, part in zip(columns, found, strict=True):
            parts[column] = max(float(part), 0.0)
        return cls(parts[0], parts[1], parts[2], plain_ms)

    def of(self, nodes: int, depth: int) -> float:
        """Milliseconds beside a tree's forwards."""
        return self.base_ms + depth * self.level_ms + nodes * self.node_ms


@dataclass(frozen=True, slots=True)
class MachineTimes:
    """What was measured of a pair on a machine.

    Attributes:
        target: t(n), a target forward by rows and context.
        draft: a drafting pass by rows and context, without sampling.
        greedy: the rest of a step at temperature 0.
        sampled: the rest of a step above.
    """

    target: TimeSurface
    draft: TimeSurface
    greedy: RestCosts
    sampled: RestCosts

    def rest(self, temperature: float) -> RestCosts:
        """The rest of a step at a temperature."""
        return self.sampled if temperature else self.greedy


class LearntCosts:
    """Costs that follow the steps of a running engine.

    Args:
        times: what they start from.
    """

    def __init__(self, times: MachineTimes) -> None:
        self._times = times
        self._steps = 0
        self._verify: dict[int, _Ratio] = {}
        self._draft, self._rest, self._plain = _Ratio(), _Ratio(), _Ratio()

    def observe(self, step: Step, temperature: float, adaptive: bool = False) -> None:
        """Take in how long the parts of a step took, whatever its tree.

        Args:
            step: the step.
            temperature: it was decoded at.
            adaptive: its tree was grown by other code than the one whose rest was measured.
        """
        self._steps += 1
        timings, nodes = step.timings, len(step.nodes)
        curve = self._times.target.at(step.context_length)
        self._at(nodes).note(timings.verify_ms / curve(nodes), self._steps)
        rest = self._times.rest(temperature)
        if step.plain_ms:
            slower = step.plain_ms / (curve(1) + rest.plain_ms)
            self._plain.note(slower, self._steps)
            if nodes > 1:
                self._at(1).note(slower, self._steps)
        if nodes == 1:
            return
        rows = drafted_rows(step)
        draft = self._times.draft.at(step.context_length)
        if rows:
            self._draft.note(timings.draft_ms / math.fsum(map(draft, rows)), self._steps)
        looked_up = any(node.origin is Origin.LOOKUP for node in step.nodes)
        expected = rest.of(nodes, len(rows))
        # neither grafting nor deciding a shape is part of the rest as it was measured
        if expected > 0 and not looked_up and not adaptive:
            self._rest.note(timings.bookkeeping_ms / expected, self._steps)

    def _at(self, rows: int) -> _Ratio:
        return self._verify.setdefault(rows, _Ratio())

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        """What steps cost now."""
        target = self._times.target.at(context_length)
        draft = self._times.draft.at(context_length)
        rest, more = self._times.rest(temperature), self._rest.value or 1.0
        slower = self._draft.value or 1.0
        known = {
            rows: ratio.value
            for rows, ratio in sorted(self._verify.items())
            if ratio.value is not None and self._steps - ratio.latest <= STALE_STEPS
        }
        sizes, factors = list(known) or [1], list(known.values()) or [1.0]

        def verify(rows: int) -> float:
            within = min(max(rows, sizes[0]), sizes[-1])
            return target(rows) * (
                straight(sizes, factors, within) if len(sizes) > 1 else factors[0]
            )

        return StepCosts(
            target_ms=lambda rows: verify(rows) + rows * rest.node_ms * more,
            draft_ms=lambda rows: draft(rows) * slower + rest.level_ms * more,
            overhead_ms=rest.base_ms * more,
            plain_ms=(target(1) + rest.plain_ms) * (self._plain.value or 1.0),
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
        """None while there are too few."""
        return median(self._samples) if len(self._samples) >= LEAST else None


def drafted_rows(step: Step) -> list[int]:
    """How many nodes went through the draft at each level."""
    inner = {node.parent for node in step.nodes[1:] if node.origin is Origin.DRAFT}
    rows = Counter(step.nodes[node].depth for node in inner)
    return [rows[depth] for depth in sorted(rows)]


def drafting_ms(tree: GrowMap, costs: StepCosts) -> float:
    """Milliseconds of a tree's drafting passes; leaves need no row."""
    inner = ([node for node in level if tree.children[node]] for level in tree.levels[:-1])
    return math.fsum(costs.draft_ms(len(nodes)) for nodes in inner)


def step_ms(tree: GrowMap, costs: StepCosts) -> float:
    """Milliseconds of a whole step with this tree."""
    if tree.size == 1:
        return costs.plain_ms
    return costs.target_ms(tree.size) + drafting_ms(tree, costs) + costs.overhead_ms
