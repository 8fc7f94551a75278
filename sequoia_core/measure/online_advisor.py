"""Names trees by measured figures and updates both with every step.

A tree is changed only if that is predicted to be faster by more than `GAIN`. While decoding is
plain, nothing is learnt of the draft, so from time to time the best tree is probed for a few steps,
as often as the time lost allows. Those steps represent the plain ones before them.
"""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from sequoia_core.events import Origin, Step
from sequoia_core.measure.acceptance_stats import AcceptanceRecord
from sequoia_core.measure.calibration import Band, Calibration
from sequoia_core.measure.step_cost_model import StepCostModel, step_ms
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import TRYING, Advice, TreeAdvisor
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import TreePlan, choose_tree, expected_tokens_table

GAIN = 1.03
"""Least predicted speed-up of a change of tree."""
SEARCH_EVERY = 32
"""Steps between two searches."""
MAX_NODES, MAX_DEPTH = 128, 10
NEAR_NODES, NEAR_DEPTH = 16, 4
"""Least bounds of a search between two steps; else twice the tree's nodes and two levels more."""
PROBE_STEPS = 8
PROBE_SHARE = 0.02
"""Most time that probing may cost."""
LEAST_INTERVAL = 32
TYPICAL_CONTEXT = 96
"""Tokens of context to predict for without a text: about the middle of an answer."""
MOST_WEIGHT = 8.0
"""Most plain steps that one probing step represents."""


@dataclass(frozen=True, slots=True)
class SpeedModel:
    """Predicts the speed of any tree at one temperature and context.

    Attributes:
        record: accepted ranks and depths.
        costs: of the parts of a step.
        chain: only paths are searched.
    """

    record: AcceptanceRecord
    costs: StepCosts
    chain: bool = False

    def speedup(self, tree: GrowMap) -> float:
        """Predicted, over plain decoding."""
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
class _TreeState:
    """What is decoded with in one band, as chain or as tree.

    Attributes:
        tree: in use, `ROOT` for plain decoding.
        candidate: the best tree of the last search, whether it pays or not.
        steps: decoded since the last decision.
        interval: plain steps after which `candidate` is probed.
        probing: it is being probed.
        reason: why the tree was chosen.
    """

    tree: GrowMap
    candidate: GrowMap
    steps: int = 0
    interval: int = LEAST_INTERVAL
    probing: bool = False
    reason: str = ""

    @property
    def shape(self) -> GrowMap:
        """The tree of the next step."""
        return self.candidate if self.probing else self.tree

    @property
    def decide_after(self) -> int:
        """Steps until the next decision."""
        if self.probing:
            return PROBE_STEPS
        return SEARCH_EVERY if self.tree.size > 1 else self.interval

    @property
    def weight(self) -> float:
        """How many steps one of them represents."""
        return min(max(self.interval / PROBE_STEPS, 1.0), MOST_WEIGHT) if self.probing else 1.0


class OnlineAdvisor(TreeAdvisor):
    """Advises by a calibration and learns from the steps decoded with its advice."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self._costs = StepCostModel(calibration.times)
        self._states: dict[tuple[Band, bool], _TreeState] = {}

    @override
    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        model = self.speed_model(temperature, context_length, chain)
        key = (Band.of(temperature), chain)
        if key not in self._states:
            plan = model.search()
            reason = f"measured here, acceptance {_learnt(model)}"
            self._states[key] = _TreeState(plan.growmap or ROOT, plan.tree, reason=reason)
            self._schedule_probe(self._states[key], plan)
        elif not self._states[key].probing:
            self._reconsider(self._states[key], model, model.search())
        return self._advice(self._states[key], model)

    @override
    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        state = self._states.get((Band.of(temperature), chain))
        if state is None or _drafted(step) != state.shape.size:
            self._learn(step, temperature, 1.0)
            return None
        self._learn(step, temperature, state.weight)
        state.steps += 1
        if state.steps < state.decide_after:
            return None
        state.steps = 0
        model = self.speed_model(temperature, step.context_length, chain)
        if state.shape.size == 1:
            state.probing = True
            return self._advice(state, model)
        before, probed, state.probing = state.shape, state.probing, False
        self._reconsider(state, model, model.search(*_near_bounds(before)))
        return self._advice(state, model) if probed or state.tree is not before else None

    @override
    def time(self, step: Step, temperature: float) -> None:
        self._costs.observe(step, temperature, adaptive=True)

    @override
    def costs(self, temperature: float, context_length: int) -> StepCosts:
        return self._costs.costs(temperature, context_length)

    def speed_model(
        self, temperature: float, context_length: int, chain: bool = False
    ) -> SpeedModel:
        """What is known now."""
        record = self.calibration.record(temperature)
        return SpeedModel(record, self.costs(temperature, context_length), chain)

    def _learn(self, step: Step, temperature: float, weight: float) -> None:
        self._costs.observe(step, temperature)
        if _drafted(step) > 1:
            record = self.calibration.record(temperature).plus(step, weight)
            self.calibration = self.calibration.with_record(temperature, record)

    def _reconsider(self, state: _TreeState, model: SpeedModel, plan: TreePlan) -> None:
        """Change the tree if the gain is large enough."""
        now, best = model.speedup(state.tree), max(plan.predicted_speedup, 1.0)
        if best > GAIN * now:
            state.tree = plan.growmap or ROOT
            state.reason = f"predicted {best:.2f}x instead of {now:.2f}x {_learnt(model)}"
        state.candidate = plan.tree
        self._schedule_probe(state, plan)

    def _schedule_probe(self, state: _TreeState, plan: TreePlan) -> None:
        if plan.tree.size == 1:  # the draft is never right: one child shows if that changes
            state.candidate = GrowMap.chain(1)
        loss = max(1.0 / max(plan.predicted_speedup, 1e-3) - 1.0, 0.0)
        state.interval = max(LEAST_INTERVAL, round(PROBE_STEPS * loss / PROBE_SHARE))

    def _advice(self, state: _TreeState, model: SpeedModel) -> Advice:
        shape, record = state.shape, model.record
        predicted = model.speedup(shape if shape.size > 1 else state.candidate)
        if shape.size == 1:
            what = "a tree is predicted to gain too little"
            if predicted <= 1.0:
                what = "no tree is predicted to pay"
            reason = f"{what}: {predicted:.2f}x at best {_learnt(model)}"
            return Advice(None, record.rates, predicted, reason, record.deeper)
        reason = TRYING if state.probing else state.reason
        name = f"auto-{shape.size}x{shape.depth}"
        named = GrowMap(shape.parents, name, record.rates, _learnt(model))
        return Advice(named, record.rates, predicted, reason, record.deeper)


def _drafted(step: Step) -> int:
    """Nodes of a step's tree without those from prompt lookup; the root is one."""
    return sum(node.origin is Origin.DRAFT for node in step.nodes)


def _near_bounds(tree: GrowMap) -> tuple[int, int]:
    """Nodes and depth of a search that takes a few milliseconds."""
    nodes = min(max(NEAR_NODES, 2 * tree.size), MAX_NODES)
    return nodes, min(max(NEAR_DEPTH, tree.depth + 2), MAX_DEPTH)


def _learnt(model: SpeedModel) -> str:
    steps = model.record.steps
    return f"from {steps} steps" if steps else "from another temperature"
