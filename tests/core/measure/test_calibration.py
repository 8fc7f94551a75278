"""Figures survive the disk, damage is measured anew, and each temperature has its own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.errors import ParameterError
from sequoia_core.measure.calibration import (
    AcceptanceRecord,
    Band,
    Calibration,
    Tally,
    calibration_path,
)
from sequoia_core.measure.timings import Overhead, TimeCurve, TimeSurface
from tests.core.measuring import calibration_of, record_of

CALIBRATION = calibration_of(((0.6, 0.15, 0.05), (0.5, 0.2)))
HITS = st.lists(st.floats(0, 50), min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@given(
    hits=st.lists(HITS, min_size=1, max_size=4),
    bands=st.sets(st.sampled_from(Band), min_size=1),
    parts=st.tuples(*[st.floats(0, 1e3)] * 4),
    points=st.dictionaries(st.integers(1, 99), st.floats(1e-3, 1e4), min_size=2, max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_what_was_saved_is_loaded(
    hits: list[list[float]],
    bands: set[Band],
    parts: tuple[float, float, float, float],
    points: dict[int, float],
) -> None:
    curve = TimeCurve(tuple(sorted(points)), tuple(points[rows] for rows in sorted(points)))
    surface, rest = TimeSurface((64, 512), (curve, curve)), Overhead(*parts)
    record = AcceptanceRecord(tuple(Tally(tuple(h), tuple(x + 60 for x in h)) for h in hits), 7)
    times = replace(CALIBRATION.times, target=surface, draft=surface, greedy=rest, sampled=rest)
    saved = Calibration(times, dict.fromkeys(bands, record))
    saved.save("round-trip")
    assert Calibration.load("round-trip") == saved


def test_a_file_from_before_a_field_was_added_opens() -> None:
    data = json.loads(changed())
    del data["drafts"]
    for record in data["records"].values():
        del record["drift"], record["variance"]
    calibration_path("older").write_text(json.dumps(data), encoding="utf-8")
    assert Calibration.load("older") == CALIBRATION


def test_nothing_saved_is_nothing_loaded() -> None:
    assert Calibration.load("never") is None


def changed(**changes: Any) -> str:
    CALIBRATION.save("whole")
    data = json.loads(calibration_path("whole").read_bytes())
    return json.dumps(data | changes)


def curves(rows: list[int], milliseconds: list[float]) -> dict[str, Any]:
    curve = {"rows": rows, "milliseconds": milliseconds}
    return {"contexts": [64], "curves": [curve]}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": CALIBRATION.version - 1},
        {"version": CALIBRATION.version + 1},
        {"records": {}},
        {"records": {"tepid": {"depths": [{"hits": [1.0], "trials": [2.0]}], "steps": 1}}},
        {"records": {"0": {"depths": [], "steps": 1}}},
        {"records": {"0": {"depths": [{"hits": [3.0], "trials": [2.0]}], "steps": 1}}},
        {"records": {"0": {"depths": [{"hits": [1.0], "trials": []}], "steps": 1}}},
        {"records": "many"},
        {"times": None},
        {"times": {"target": curves([1], [2.0])}},
    ],
)
def test_figures_that_are_none_are_measured_again(changes: dict[str, Any]) -> None:
    text = changed(**changes)
    calibration_path("damaged").write_text(text, encoding="utf-8")
    assert Calibration.load("damaged") is None


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("target", curves([1], [2.0])),
        ("target", curves([1, 2], [2.0])),
        ("target", curves([2, 1], [2.0, 3.0])),
        ("draft", curves([1, 2], [0.0, 0.0])),
        ("draft", {"contexts": [], "curves": []}),
        ("greedy", {"base_ms": -1.0, "level_ms": 0.0, "node_ms": 0.0, "plain_ms": 0.0}),
        ("sampled", {"base_ms": None, "level_ms": 0.0, "node_ms": 0.0, "plain_ms": 0.0}),
    ],
)
def test_times_that_are_none_are_measured_again(part: str, value: dict[str, Any]) -> None:
    data = json.loads(changed())
    data["times"][part] = value
    calibration_path("damaged").write_text(json.dumps(data), encoding="utf-8")
    assert Calibration.load("damaged") is None


@given(at=st.integers(0, 900), junk=st.binary(max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_damage_is_survived(at: int, junk: bytes) -> None:
    CALIBRATION.save("cut")
    path = calibration_path("cut")
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + junk + raw[at + len(junk) :])
    loaded = Calibration.load("cut")
    if loaded is not None:  # a digit was exchanged for another, say
        assert loaded.record(0.0).rates
    path.write_bytes(raw[:at])
    assert Calibration.load("cut") == (CALIBRATION if at >= len(raw) else None)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "sequoia").write_text("in the way")
    CALIBRATION.save("unwritten")
    assert Calibration.load("unwritten") is None


@given(temperature=st.floats(0, 2, exclude_min=True))
def test_bands_follow_each_other(temperature: float) -> None:
    order = list(Band)
    assert Band.of(0.0) is Band.GREEDY
    assert order.index(Band.of(temperature)) >= 1
    assert order.index(Band.of(temperature)) <= order.index(Band.of(temperature * 1.5))
    assert [Band.of(t) for t in (0.4, 0.41, 0.8, 0.81)] == [
        Band.COOL, Band.WARM, Band.WARM, Band.HOT,
    ]  # fmt: skip


def test_a_temperature_that_was_not_measured_borrows_from_its_neighbour() -> None:
    cold, warm = record_of(((0.8,),)), record_of(((0.3,),))
    calibration = replace(CALIBRATION, records={Band.GREEDY: cold, Band.WARM: warm})
    assert calibration.record(0.0) is cold
    assert calibration.record(0.6) is warm
    assert calibration.record(1.2).rates == pytest.approx(warm.rates)
    assert calibration.record(1.2).steps == 0
    own = record_of(((0.1,),))
    assert calibration.with_record(1.2, own).record(1.2) is own
    assert calibration.with_record(1.2, own).record(0.6) is warm


def test_a_calibration_without_rates_is_none() -> None:
    with pytest.raises(ParameterError, match="acceptance rates"):
        replace(CALIBRATION, records={})
