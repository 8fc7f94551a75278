"""Time curves and surfaces go through their points; timing leaves caches as they were."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.errors import ParameterError
from sequoia_core.measure.timings import ForwardTimer, TimeCurve, TimeSurface
from tests.core.models import TableModel

TIMES = st.floats(0.01, 1e4)
CURVES = st.dictionaries(st.integers(1, 200), TIMES, min_size=2, max_size=8).map(
    lambda points: TimeCurve(tuple(sorted(points)), tuple(points[n] for n in sorted(points)))
)


@st.composite
def surfaces(draw: st.DrawFn) -> TimeSurface:
    rows = tuple(sorted(draw(st.sets(st.integers(1, 200), min_size=2, max_size=5))))
    contexts = tuple(sorted(draw(st.sets(st.integers(1, 4000), min_size=1, max_size=4))))
    times = st.lists(TIMES, min_size=len(rows), max_size=len(rows))
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
