"""Time curves go through their points, costs follow the machine, a step's parts add up."""

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sequoia_core.errors import ParameterError
from sequoia_core.measure.timings import (
    KEPT,
    LEAST,
    STALE_STEPS,
    ForwardTimer,
    Overhead,
    StepCostModel,
    TimeCurve,
    TimeSurface,
    step_ms,
)
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.measuring import OVERHEAD, TIMES, grafted, make_step
from tests.core.models import TableModel

TREE = GrowMap.k_ary([3, 2])
MEASURED = StepCostModel(TIMES).costs(0.6, 100)
MILLISECONDS = st.floats(0.01, 1e4)
CURVES = st.dictionaries(st.integers(1, 200), MILLISECONDS, min_size=2, max_size=8).map(
    lambda points: TimeCurve(tuple(sorted(points)), tuple(points[n] for n in sorted(points)))
)


@st.composite
def surfaces(draw: st.DrawFn) -> TimeSurface:
    rows = tuple(sorted(draw(st.sets(st.integers(1, 200), min_size=2, max_size=5))))
    contexts = tuple(sorted(draw(st.sets(st.integers(1, 4000), min_size=1, max_size=4))))
    times = st.lists(MILLISECONDS, min_size=len(rows), max_size=len(rows))
    return TimeSurface(contexts, tuple(TimeCurve(rows, tuple(draw(times))) for _ in contexts))


@given(curve=CURVES)
def test_a_curve_goes_through_its_points(curve: TimeCurve) -> None:
    for rows, milliseconds in zip(curve.rows, curve.milliseconds, strict=True):
        assert curve(rows) == pytest.approx(milliseconds)


@given(curve=CURVES, rows=st.integers(1, 200))
def test_in_between_it_is_straight(curve: TimeCurve, rows: int) -> None:
    points = zip(curve.rows, curve.milliseconds, strict=True)
    for (low, start), (high, end) in pairwise(points):
        if low <= rows <= high:
            share = (rows - low) / (high - low)
            assert curve(rows) == pytest.approx((1 - share) * start + share * end)


def test_past_its_ends_it_goes_on_straight_and_never_below_them() -> None:
    curve = TimeCurve((2, 4, 8), (10.0, 12.0, 20.0))
    assert curve(1) == 10.0
    assert curve(10) == pytest.approx(24.0)
    falling = TimeCurve((2, 4), (10.0, 1.0))
    assert falling(100) == 1.0
    surface = TimeSurface((8, 16), (TimeCurve((1, 2), (5.0, 1.0)), TimeCurve((1, 2), (4.0, 3.0))))
    assert surface.at(2000).milliseconds == pytest.approx((4.0, 3.0 + 0.25 * 1984))
    assert surface.at(0).milliseconds == (5.0, 1.0)


@given(surface=surfaces())
def test_a_surface_goes_through_its_curves(surface: TimeSurface) -> None:
    for context, curve in zip(surface.contexts, surface.curves, strict=True):
        assert surface.at(context).milliseconds == pytest.approx(curve.milliseconds)


@given(surface=surfaces(), context=st.integers(0, 8000), rows=st.integers(1, 200))
def test_a_surface_is_straight_in_context_at_every_size(
    surface: TimeSurface, context: int, rows: int
) -> None:
    times = {at: curve(rows) for at, curve in zip(surface.contexts, surface.curves, strict=True)}
    for low, high in pairwise(times):
        if low <= context <= high and rows in surface.curves[0].rows:
            share = (context - low) / (high - low)
            expected = (1 - share) * times[low] + share * times[high]
            assert surface.at(context)(rows) == pytest.approx(expected)
    if len(times) == 1:
        assert surface.at(context) == surface.curves[0]
    assert all(ms > 0 for ms in surface.at(context).milliseconds)


@given(surface=surfaces(), factor=st.floats(0.1, 10), context=st.integers(1, 4000))
def test_a_scaled_surface_takes_so_many_times_as_long(
    surface: TimeSurface, factor: float, context: int
) -> None:
    scaled = surface.scaled(factor).at(context).milliseconds
    for ms, before in zip(scaled, surface.at(context).milliseconds, strict=True):
        assert ms == pytest.approx(factor * before, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize(
    ("rows", "milliseconds"),
    [
        ((1,), (1.0,)),
        ((), ()),
        ((1, 2), (1.0,)),
        ((2, 1), (1.0, 2.0)),
        ((1, 1), (1.0, 2.0)),
        ((1, 2), (1.0, 0.0)),
        ((1, 2), (1.0, -1.0)),
        ((1, 2), (1.0, math.nan)),
        ((1, 2), (1.0, math.inf)),
    ],
)
def test_figures_that_are_no_curve_are_refused(
    rows: tuple[int, ...], milliseconds: tuple[float, ...]
) -> None:
    with pytest.raises(ParameterError, match="time curve"):
        TimeCurve(rows, milliseconds)


CURVE, OTHER = TimeCurve((1, 2), (1.0, 2.0)), TimeCurve((1, 3), (1.0, 2.0))


@pytest.mark.parametrize(
    ("contexts", "curves"),
    [
        ((), ()),
        ((1,), ()),
        ((2, 1), (CURVE, CURVE)),
        ((1, 1), (CURVE, CURVE)),
        ((1, 2), (CURVE, OTHER)),
    ],
)
def test_figures_that_are_no_surface_are_refused(
    contexts: tuple[int, ...], curves: tuple[TimeCurve, ...]
) -> None:
    with pytest.raises(ParameterError, match="time surface"):
        TimeSurface(contexts, curves)


def test_every_round_times_every_size_of_both_models_on_every_context() -> None:
    """The models themselves assert that positions and masks fit their caches."""
    target, draft = TableModel(5, 1), TableModel(5, 2)
    timer = ForwardTimer(target, draft, (10, 30))
    shares = list(timer.run(((1, 3, 8), (1, 2)), rounds=3, seconds=1e6))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert (target.forwards, draft.forwards) == (4 * 2 * 3, 4 * 2 * 2)
    for surface, rows in zip(timer.surfaces, ((1, 3, 8), (1, 2)), strict=True):
        assert surface.contexts == (10, 30)
        assert all(curve.rows == rows for curve in surface.curves)
    for model in (target, draft):
        assert [cache.length for cache in model.caches] == [10, 30]


def test_one_counted_round_is_timed_however_short_the_time_is() -> None:
    target, draft = TableModel(5, 1), TableModel(5, 2)
    list(ForwardTimer(target, draft, (10,)).run(((1, 2), (1, 2)), rounds=50, seconds=0.0))
    assert target.forwards == 2 * 2


def test_timing_can_be_left_after_any_forward_and_goes_on_there() -> None:
    target, draft = TableModel(5, 1), TableModel(5, 2)
    timer = ForwardTimer(target, draft, (4,))
    first = timer.run(((1, 2), (1, 2)), rounds=1, seconds=1e6)
    while target.forwards + draft.forwards < 3:
        next(first)
    list(timer.run(((1, 2), (1, 2)), rounds=1, seconds=1e6))
    assert target.forwards + draft.forwards in (8, 9)  # one may have been broken off


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
