"""Figures survive the disk, damage is measured anew, and advice follows from the figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.errors import ParameterError
from sequoia_core.measure.calibration import (
    Calibration,
    calibration_path,
    load_calibration,
    save_calibration,
)
from sequoia_core.measure.times import TimeCurve

CALIBRATION = Calibration(
    target=TimeCurve((1, 8, 64), (20.0, 24.0, 50.0)),
    draft=TimeCurve((1, 16), (1.0, 1.6)),
    overhead_ms=0.7,
    context=256,
    greedy=(0.6, 0.15, 0.05),
    stochastic=(0.5, 0.2, 0.1),
    greedy_positions=700,
    stochastic_positions=650,
)
RATE = st.floats(0, 1)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@given(
    rates=st.lists(RATE, min_size=1, max_size=8),
    overhead=st.floats(0, 1e3),
    points=st.dictionaries(st.integers(1, 99), st.floats(1e-3, 1e4), min_size=2, max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_what_was_saved_is_loaded(
    rates: list[float], overhead: float, points: dict[int, float]
) -> None:
    curve = TimeCurve(tuple(sorted(points)), tuple(points[rows] for rows in sorted(points)))
    saved = replace(
        CALIBRATION, target=curve, draft=curve, overhead_ms=overhead, greedy=tuple(rates)
    )
    save_calibration("round-trip", saved)
    assert load_calibration("round-trip") == saved


def test_nothing_saved_is_nothing_loaded() -> None:
    assert load_calibration("never") is None


def changed(**changes: Any) -> str:
    save_calibration("whole", CALIBRATION)
    data = json.loads(calibration_path("whole").read_bytes())
    return json.dumps(data | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 0},
        {"greedy": [0.5, 1.5]},
        {"greedy": []},
        {"stochastic": [-0.1]},
        {"stochastic": "many"},
        {"overhead_ms": -1.0},
        {"overhead_ms": None},
        {"target": {"rows": [1], "milliseconds": [2.0]}},
        {"target": {"rows": [1, 2], "milliseconds": [2.0]}},
        {"target": {"rows": [2, 1], "milliseconds": [2.0, 3.0]}},
        {"draft": {"rows": [1, 2], "milliseconds": [0.0, 0.0]}},
    ],
)
def test_figures_that_are_none_are_measured_again(changes: dict[str, Any]) -> None:
    text = changed(**changes)
    calibration_path("damaged").write_text(text, encoding="utf-8")
    assert load_calibration("damaged") is None


@given(at=st.integers(0, 600), junk=st.binary(max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_damage_is_survived(at: int, junk: bytes) -> None:
    save_calibration("cut", CALIBRATION)
    path = calibration_path("cut")
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + junk + raw[at + len(junk) :])
    loaded = load_calibration("cut")
    if loaded is not None:  # a digit was exchanged for another, say
        assert loaded.advise(True, False).reason
    path.write_bytes(raw[:at])
    assert load_calibration("cut") == (CALIBRATION if at >= len(raw) else None)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "sequoia").write_text("in the way")
    save_calibration("unwritten", CALIBRATION)
    assert load_calibration("unwritten") is None


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
def test_a_tree_that_pays_is_advised_with_its_reason(greedy: bool, chain: bool) -> None:
    advice = CALIBRATION.advise(greedy, chain)
    assert advice.growmap is not None
    assert advice.rates == (CALIBRATION.greedy if greedy else CALIBRATION.stochastic)
    assert advice.predicted_speedup is not None
    assert advice.predicted_speedup > 1
    assert "256 tokens" in advice.reason
    assert f"{700 if greedy else 650} positions" in advice.reason
    if chain:
        assert advice.growmap.branching == 1
    tree = advice.growmap
    step_ms = CALIBRATION.target(tree.size) + CALIBRATION.overhead_ms
    for level in tree.levels[:-1]:
        step_ms += CALIBRATION.draft(sum(1 for node in level if tree.children[node]))
    expected = tree.expected_tokens(advice.rates) * CALIBRATION.target(1) / step_ms
    assert advice.predicted_speedup == pytest.approx(expected)


@pytest.mark.parametrize(
    "useless",
    [
        replace(CALIBRATION, greedy=(0.0, 0.0), stochastic=(0.0,)),
        replace(CALIBRATION, draft=TimeCurve((1, 16), (40.0, 50.0))),
        replace(CALIBRATION, overhead_ms=500.0),
        replace(CALIBRATION, target=TimeCurve((1, 2), (20.0, 90.0))),
    ],
    ids=["never accepted", "draft too dear", "bookkeeping too dear", "rows too dear"],
)
@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("greedy", [False, True])
def test_where_nothing_pays_plain_decoding_is_advised(
    useless: Calibration, greedy: bool, chain: bool
) -> None:
    advice = useless.advise(greedy, chain)
    assert advice.growmap is None
    assert "no tree is predicted to pay" in advice.reason
    assert advice.predicted_speedup is not None
    assert advice.predicted_speedup <= 1


def test_rates_must_be_probabilities() -> None:
    with pytest.raises(ParameterError, match="probability"):
        replace(CALIBRATION, greedy=(1.2,))
