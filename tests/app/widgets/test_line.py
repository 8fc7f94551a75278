"""Bars of text are as wide as requested and grow with their values."""

from hypothesis import given, settings
from hypothesis import strategies as st

from app.widgets.line import gauge, sparkline

quick = settings(deadline=None, max_examples=80)


@quick
@given(values=st.lists(st.floats(0, 100), max_size=30), cells=st.integers(0, 20))
def test_a_sparkline_is_one_bar_a_value_and_keeps_their_order(
    values: list[float], cells: int
) -> None:
    line = sparkline(values, cells)
    shown = values[len(values) - len(line) :]
    assert len(line) == min(len(values), cells)
    ordered = sorted(zip(shown, line, strict=True))
    assert [bar for _, bar in ordered] == sorted(line)


@quick
@given(low=st.floats(0, 1), high=st.floats(0, 1), cells=st.integers(0, 30))
def test_a_gauge_is_as_wide_as_asked_and_grows_with_the_value(
    low: float, high: float, cells: int
) -> None:
    low, high = sorted((low, high))
    assert len(gauge(low, cells)) == len(gauge(high, cells)) == cells
    assert gauge(low, cells).count("█") <= gauge(high, cells).count("█")
