"""Costs follow the machine, no stray step changes them, and a step's parts add up."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sequoia_core.errors import ParameterError
from sequoia_core.measure.timings import (
    KEPT,
    LEAST,
    STALE_STEPS,
    Overhead,
    StepCostModel,
    step_ms,
)
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.measuring import OVERHEAD, TIMES, grafted, make_step

TREE = GrowMap.k_ary([3, 2])
MEASURED = StepCostModel(TIMES).costs(0.6, 100)


def observed(
    learnt: StepCostModel, tree: GrowMap, slower: float, steps: int = KEPT
) -> StepCostModel:
    for _ in range(steps):
        learnt.observe(make_step(tree, (0,), MEASURED, slower=slower), 0.6)
    return learnt


@given(parents=st.lists(st.integers(0, 20), max_size=20), context=st.integers(1, 3000))
def test_a_step_is_its_forwards_and_the_rest(parents: list[int], context: int) -> None:
    tree, costs = tree_of(parents), StepCostModel(TIMES).costs(0.6, context)
    target, draft = TIMES.target.at(context), TIMES.draft.at(context)
    if tree.size == 1:
        assert step_ms(tree, costs) == pytest.approx(target(1) + OVERHEAD.plain_ms)
        return
    inner = [sum(1 for node in level if tree.children[node]) for level in tree.levels[:-1]]
    expected = target(tree.size) + sum(map(draft, inner)) + OVERHEAD.of(tree.size, tree.depth)
    assert step_ms(tree, costs) == pytest.approx(expected)


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_estimates_converge_to_what_steps_take(slower: float) -> None:
    rng = random.Random(3)
    learnt = StepCostModel(TIMES)
    for _ in range(400):
        noise = slower * rng.choice((0.98, 0.99, 1.0, 1.0, 1.01, 1.02, 6.0))  # one in seven is off
        learnt.observe(make_step(TREE, (0,), MEASURED, slower=noise), 0.6)
        learnt.observe(make_step(ROOT, (0,), MEASURED, slower=noise), 0.6)
    costs = learnt.costs(0.6, 100)
    assert step_ms(TREE, costs) == pytest.approx(slower * step_ms(TREE, MEASURED), rel=0.02)
    assert costs.target_ms(1) == pytest.approx(slower * MEASURED.target_ms(1), rel=0.02)


@pytest.mark.parametrize("before", [0, 1, LEAST, KEPT, 200])
@pytest.mark.parametrize("stray", [0.01, 10.0, 1000.0])
def test_one_stray_step_changes_nothing(before: int, stray: float) -> None:
    learnt = observed(StepCostModel(TIMES), TREE, 1.0, before)
    for tree in (TREE, ROOT):
        known = step_ms(tree, learnt.costs(0.6, 100))
        learnt.observe(make_step(TREE, (0,), MEASURED, slower=stray), 0.6)
        assert step_ms(tree, learnt.costs(0.6, 100)) == pytest.approx(known)


def test_few_steps_leave_what_was_measured() -> None:
    learnt = observed(StepCostModel(TIMES), TREE, 5.0, LEAST - 1)
    assert step_ms(TREE, learnt.costs(0.6, 100)) == step_ms(TREE, MEASURED)


@pytest.mark.parametrize("tree", [TREE, ROOT])
def test_steps_with_something_looked_up_teach_what_their_rows_take(tree: GrowMap) -> None:
    """The rows verified are all of them, the rows drafted only the draft's own."""
    learnt, rows = StepCostModel(TIMES), tree.size + 4
    for _ in range(KEPT):
        step = grafted(make_step(tree, (0,), MEASURED), length=4)
        timings = replace(step.timings, verify_ms=3.0 * TIMES.target.at(100)(rows))
        learnt.observe(replace(step, timings=timings), 0.6)
    costs = learnt.costs(0.6, 100)
    assert costs.target_ms(rows) == pytest.approx(
        3.0 * TIMES.target.at(100)(rows) + rows * OVERHEAD.node_ms
    )
    assert costs.draft_ms(1) == pytest.approx(MEASURED.draft_ms(1), rel=0.05)
    assert costs.overhead_ms == MEASURED.overhead_ms


def test_a_machine_that_is_busy_with_something_else_slows_every_tree_alike() -> None:
    busy = observed(StepCostModel(TIMES), TREE, 2.0).costs(0.6, 100)
    for tree in (TREE, GrowMap.chain(4), GrowMap.k_ary([8, 2]), ROOT):
        ratio = step_ms(tree, busy) / step_ms(tree, MEASURED)
        assert ratio == pytest.approx(2.0, rel=0.01)


def test_sizes_between_two_that_were_seen_lie_between_them() -> None:
    learnt = observed(observed(StepCostModel(TIMES), GrowMap.chain(3), 1.0), GrowMap.chain(7), 2.0)
    # the plain forward beside each step went the same way
    factors = [
        (learnt.costs(0.6, 100).target_ms(n) - n * OVERHEAD.node_ms)
        / (MEASURED.target_ms(n) - n * OVERHEAD.node_ms)
        for n in (4, 5, 6, 7, 8, 30)
    ]
    assert factors == sorted(factors)
    assert factors[0] == pytest.approx(1.0, rel=0.05)
    assert factors[-1] == pytest.approx(2.0, rel=0.05)


def test_a_size_not_seen_for_long_says_nothing_any_more() -> None:
    learnt = observed(StepCostModel(TIMES), GrowMap.chain(15), 4.0)
    observed(learnt, GrowMap.chain(3), 1.0, STALE_STEPS + KEPT)
    rows = learnt.costs(0.6, 100).target_ms(16)
    assert rows == pytest.approx(MEASURED.target_ms(16), rel=0.05)


@given(base=st.floats(0, 5), level=st.floats(0, 1), node=st.floats(0, 0.2), plain=st.floats(0, 5))
def test_fitting_finds_the_parts_that_made_the_figures(
    base: float, level: float, node: float, plain: float
) -> None:
    shapes = [(23, 4), (9, 1), (5, 4)]
    fitted = Overhead.fitted(plain, {(n, d): base + d * level + n * node for n, d in shapes})
    assert fitted.plain_ms == plain
    for nodes, depth in [*shapes, (64, 8), (2, 1)]:
        made = base + depth * level + nodes * node
        assert fitted.of(nodes, depth) == pytest.approx(made, rel=1e-6, abs=1e-6)


@given(times=st.lists(st.floats(0, 10), min_size=3, max_size=3))
def test_no_part_of_a_step_takes_less_than_nothing(times: list[float]) -> None:
    shapes = [(23, 4), (9, 1), (5, 4)]
    fitted = Overhead.fitted(0.5, dict(zip(shapes, times, strict=True)))
    assert min(fitted.base_ms, fitted.level_ms, fitted.node_ms) >= 0


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
def test_times_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(ParameterError, match="overhead of a step"):
        Overhead(wrong, 0.0, 0.0, 0.0)


def test_adaptive_steps_teach_forwards_and_nothing_of_the_rest() -> None:
    learnt = StepCostModel(TIMES)
    for _ in range(KEPT):
        learnt.observe(make_step(TREE, (0,), MEASURED, slower=2.0), 0.6, adaptive=True)
    costs = learnt.costs(0.6, 100)
    assert costs.overhead_ms == MEASURED.overhead_ms
    forward = MEASURED.target_ms(TREE.size) - TREE.size * OVERHEAD.node_ms
    assert costs.target_ms(TREE.size) - TREE.size * OVERHEAD.node_ms == pytest.approx(2 * forward)
    assert costs.draft_ms(1) - OVERHEAD.level_ms > 1.9 * (MEASURED.draft_ms(1) - OVERHEAD.level_ms)
