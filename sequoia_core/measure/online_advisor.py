"""Names trees by measured figures and keeps both up to date with every step.

Owns when a tree is searched again, when decoding falls back to plain steps and how it returns. It
changes a tree only where that is predicted to be faster by more than `GAIN`. Knows nothing of how
figures are measured beforehand.

While it decodes plainly nothing is learnt of the draft, so now and then it speculates for a few
steps; how often follows from what that costs. Those steps stand for the plain ones before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sequoia_core.events import Origin, Step
from sequoia_core.measure.acceptance_stats import AcceptanceRecord
from sequoia_core.measure.calibration import Band, Calibration
from sequoia_core.measure.step_cost_model import LearntCosts, step_ms
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import TRYING, Advice
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import TreePlan, choose_tree, expected_tokens_table

GAIN = 1.03
"""What a change of tree must be predicted to bring."""
LOOK_EVERY = 32
"""Steps between two searches."""
MAX_NODES, MAX_DEPTH = 128, 10
NEAR_NODES, NEAR_DEPTH = 16, 4
"""Searched at least between two steps; else up to twice the tree and two levels more."""
PROBE_STEPS = 8
PROBE_SHARE = 0.02
"""Of the time, what probing may cost at most."""
LEAST_INTERVAL = 32
TYPICAL_CONTEXT = 96
"""Tokens of context to predict for while there is no text: about the middle of an answer."""
MOST_WEIGHT = 8.0
"""Plain steps that one probing step stands for, at most."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known at one temperature and context: enough to judge any tree.

    Attributes:
        record: accepted ranks and depths.
        costs: of the parts of a step.
        chain: only paths are considered.
    """

    record: AcceptanceRecord
    costs: StepCosts
    chain: bool = False

    def speedup(self, tree: GrowMap) -> float:
        """Predicted over plain decoding, which is 1."""
        if tree.size == 1:
            return 1.0
        tokens = tree.expected_tokens(self.record.rates, self.record.deeper)
        return tokens * self.costs.plain_ms / step_ms(tree, self.costs)

    def search(self, nodes: int = MAX_NODES, depth: int = MAX_DEPTH) -> TreePlan:
        """The best tree within these bounds."""
        rates, deeper = self.record.rates, self.record.deeper
        branching = 1 if self.chain else max(map(len, (rates, *deeper)))
        table = expected_tokens_table(rates, nodes, depth, branching, deeper)
        costs = self.costs
        return choose_tree(
            table, costs.target_ms, costs.draft_ms, costs.plain_ms, costs.overhead_ms
        )


@dataclass(slots=True)
class _Course:
    """What is decoded with at one band, as chain or as tree.

    Attributes:
        tree: in use, `ROOT` for plain decoding.
        rival: the best tree of the last search, whether it pays or not.
        steps: decoded since the last search, or since decoding plainly.
        interval: plain steps after which `rival` is tried.
        probing: it is being tried.
        reason: why the tree is what it is.
    """

    tree: GrowMap
    rival: GrowMap
    steps: int = 0
    interval: int = LEAST_INTERVAL
    probing: bool = False
    reason: str = ""

    @property
    def shape(self) -> GrowMap:
        """What the next step should be decoded with."""
        return self.rival if self.probing else self.tree

    @property
    def patience(self) -> int:
        """Steps after which something is to be decided."""
        if self.probing:
            return PROBE_STEPS
        return LOOK_EVERY if self.tree.size > 1 else self.interval

    @property
    def weight(self) -> float:
        """How many steps one of them stands for."""
        return min(max(self.interval / PROBE_STEPS, 1.0), MOST_WEIGHT) if self.probing else 1.0


class OnlineAdvisor:
    """A `trees.TreeAdvisor` that learns from the steps decoded with its advice.

    Args:
        calibration: the figures it starts from.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._costs = LearntCosts(calibration.times)
        self._courses: dict[tuple[Band, bool], _Course] = {}

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        """The tree in use, searched again among all sizes."""
        figures = self.figures(temperature, context_length, chain)
        key = (Band.of(temperature), chain)
        if key not in self._courses:
            plan = figures.search()
            tree = plan.growmap or ROOT
            self._courses[key] = _Course(tree, plan.tree, reason=_measured(figures))
            self._await_probe(self._courses[key], plan)
        elif not self._courses[key].probing:
            self._look(self._courses[key], figures, figures.search())
        return self._advice(self._courses[key], figures)

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        """See `trees.TreeAdvisor`."""
        course = self._courses.get((Band.of(temperature), chain))
        if course is None or _drafted(step) != course.shape.size:
            self._learn(step, temperature, 1.0)
            return None
        self._learn(step, temperature, course.weight)
        course.steps += 1
        if course.steps < course.patience:
            return None
        course.steps = 0
        figures = self.figures(temperature, step.context_length, chain)
        if course.shape.size == 1:
            course.probing = True
            return self._advice(course, figures)
        before, probed, course.probing = course.shape, course.probing, False
        self._look(course, figures, figures.search(*_nearby(before)))
        return self._advice(course, figures) if probed or course.tree is not before else None

    def time(self, step: Step, temperature: float) -> None:
        """See `trees.TreeAdvisor`."""
        self._costs.observe(step, temperature, adaptive=True)

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        """What steps cost now."""
        return self._costs.costs(temperature, context_length)

    def figures(self, temperature: float, context_length: int, chain: bool = False) -> Figures:
        """All that is known at a temperature and context."""
        record = self.calibration.record(temperature)
        return Figures(record, self.costs(temperature, context_length), chain)

    def _learn(self, step: Step, temperature: float, weight: float) -> None:
        self._costs.observe(step, temperature)
        if _drafted(step) > 1:
            record = self.calibration.record(temperature).plus(step, weight)
            self.calibration = self.calibration.with_record(temperature, record)

    def _look(self, course: _Course, figures: Figures, plan: TreePlan) -> None:
        """Change the tree if that is predicted to pay by more than `GAIN`."""
        now, best = figures.speedup(course.tree), max(plan.predicted_speedup, 1.0)
        if best > GAIN * now:
            course.tree = plan.growmap or ROOT
            course.reason = f"predicted {best:.2f}x instead of {now:.2f}x {_learnt(figures)}"
        course.rival = plan.tree
        self._await_probe(course, plan)

    def _await_probe(self, course: _Course, plan: TreePlan) -> None:
        if plan.tree.size == 1:  # a draft that is never right: one child tells if that changes
            course.rival = GrowMap.chain(1)
        loss = max(1.0 / max(plan.predicted_speedup, 1e-3) - 1.0, 0.0)
        course.interval = max(LEAST_INTERVAL, round(PROBE_STEPS * loss / PROBE_SHARE))

    def _advice(self, course: _Course, figures: Figures) -> Advice:
        shape, record = course.shape, figures.record
        predicted = figures.speedup(shape if shape.size > 1 else course.rival)
        if shape.size == 1:
            little = predicted > 1.0
            what = (
                "a tree is predicted to gain too little"
                if little
                else "no tree is predicted to pay"
            )
            reason = f"{what}: {predicted:.2f}x at best {_learnt(figures)}"
            return Advice(None, record.rates, predicted, reason, record.deeper)
        reason = TRYING if course.probing else course.reason
        named = GrowMap(
            shape.parents, f"auto-{shape.size}x{shape.depth}", record.rates, _learnt(figures)
        )
        return Advice(named, record.rates, predicted, reason, record.deeper)


def _drafted(step: Step) -> int:
    """Nodes of a step's tree without what was looked up; the root is one."""
    return sum(node.origin is Origin.DRAFT for node in step.nodes)


def _nearby(tree: GrowMap) -> tuple[int, int]:
    """Bounds of a search that takes a few milliseconds."""
    nodes = min(max(NEAR_NODES, 2 * tree.size), MAX_NODES)
    return nodes, min(max(NEAR_DEPTH, tree.depth + 2), MAX_DEPTH)


def _measured(figures: Figures) -> str:
    return f"measured here, acceptance {_learnt(figures)}"


def _learnt(figures: Figures) -> str:
    steps = figures.record.steps
    return f"from {steps} steps" if steps else "from another temperature"
