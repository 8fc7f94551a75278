"""Trees change exactly where it pays, plain decoding is fallen back to and returned from."""

import random
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from sequoia_core.measure.calibration import Calibration
from sequoia_core.measure.timings import Overhead, StepCostModel, TimeCurve, TimeSurface, step_ms
from sequoia_core.measure.tuner import (
    GAIN,
    LEAST_INTERVAL,
    PROBE_SHARE,
    PROBE_STEPS,
    SEARCH_EVERY,
    OnlineAdvisor,
    SpeedModel,
    _TreeState,
)
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import MEASURED, Advice
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.core.measuring import (
    TIMES,
    Rates,
    calibration_of,
    grafted,
    make_step,
    record_of,
    surface,
    walk,
)

GOOD: Rates = ((0.7, 0.15, 0.05), (0.7, 0.1))
USELESS: Rates = ((0.0, 0.0, 0.0),)
COSTS = StepCostModel(TIMES).costs(0.6, 100)


class Decoding:
    """A machine that takes the times of `TIMES` and accepts at known rates."""

    def __init__(self, advisor: OnlineAdvisor, temperature: float = 0.6, seed: int = 1) -> None:
        self.advisor, self.temperature = advisor, temperature
        self.looking_up = False
        self.rng = random.Random(seed)
        self.tree = self._tree(advisor.advise(temperature, 100, False))
        self.steps = 0

    def run(
        self, rates: Rates, steps: int, costs: StepCosts = COSTS, slower: float = 1.0
    ) -> Iterator[tuple[float, float]]:
        """Yields tokens and milliseconds of every step."""
        for _ in range(steps):
            path = walk(self.tree, rates, self.rng)
            step = make_step(self.tree, path, costs, slower=slower)
            step = grafted(step) if self.looking_up else step
            yield float(len(step.token_ids)), step.timings.total_ms
            self.steps += 1
            advice = self.advisor.observe(step, self.temperature, False)
            if advice is not None:
                self.tree = self._tree(advice)

    @staticmethod
    def _tree(advice: Advice) -> GrowMap:
        return advice.growmap or ROOT


def advisor_of(rates: Rates, trials: float = 150.0) -> OnlineAdvisor:
    return OnlineAdvisor(calibration_of(rates, trials))


def speed(run: Iterator[tuple[float, float]]) -> float:
    """Tokens per time over plain decoding's."""
    tokens, milliseconds = (sum(each) for each in zip(*run, strict=True))
    return float(tokens * COSTS.plain_ms / milliseconds)


def test_the_first_advice_is_the_best_tree_of_the_figures() -> None:
    advisor = advisor_of(GOOD)
    advice = advisor.advise(0.6, 100, False)
    plan = advisor.speed_model(0.6, 100).search()
    assert advice.growmap is not None
    assert advice.growmap.parents == plan.tree.parents
    assert advice.predicted_speedup == pytest.approx(plan.predicted_speedup)
    assert advice.growmap.name == MEASURED
    record = advisor.calibration.record(0.6)
    assert (advice.rates, advice.deeper) == (record.rates, record.deeper)
    assert "150 steps" in advice.reason


def test_predictions_are_tokens_times_plain_time_over_step_time() -> None:
    figures = advisor_of(GOOD).speed_model(0.6, 100)
    plan = figures.search()
    tokens = plan.tree.expected_tokens(figures.record.rates, figures.record.deeper)
    expected = tokens * figures.costs.plain_ms / step_ms(plan.tree, figures.costs)
    assert plan.predicted_speedup == pytest.approx(expected)
    assert figures.speedup(plan.tree) == pytest.approx(expected)
    assert figures.speedup(ROOT) == 1.0
    other = GrowMap.k_ary([2, 2, 1])
    assert figures.speedup(other) <= plan.predicted_speedup


def test_a_chain_is_advised_where_one_is_asked_for() -> None:
    advice = advisor_of(GOOD).advise(0.6, 100, True)
    assert advice.growmap is not None
    assert advice.growmap.branching == 1


def test_a_longer_context_has_its_own_times() -> None:
    """Rows that cost more far into a text make the tree smaller there."""
    dear = surface(10.0, 0.2, 0.0).curves[0], surface(10.0, 6.0, 0.0).curves[1]
    times = replace(TIMES, target=replace(TIMES.target, curves=dear))
    sizes = []
    for context in (64, 1024):
        advisor = OnlineAdvisor(Calibration(times, calibration_of(GOOD).records))
        sizes.append((advisor.advise(0.6, context, False).growmap or ROOT).size)
    assert sizes[0] > 2 * sizes[1]


@pytest.mark.parametrize("gain", [GAIN - 0.01, GAIN + 0.01])
def test_a_tree_is_changed_exactly_if_that_is_predicted_to_gain_enough(gain: float) -> None:
    """The drafting gets cheaper by as much as makes the best other tree better by `gain`."""
    advisor = advisor_of(GOOD)
    before = advisor.advise(0.6, 100, False).growmap
    assert before is not None

    def figures(cheaper: float) -> SpeedModel:
        costs = replace(COSTS, draft_ms=lambda rows: COSTS.draft_ms(rows) / cheaper)
        return SpeedModel(record_of(GOOD, 150.0), costs)

    def gained(cheaper: float) -> float:
        now = figures(cheaper)
        return now.search().predicted_speedup / now.speedup(before)

    low, high = 1.0, 1e3
    assert gained(high) > GAIN + 0.01
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if gained(middle) < gain else (low, middle)
    times = replace(TIMES, draft=TIMES.draft.scaled(1 / high))
    times = replace(times, sampled=replace(times.sampled, level_ms=times.sampled.level_ms / high))
    advisor._costs = StepCostModel(times)
    after = advisor.advise(0.6, 100, False).growmap
    assert after is not None
    assert (after.parents != before.parents) == (gain > GAIN)


def test_the_best_tree_stays_while_nothing_changes() -> None:
    changes = 0
    for seed in range(4):
        decoding = Decoding(advisor_of(GOOD), seed=seed)
        before = decoding.tree
        for _ in decoding.run(GOOD, 1000):
            changes += decoding.tree.parents != before.parents
            before = decoding.tree
    assert changes <= 8  # of 125 looks; noise of the estimates


def test_one_stray_step_changes_no_tree() -> None:
    for stray in (0.01, 8.0, 1000.0):
        calm, hit = Decoding(advisor_of(GOOD)), Decoding(advisor_of(GOOD))
        list(calm.run(GOOD, SEARCH_EVERY * 6))
        list(hit.run(GOOD, SEARCH_EVERY * 3))
        list(hit.run(GOOD, 1, slower=stray))
        list(hit.run(GOOD, SEARCH_EVERY * 3 - 1))
        assert hit.tree.parents == calm.tree.parents


def test_a_tree_grows_where_a_text_turns_easy() -> None:
    decoding = Decoding(advisor_of(((0.3, 0.1), (0.3, 0.1))))
    before = decoding.tree
    easy: Rates = ((0.95, 0.02), (0.95, 0.02))
    list(decoding.run(easy, 800))
    assert decoding.tree.depth > before.depth
    best = SpeedModel(record_of(easy), COSTS)
    assert best.speedup(decoding.tree) > 0.95 * best.search().predicted_speedup


def test_an_answer_that_decodes_slower_than_plainly_falls_back_and_returns_by_itself() -> None:
    decoding = Decoding(advisor_of(GOOD))
    assert speed(decoding.run(GOOD, 300)) > 1.1
    list(decoding.run(USELESS, 400))
    assert speed(decoding.run(USELESS, 600)) > 1 - 2 * PROBE_SHARE
    assert decoding.tree.size == 1
    list(decoding.run(GOOD, 800))
    assert decoding.tree.size > 1
    assert speed(decoding.run(GOOD, 400)) > 1.1


@pytest.mark.parametrize("seed", range(3))
def test_falling_back_and_returning_take_a_part_of_a_long_answer(seed: int) -> None:
    decoding = Decoding(advisor_of(GOOD), seed=seed)
    list(decoding.run(GOOD, 300))
    list(decoding.run(USELESS, 4 * SEARCH_EVERY))
    assert decoding.tree.size == 1
    list(decoding.run(USELESS, 500))
    tokens = sum(tokens for tokens, _ in decoding.run(GOOD, 150))
    assert decoding.tree.size > 1
    assert tokens > 200


def test_it_falls_back_where_steps_take_longer_than_was_measured() -> None:
    """A tree's rows got dear on this machine, plain steps did not."""
    rates: Rates = ((0.5, 0.1), (0.5, 0.1))
    decoding = Decoding(advisor_of(rates))
    assert decoding.tree.size > 1
    dear = replace(COSTS, target_ms=lambda n: COSTS.target_ms(n) * (1 if n == 1 else 2))
    list(decoding.run(rates, SEARCH_EVERY * 8, dear))
    assert decoding.advisor.advise(0.6, 100, False).growmap is None


def test_a_tree_that_no_longer_pays_is_left_though_every_step_looks_something_up() -> None:
    decoding = Decoding(advisor_of(GOOD))
    decoding.looking_up = True
    list(decoding.run(USELESS, 300))
    assert decoding.tree.size == 1
    assert speed(decoding.run(USELESS, 600)) > 1 - 2 * PROBE_SHARE
    list(decoding.run(GOOD, 800))
    assert decoding.tree.size > 1


@pytest.mark.parametrize("gain", [0.94, 0.999, 1.001, 1.02])
def test_plain_decoding_does_not_call_a_small_gain_none(gain: float) -> None:
    """What is not worth a change is told apart from what would be slower."""
    advisor = advisor_of(GOOD)
    figures = advisor.speed_model(0.6, 100)
    rival = figures.search().tree
    costs = replace(COSTS, plain_ms=COSTS.plain_ms * gain / figures.speedup(rival))
    advice = advisor._advice(_TreeState(ROOT, rival), replace(figures, costs=costs))
    assert advice.predicted_speedup == pytest.approx(gain)
    assert ("gain too little" in advice.reason) == (gain > 1.0)
    assert ("they would be slower here" in advice.reason) == (gain <= 1.0)


def test_what_probing_costs_is_bounded_however_useless_the_draft() -> None:
    decoding = Decoding(advisor_of(USELESS))
    assert decoding.tree.size == 1
    probes = [tokens for tokens, ms in decoding.run(USELESS, 2000) if ms > COSTS.plain_ms]
    assert probes
    again = Decoding(advisor_of(USELESS))
    assert speed(again.run(USELESS, 2000)) > 1 - 2 * PROBE_SHARE


def test_short_answers_get_their_probe_too() -> None:
    advisor = advisor_of(((0.1,),))
    probed = False
    for _ in range(400):  # answers of a few steps each
        decoding = Decoding(advisor)
        list(decoding.run(USELESS, LEAST_INTERVAL // 4))
        probed = probed or decoding.tree.size > 1
    assert probed


def test_a_probe_ends_and_says_what_came_of_it() -> None:
    advisor = advisor_of(USELESS)
    tree = advisor.advise(0.6, 100, False).growmap
    advice = None
    for _ in range(10_000):
        advice = advisor.observe(make_step(ROOT, (0,), COSTS), 0.6, False)
        if advice is not None:
            break
    assert tree is None
    assert advice is not None
    assert advice.growmap is not None
    assert "trying" in advice.reason
    results = [
        advisor.observe(make_step(advice.growmap, (0,), COSTS), 0.6, False)
        for _ in range(PROBE_STEPS)
    ]
    assert results[:-1] == [None] * (PROBE_STEPS - 1)
    assert results[-1] is not None
    assert results[-1].growmap is None
    assert "they would be slower here" in results[-1].reason


def test_a_change_says_why_and_from_how_many_steps() -> None:
    decoding = Decoding(advisor_of(GOOD))
    list(decoding.run(USELESS, 300))
    advice = decoding.advisor.advise(0.6, 100, False)
    assert advice.growmap is None
    assert "they would be slower here" in advice.reason
    list(decoding.run(GOOD, 1500))
    reason = decoding.advisor.advise(0.6, 100, False).reason
    assert re.fullmatch(r"changed after \d+ steps: \d\.\d\dx predicted, before \d\.\d\dx", reason)


def test_steps_of_other_trees_teach_but_change_nothing() -> None:
    advisor = advisor_of(GOOD)
    tree = advisor.advise(0.6, 100, False).growmap
    other = GrowMap.k_ary([3] * 3)
    for _ in range(5 * SEARCH_EVERY):
        assert advisor.observe(make_step(other, (0,), COSTS), 0.6, False) is None
    assert tree is not None
    assert advisor.calibration.record(0.6).rates[0] < 0.7 * GOOD[0][0]
    assert advisor.observe(make_step(other, (0,), COSTS), 1.5, False) is None


def test_figures_of_another_temperature_are_called_that() -> None:
    reason = advisor_of(GOOD).advise(1.5, 100, False).reason
    assert "of another temperature" in reason


def test_temperatures_learn_apart() -> None:
    advisor = advisor_of(GOOD)
    before = advisor.calibration.record(0.0)
    decoding = Decoding(advisor, temperature=0.6)
    list(decoding.run(USELESS, 200))
    assert advisor.calibration.record(0.0) is before
    assert advisor.calibration.record(0.6).rates[0] < 0.5 * before.rates[0]


def test_rest_costs_tell_greedy_from_sampled() -> None:
    dear = Overhead(50.0, 0.0, 0.0, 0.5)
    advisor = OnlineAdvisor(replace(calibration_of(GOOD), times=replace(TIMES, sampled=dear)))
    assert advisor.costs(0.0, 100).overhead_ms == pytest.approx(TIMES.greedy.base_ms)
    assert advisor.costs(0.6, 100).overhead_ms == pytest.approx(50.0)
    assert advisor.advise(0.0, 100, False).growmap is not None
    assert advisor.advise(0.6, 100, False).growmap is None


def test_a_look_costs_nothing_that_shows() -> None:
    """Between looks nothing is searched: one table per `SEARCH_EVERY` steps at most."""
    searches = 0
    decoding = Decoding(advisor_of(GOOD))
    original = SpeedModel.search

    def counted(self: SpeedModel, *bounds: int) -> object:
        nonlocal searches
        searches += 1
        return original(self, *bounds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpeedModel, "search", counted)
        list(decoding.run(GOOD, 10 * SEARCH_EVERY))
    assert searches == 10


@pytest.mark.parametrize(
    ("rows", "most"), [((1, 64, 128), 768), ((1, 128, 768), 768), ((1, 128, 768), 128)]
)
def test_trees_are_searched_as_far_as_forwards_were_timed_and_memory_is_planned(
    rows: tuple[int, ...], most: int
) -> None:
    """Where more rows cost nothing, as on a GPU, all of them are taken."""
    flat = TimeSurface((100,), (TimeCurve(rows, (10.0,) * len(rows)),))
    cheap = TimeSurface((100,), (TimeCurve((1, 2), (1e-3, 1e-3)),))
    nothing = Overhead(0.0, 0.0, 0.0, 0.0)
    times = replace(TIMES, target=flat, draft=cheap, greedy=nothing, sampled=nothing)
    advisor = OnlineAdvisor(replace(calibration_of(GOOD, 150.0), times=times), most)
    most = min(most, rows[-1])
    model = advisor.speed_model(0.6, 100)
    plan = model.search()
    assert plan.tree.size <= most
    assert (plan.tree.size > 128) == (most > 128)
    assert model.search(16, 4).tree.size <= 16
    assert model.search(10_000, 100).tree.parents == plan.tree.parents
    advice = advisor.advise(0.6, 100, False)
    assert advice.growmap is not None
    assert advice.growmap.parents == plan.tree.parents
    chain = advisor.speed_model(0.6, 100, chain=True).search()
    assert chain.tree.branching == 1
