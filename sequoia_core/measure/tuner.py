"""Names trees by measured figures, updates both with every step, and measures between answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from typing_extensions import override

from sequoia_core.errors import ParameterError
from sequoia_core.events import Event, Notice, NoticeKind, Origin, Step
from sequoia_core.measure.calibration import AcceptanceRecord, Band, Calibration
from sequoia_core.measure.calibration_run import TEMPERATURE, CalibrationRun
from sequoia_core.measure.timings import StepCostModel, step_ms
from sequoia_core.model.loading.memory_plan import PLANNED_ROWS
from sequoia_core.model.loading.pair import Pair
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import (
    MEASURED,
    TRYING,
    Advice,
    BundledAdvisor,
    TreeAdvisor,
)
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import (
    LikeliestTrees,
    TreePlan,
    TreesByBudget,
    choose_tree,
    expected_tokens_table,
)

GAIN = 1.03  # least predicted speed-up of a change of tree
SEARCH_EVERY = 32  # steps between two searches
MAX_NODES, MAX_DEPTH = 128, 10  # of a search in a table of all trees
DEEPEST = 20  # of larger trees
LARGE = (160, 192, 224, 256, 320, 384, 448, 512, 640, 768)  # sizes of these that are compared
# least bounds of a search between two steps; else twice the tree's nodes and two levels more
NEAR_NODES, NEAR_DEPTH = 16, 4
PROBE_STEPS = 8
PROBE_SHARE = 0.02  # most time that probing may cost
LEAST_INTERVAL = 32
TYPICAL_CONTEXT = 96  # tokens to predict for without a text: about the middle of an answer
MOST_WEIGHT = 8.0  # most plain steps that one probing step represents


@dataclass(frozen=True, slots=True)
class SpeedModel:
    """Predicts the speed-up of any tree at one temperature and context over plain decoding."""

    record: AcceptanceRecord
    costs: StepCosts
    chain: bool = False  # search paths only
    limits: tuple[int, int] = (MAX_NODES, MAX_DEPTH)  # most nodes and depth of a search

    def speedup(self, tree: GrowMap) -> float:
        if tree.size == 1:
            return 1.0
        tokens = tree.expected_tokens(self.record.rates, self.record.deeper)
        return tokens * self.costs.plain_ms / step_ms(tree, self.costs)

    def table(self, nodes: int, depth: int) -> TreesByBudget:
        rates, deeper = self.record.rates, self.record.deeper
        make = expected_tokens_table if nodes <= MAX_NODES else LikeliestTrees.of
        return make(rates, nodes, depth, 1 if self.chain else nodes, deeper)

    def search(self, nodes: int | None = None, depth: int | None = None) -> TreePlan:
        """The best tree within so many nodes and edges, at most those of `limits`."""
        nodes, depth = (
            most if wanted is None else min(wanted, most)
            for wanted, most in zip((nodes, depth), self.limits, strict=True)
        )
        table, costs = self.table(nodes, depth), self.costs
        sizes = None if nodes <= MAX_NODES else [*range(2, MAX_NODES + 1), *LARGE, nodes]
        return choose_tree(
            table, costs.target_ms, costs.draft_ms, costs.plain_ms, costs.overhead_ms, sizes
        )

    @property
    def learnt(self) -> str:
        """Where the rates come from, as a part of a reason."""
        steps = self.record.steps
        return f"{steps} steps" if steps else "rates of another temperature"


@dataclass(slots=True)
class _TreeState:
    tree: GrowMap  # in use, `ROOT` for plain decoding
    candidate: GrowMap  # the best tree of the last search, whether it pays or not
    reason: str = ""  # why the tree was chosen
    steps: int = 0  # decoded since the last decision
    interval: int = LEAST_INTERVAL  # plain steps after which `candidate` is probed
    probing: bool = False

    @property
    def shape(self) -> GrowMap:
        return self.candidate if self.probing else self.tree


class OnlineAdvisor(TreeAdvisor):
    """Advises by a calibration and learns from the steps decoded with its advice.

    While decoding is plain, nothing is learnt of the draft, so now and then the best tree is probed
    for a few steps; they represent the plain ones before them.
    """

    def __init__(self, calibration: Calibration, most_nodes: int = PLANNED_ROWS) -> None:
        self.calibration = calibration
        self._most_nodes = most_nodes  # that there is memory for
        self._costs = StepCostModel(calibration.times)
        self._states: dict[tuple[Band, bool], _TreeState] = {}

    @override
    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        model = self.speed_model(temperature, context_length, chain)
        key = (Band.of(temperature), chain)
        state = self._states.get(key)
        if state is None:
            plan, reason = model.search(), f"fitted to this machine ({model.learnt})"
            state = self._states[key] = _TreeState(plan.growmap or ROOT, plan.tree, reason)
            _schedule_probe(state, plan)
        elif not state.probing:
            _reconsider(state, model, model.search())
        return self._advice(state, model)

    @override
    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        state = self._states.get((Band.of(temperature), chain))
        drafted = sum(node.origin is Origin.DRAFT for node in step.nodes)  # the root is one
        if state is not None and drafted != state.shape.size:
            state = None  # another tree than advised
        self._costs.observe(step, temperature)
        if drafted > 1:
            weight = 1.0
            if state is not None and state.probing:  # it represents the plain steps before
                weight = min(max(state.interval / PROBE_STEPS, 1.0), MOST_WEIGHT)
            record = self.calibration.record(temperature).plus(step, weight)
            self.calibration = self.calibration.with_record(temperature, record)
        if state is None:
            return None
        wait = SEARCH_EVERY if state.tree.size > 1 else state.interval
        state.steps += 1
        if state.steps < (PROBE_STEPS if state.probing else wait):
            return None
        state.steps = 0
        model = self.speed_model(temperature, step.context_length, chain)
        before, probed = state.shape, state.probing
        if before.size == 1:
            state.probing = True
            return self._advice(state, model)
        state.probing = False
        nodes = max(NEAR_NODES, 2 * before.size)
        plan = model.search(nodes, max(NEAR_DEPTH, before.depth + 2))
        _reconsider(state, model, plan)
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
        record = self.calibration.record(temperature)
        rows = min(self.calibration.times.target.curves[0].rows[-1], self._most_nodes)
        limits = (rows, DEEPEST) if rows > MAX_NODES else (MAX_NODES, MAX_DEPTH)
        return SpeedModel(record, self.costs(temperature, context_length), chain, limits)

    def _advice(self, state: _TreeState, model: SpeedModel) -> Advice:
        shape, record = state.shape, model.record
        predicted = model.speedup(shape if shape.size > 1 else state.candidate)
        if shape.size == 1:
            what = "be slower" if predicted <= 1.0 else "gain too little"
            reason = f"Trees are off: they would {what} here ({predicted:.2f}x)"
            return Advice(None, record.rates, predicted, reason, record.deeper)
        reason = TRYING if state.probing else state.reason
        source = f"fitted to this machine ({model.learnt})"
        named = GrowMap(shape.parents, MEASURED, record.rates, source, record.deeper)
        return Advice(named, record.rates, predicted, reason, record.deeper)


def _reconsider(state: _TreeState, model: SpeedModel, plan: TreePlan) -> None:
    now, best = model.speedup(state.tree), max(plan.predicted_speedup, 1.0)
    if best > GAIN * now:
        state.tree = plan.growmap or ROOT
        state.reason = f"changed after {model.learnt}: {best:.2f}x predicted, before {now:.2f}x"
    state.candidate = plan.tree
    _schedule_probe(state, plan)


def _schedule_probe(state: _TreeState, plan: TreePlan) -> None:
    if plan.tree.size == 1:  # the draft is never right: one child shows if that changes
        state.candidate = GrowMap.chain(1)
    loss = max(1.0 / max(plan.predicted_speedup, 1e-3) - 1.0, 0.0)
    state.interval = max(LEAST_INTERVAL, round(PROBE_STEPS * loss / PROBE_SHARE))


class Tuner:
    """Measures a pair, with caches of its own, and keeps an advisor for it."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._bundled = BundledAdvisor(pair.acceptance_rates)
        self._kept: Calibration | None = None
        self.online: OnlineAdvisor | None = None  # once something was measured
        self._run: CalibrationRun | None = None
        self._has_room = True
        self._load()

    @property
    def advisor(self) -> TreeAdvisor:
        return self.online or self._bundled

    @property
    def calibration(self) -> Calibration | None:
        return self.online.calibration if self.online else None

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure, until `should_stop`, or keep what was learnt; a `Notice` when complete.

        Where the context window has no room to measure, the packaged trees stay.
        """
        if self.online is None:
            self._load()  # another conversation with this pair may have measured meanwhile
        if self.online is not None:
            self.keep()
            return
        if not self._has_room:
            return
        try:
            for _ in self.measure():
                if should_stop():
                    return
        except ParameterError:
            self._has_room = False
            return
        yield Notice(NoticeKind.CALIBRATION, self._news())

    def keep(self) -> None:
        """Keep the acceptance learnt since; what another process has measured meanwhile stays."""
        now = self.calibration
        if now is None or now is self._kept:
            return
        before = self._kept.records if self._kept else {}
        stored = Calibration.load(self._pair.fingerprint) or now
        learnt = {band: each for band, each in now.records.items() if each != before.get(band)}
        merged = replace(stored, records={**stored.records, **learnt})
        merged.save(self._pair.fingerprint)
        self._kept = now

    def _load(self) -> None:
        self._kept = Calibration.load(self._pair.fingerprint)
        if self._kept:
            self.online = OnlineAdvisor(self._kept, self._pair.most_nodes)

    def _news(self) -> str:
        """What a chat says once it has measured, whatever tree it decodes with."""
        drafts = self.calibration is not None and self.calibration.drafts
        what = "trees now have the size" if drafts else "prompt lookup now has the length"
        return f"this machine is measured: {what} that is fastest here, unless you chose one"

    def summary(self, temperature: float = TEMPERATURE) -> str:
        """One line: the speed-ups predicted for fixed trees at temperature 0 and at another."""
        if self.online is None:
            return "this machine has not been measured yet"
        if not self.online.calibration.drafts:
            return "this machine is measured for looking up alone: the target has no draft"
        parts = []
        for each in (0.0, temperature or TEMPERATURE):
            plan = self.online.speed_model(each, TYPICAL_CONTEXT).search()
            shape, predicted = plan.growmap, f"{plan.predicted_speedup:.2f}x predicted"
            tree = f"{shape.size} nodes, depth {shape.depth}" if shape else "plain decoding"
            what = predicted if shape else f"the best tree: {predicted}"
            parts.append(f"at temperature {each:g}: {tree} ({what})")
        return "trees are fitted to this machine; the best of a fixed shape: " + "; ".join(parts)

    def measure(self, temperature: float = TEMPERATURE) -> Iterator[tuple[str, float]]:
        """Measure everything anew, at temperature 0 and at another (0: the default), and keep it.

        Yields what is being done and the part done. A run that was left continues where it was.
        Acceptance at other temperatures stays known.
        """
        wanted = temperature or TEMPERATURE
        if self._run is None or self._run.temperature != wanted:
            self._run = CalibrationRun(self._pair, wanted)
        yield from self._run.run()
        found, self._run = self._run.calibration(), None
        return_freed_memory()
        known = self.calibration.records if self.calibration else {}
        self._kept = replace(found, records={**known, **found.records})
        self.online = OnlineAdvisor(self._kept, self._pair.most_nodes)
        self._kept.save(self._pair.fingerprint)
