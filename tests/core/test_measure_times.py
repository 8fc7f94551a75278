"""Time curves go through their points; timing leaves caches as they were."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.errors import ParameterError
from sequoia_core.measure.times import TimeCurve, time_forwards
from tests.core.models import TableModel

CURVES = st.dictionaries(st.integers(1, 200), st.floats(0.01, 1e4), min_size=2, max_size=8).map(
    lambda points: TimeCurve(tuple(sorted(points)), tuple(points[n] for n in sorted(points)))
)


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


def test_past_its_ends_it_goes_on_straight_and_never_below_nothing() -> None:
    curve = TimeCurve((2, 4, 8), (10.0, 12.0, 20.0))
    assert curve(1) == pytest.approx(9.0)
    assert curve(10) == pytest.approx(24.0)
    falling = TimeCurve((2, 4), (10.0, 1.0))
    assert 0 < falling(100) < 1


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


def test_every_round_times_every_size_of_every_model_on_its_context() -> None:
    """The models themselves assert that positions and masks fit their caches."""
    first, second = TableModel(5, 1), TableModel(5, 2)
    rounds = list(time_forwards([(first, (1, 3, 8)), (second, (1, 2))], context=10, repeats=3))
    assert [len(curves) for curves in rounds] == [2] * 4
    assert [curve.rows for curve in rounds[-1]] == [(1, 3, 8), (1, 2)]
    assert (first.forwards, second.forwards) == (4 * 3, 4 * 2)
    assert first.caches[0].length == second.caches[0].length == 10
    assert all(ms > 0 for curves in rounds for curve in curves for ms in curve.milliseconds)


def test_timing_can_be_left_after_any_round() -> None:
    model = TableModel(5, 1)
    rounds = time_forwards([(model, (1, 2))], context=4, repeats=50)
    next(rounds)
    assert model.forwards == 2
