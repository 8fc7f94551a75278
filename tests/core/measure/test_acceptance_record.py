"""Counted rates converge to the true ones, by rank and depth, and only what was judged counts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sequoia_core.errors import ParameterError
from sequoia_core.events import Outcome, Step
from sequoia_core.measure.calibration import FOREVER, MEMORY, PRIOR, AcceptanceRecord, Tally
from sequoia_core.measure.timings import StepCostModel
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.measuring import TIMES, Rates, grafted, make_step, record_of, walk

TREE = GrowMap((-1, 0, 0, 0, 1, 1, 2, 4, 4))
COSTS = StepCostModel(TIMES).costs(0.0, 100)
TRUTH = ((0.5, 0.2, 0.1), (0.6, 0.05), (0.2, 0.1))


def learnt(record: AcceptanceRecord, truth: Rates, steps: int, seed: int = 1) -> AcceptanceRecord:
    rng = random.Random(seed)
    for _ in range(steps):
        record = record.plus(make_step(TREE, walk(TREE, truth, rng), COSTS))
    return record


def averaged(record: AcceptanceRecord, truth: Rates) -> list[list[float]]:
    """Rates as estimated on average: the noise of one estimate is what `MEMORY` leaves."""
    snapshots = []
    for seed in range(14):
        record = learnt(record, truth, 300, seed)
        snapshots.append((record.rates, *record.deeper))
    return [
        [sum(each[d][k] for each in snapshots[4:]) / 10 for k in range(len(snapshots[-1][d]))]
        for d in range(3)
    ]


@pytest.mark.parametrize(
    "start", [AcceptanceRecord(), record_of(((0.05, 0.5, 0.3), (0.1, 0.8), (0.9, 0.05)), MEMORY)]
)
def test_estimates_converge_to_the_truth_at_every_depth_and_rank(start: AcceptanceRecord) -> None:
    means = averaged(start, TRUTH)
    for depth, rates in enumerate(TRUTH):
        for rank, rate in enumerate(rates):
            tolerance = 0.05 if depth < 2 else 0.12  # a third of the steps come so deep
            assert means[depth][rank] == pytest.approx(rate, abs=tolerance)


@given(
    parents=st.lists(st.integers(0, 20), max_size=14),
    seed=st.integers(0, 999),
    emitted=st.integers(1, 9),
)
def test_exactly_the_nodes_that_decided_an_emitted_token_count(
    parents: list[int], seed: int, emitted: int
) -> None:
    """What a cut left of the path: a node counts if the token after it was emitted."""
    tree = tree_of(parents)
    path = walk(tree, ((0.4, 0.3, 0.2),), random.Random(seed))
    step = make_step(tree, path, COSTS, emitted=min(emitted, len(path)))
    record = AcceptanceRecord().plus(step)
    for depth in range(tree.depth):
        node = path[depth] if depth < len(path) else None
        tried = len(tree.children[node]) if node is not None and depth < emitted else 0
        trials = record.depths[depth].trials if depth < len(record.depths) else ()
        assert trials == (1.0,) * tried
        if tried:
            accepted = [0.0] * tried
            if depth + 1 < len(path):
                accepted[tree.ranks[path[depth + 1]] - 1] = 1.0
            assert record.depths[depth].hits == tuple(accepted)


def test_a_step_cut_by_an_end_of_text_does_not_count_what_lies_behind() -> None:
    whole = make_step(TREE, (0, 1, 4, 7), COSTS)
    cut = make_step(TREE, (0, 1, 4, 7), COSTS, emitted=1)
    assert len(AcceptanceRecord().plus(whole).depths) == 3
    assert AcceptanceRecord().plus(cut).depths == AcceptanceRecord().plus(whole).depths[:1]


@given(seed=st.integers(0, 99), at=st.integers(0, TREE.size - 1), length=st.integers(1, 5))
def test_what_is_looked_up_says_nothing_of_the_draft(seed: int, at: int, length: int) -> None:
    """It is tried after the draft's children, and so leaves them what they were."""
    step = make_step(TREE, walk(TREE, TRUTH, random.Random(seed)), COSTS)
    known = record_of(TRUTH, 100.0)
    assert known.plus(grafted(step, at, length)) == known.plus(step)


def test_an_accepted_look_up_is_a_miss_of_the_draft() -> None:
    step = grafted(make_step(TREE, (0,), COSTS), length=2)
    path = (0, TREE.size, TREE.size + 1)
    nodes = [replace(node, outcome=Outcome.ACCEPTED) if at in path else node
             for at, node in enumerate(step.nodes)]  # fmt: skip
    taken = replace(step, nodes=tuple(nodes), path=path, token_ids=(0, 0, 0))
    assert AcceptanceRecord().plus(taken) == AcceptanceRecord().plus(step)
    plain = grafted(make_step(GrowMap((-1,)), (0,), COSTS))
    assert AcceptanceRecord().plus(plain) == AcceptanceRecord()


def test_plain_steps_tell_nothing_of_the_draft() -> None:
    plain = make_step(GrowMap((-1,)), (0,), COSTS)
    assert AcceptanceRecord().plus(plain) == AcceptanceRecord()


def test_a_step_that_stands_for_several_counts_as_they_would() -> None:
    step = make_step(TREE, (0, 2, 6), COSTS)
    many = record_of(TRUTH, 100.0)
    for _ in range(4):
        many = many.plus(step)
    once = record_of(TRUTH, 100.0).plus(step, weight=4.0)
    for several, single in zip(many.depths, once.depths, strict=True):
        assert several.trials == pytest.approx(single.trials, rel=0.01)
        assert several.hits == pytest.approx(single.hits, rel=0.02)


def weakenings(start: AcceptanceRecord, truth: Rates, steps: int) -> list[int]:
    """After which steps the record trusted what it knew less than before."""
    rng, record, found = random.Random(7), start, []
    for at in range(1, steps + 1):
        trials = record.depths[0].trials[0]
        record = record.plus(make_step(TREE, walk(TREE, truth, rng), COSTS))
        if record.depths[0].trials[0] < trials - MEMORY / 2:
            found.append(at)
    return found


@pytest.mark.parametrize("truth", [TRUTH, ((0.95, 0.03),), ((0.05,),), ((0.0,),), ((1.0,),)])
def test_chance_does_not_make_a_record_doubt_itself(truth: Rates) -> None:
    assert weakenings(learnt(record_of(truth, MEMORY), truth, 50), truth, 1500) == []


@pytest.mark.parametrize(
    ("before", "after"), [(0.7, 0.0), (0.95, 0.3), (0.1, 0.8), (0.0, 0.9), (1.0, 0.4)]
)
def test_a_text_that_changes_is_noticed_within_a_few_steps(before: float, after: float) -> None:
    found = weakenings(record_of(((before,),), MEMORY), ((after,),), 40)
    assert found
    assert found[0] <= 20
    settled = learnt(record_of(((before,),), MEMORY), ((after,),), 120)
    assert settled.rates[0] == pytest.approx(after, abs=0.2)


def test_what_is_far_back_is_forgotten() -> None:
    wrong = record_of(((0.9, 0.0, 0.0),), MEMORY)
    right = learnt(wrong, ((0.0, 0.0, 0.0),), round(3 * MEMORY))
    assert right.rates[0] < 0.9 * 0.06


def test_depths_seldom_reached_are_taken_to_be_like_all_together() -> None:
    record = AcceptanceRecord((Tally((50.0, 10.0), (100.0, 100.0)), Tally((1.0,), (2.0,))))
    assert record.rates == (0.5, 0.1)
    assert record.deeper[0] == pytest.approx((0.5, 0.1))
    weaker = AcceptanceRecord(tuple(Tally((hits,), (300.0,)) for hits in (150.0, 90.0, 60.0)))
    one = 1 / 3  # 300 of 900
    shrunk = [(hits + PRIOR * one) / (300 + PRIOR) for hits in (90, 60)]
    assert [rates[0] for rates in weaker.deeper] == pytest.approx(shrunk)
    assert weaker.rates == (0.5,)
    assert Tally.pooled([]) == Tally()
    ragged = Tally.pooled([Tally((1.0, 2.0), (5.0, 5.0)), Tally((1.0,), (3.0,)), Tally()])
    assert ragged == Tally((2.0, 2.0), (8.0, 5.0))
    seldom = AcceptanceRecord((Tally((50.0,), (100.0,)), Tally((0.0,), (1.0,))))
    assert 0.45 < seldom.deeper[0][0] < 0.5  # 50 of 101 together


@given(
    hits=st.lists(st.floats(0, 100), min_size=1, max_size=6),
    below=st.lists(st.floats(0, 5), max_size=6),
)
def test_rates_are_probabilities_that_exclude_each_other(
    hits: list[float], below: list[float]
) -> None:
    tallies = (Tally(tuple(each), tuple(max(hits) + 5.0 for _ in each)) for each in (hits, below))
    record = AcceptanceRecord(tuple(tallies))
    for rates in (record.rates, *record.deeper):
        assert all(0 <= rate <= 1 for rate in rates)
        assert sum(rates) <= 1 + 1e-9


def test_weakened_rates_are_the_same_and_learn_fast() -> None:
    strong = record_of(TRUTH, 1000.0)
    weak = strong.weakened(20.0)
    assert weak.rates == pytest.approx(strong.rates)
    assert weak.steps == 0
    step = make_step(TREE, (0,), COSTS)
    assert weak.plus(step).rates[0] < strong.plus(step).rates[0]


@pytest.mark.parametrize(
    ("hits", "trials"),
    [((1.0,), ()), ((2.0,), (1.0,)), ((-1.0,), (1.0,)), ((0.0,), (float("nan"),))],
)
def test_counts_that_are_none_are_refused(
    hits: tuple[float, ...], trials: tuple[float, ...]
) -> None:
    with pytest.raises(ParameterError, match="more hits than trials"):
        Tally(hits, trials)


def test_only_steps_of_trees_are_counted() -> None:
    tree, plain = make_step(TREE, (0,), COSTS), make_step(GrowMap((-1,)), (0,), COSTS)
    record = AcceptanceRecord()
    for each in [tree, plain] * 3:
        record = record.plus(each)
    assert record.steps == 3


def test_a_step_is_what_the_tests_take_it_for() -> None:
    step: Step = make_step(TREE, (0, 1, 4), COSTS)
    assert step.accepted == 2
    assert [node.outcome.value for node in step.nodes[1:4]] == [
        "accepted", "not reached", "not reached",
    ]  # fmt: skip


def test_of_one_sample_every_step_counts_alike() -> None:
    """400 steps of which the first half accepted, as in a survey: the rate is a half, not less."""
    hit, miss = make_step(TREE, (0, 1), COSTS), make_step(TREE, (0,), COSTS)
    whole, fading = AcceptanceRecord(), AcceptanceRecord()
    for step in [hit] * 200 + [miss] * 200:
        whole, fading = whole.plus(step, memory=FOREVER), fading.plus(step)
    assert whole.rates[0] == pytest.approx(0.5)
    assert whole.depths[0].trials[0] == pytest.approx(400)
    assert fading.rates[0] < 0.4
