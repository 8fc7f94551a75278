"""What the report makes of runs: medians, ratios prompt by prompt, goals, pictures, documents."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.bench import document, names, plot
from sequoia_core.bench.document import Setting, as_values, for_terminal, write_document
from sequoia_core.bench.goals import GOALS, Goal, memory_lines, scores
from sequoia_core.bench.report import BAR_WIDTH, Spread, bars, ratio, rows, table
from sequoia_core.bench.session import Findings
from sequoia_core.protocols import PairDescription
from tests.core.bench_runs import FixedSystem, comparison_of, outcome_of, run_at

SPEEDS = st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9)
SETTING = Setting("a machine", "sequoia bench", "the first 2 prompts")


@given(SPEEDS)
def test_a_spread_holds_every_figure_and_its_middle(values: list[float]) -> None:
    spread = Spread.of(values)
    assert spread.low <= spread.middle <= spread.high
    assert spread.low in values
    assert spread.high in values
    assert sum(value <= spread.middle for value in values) * 2 >= len(values)
    assert sum(value >= spread.middle for value in values) * 2 >= len(values)


@given(SPEEDS, st.floats(0.5, 4.0))
def test_a_system_faster_by_a_factor_on_every_prompt_is_faster_by_it(
    speeds: list[float], factor: float
) -> None:
    slow = [run_at(speed) for speed in speeds]
    fast = [run_at(speed * factor) for speed in speeds]
    found, inverse = ratio(fast, slow), ratio(slow, fast)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)
    assert inverse.high == pytest.approx(1 / found.low)
    assert ratio(slow, slow) == Spread(1.0, 1.0, 1.0)


def test_ratios_are_taken_prompt_by_prompt_not_of_medians() -> None:
    fast = [run_at(speed) for speed in (10.0, 40.0, 30.0)]
    slow = [run_at(speed) for speed in (10.0, 10.0, 30.0)]
    assert ratio(fast, slow).middle == pytest.approx(1.0)  # of medians it would be 3


def test_the_report_compares_with_the_first_system() -> None:
    log: list[str] = []
    outcome = outcome_of(FixedSystem("a", 10, log), FixedSystem("b", 20, log, steps=1))
    first, second = rows(outcome.comparisons[0])
    assert first.ratio == Spread(1.0, 1.0, 1.0)
    assert second.ratio.middle == pytest.approx(2.0)
    assert second.tokens_per_second.middle == pytest.approx(20.0)
    assert second.tokens_per_step == 7
    assert second.first_ms == pytest.approx(50.0)
    assert second.parts is not None
    assert second.parts.bookkeeping_share == 0.25
    assert second.same_text == 2
    assert "| b | 20.0 (20.0 to 20.0) | 2.00x (2.00 to 2.00) | 7.00 | 50 | 4x2 |" in table(
        [first, second], 2
    )


def test_what_a_system_does_not_tell_is_left_empty() -> None:
    (row,) = rows(comparison_of(0.0, a=[10.0]))
    assert row.parts is None
    assert "|  |  |  |  |  | 1 of 1 |" in table([row], 1)


@given(SPEEDS)
def test_bars_are_in_the_order_of_speeds_and_the_fastest_fills_the_width(
    speeds: list[float],
) -> None:
    drawn = bars([(f"s{at}", Spread.of([speed])) for at, speed in enumerate(speeds)])
    lengths = [line.split("  ")[1].count("█") for line in drawn.splitlines()]
    ranked = [length for _, length in sorted(zip(speeds, lengths, strict=True))]
    assert ranked == sorted(ranked)
    assert max(lengths) == BAR_WIDTH


@pytest.mark.parametrize(("speed", "reached"), [(19.9, False), (20.0, True), (30.0, True)])
def test_a_goal_is_reached_from_its_ratio_on(speed: float, reached: bool) -> None:
    comparison = comparison_of(0.0, a=[10.0, 10.0], b=[speed, speed])
    (score,) = scores(comparison, [Goal("b", "a", 2.0)])
    assert score.reached is reached
    assert score.text().endswith(": reached" if reached else ": not reached")


def test_goals_are_held_against_their_own_temperature_and_absence_is_told() -> None:
    comparison = comparison_of(0.6, a=[10.0])
    goals = [Goal("b", "a", 2.0), Goal("a", "a", 1.0, 0.0), Goal("a", "a", 1.0, 0.6)]
    absent, own = scores(comparison, goals)
    assert absent.measured is None
    assert not absent.reached
    assert absent.text() == "b / a: not measured; wanted 2x"
    assert own.reached


def test_every_goal_is_about_systems_that_exist() -> None:
    known = {value for name, value in vars(names).items() if name.isupper()}
    assert {name for goal in GOALS for name in (goal.faster, goal.slower)} <= known


@pytest.mark.parametrize(("peak", "verdict"), [(2400, "reached"), (2500, "not reached")])
def test_memory_is_held_against_the_weights(peak: int, verdict: str) -> None:
    lines = list(memory_lines({names.TREE: peak * 10**6}, 10**9))
    assert f"| {names.TREE} | {peak} MB | {peak / 1000:.2f}x |" in lines
    assert lines[-1].endswith(f"wanted under 2.5x: {verdict}")


@pytest.fixture
def findings() -> Findings:
    log: list[str] = []
    outcome = outcome_of(
        FixedSystem(names.PLAIN, 10, log), FixedSystem(names.TREE, 25, log, steps=3)
    )
    return Findings(
        pair=PairDescription("target", "draft", "cpu", "bfloat16", 2048),
        tuned="measured",
        threads=2,
        comparisons=outcome.comparisons,
        sweeps=({1: Spread(9, 10, 11), 8: Spread(19, 20, 21)}, {1: Spread(9, 10, 11)}),
        partings=("one parts",),
        absent={names.LLAMA_CPP: "llama_cpp is not installed; install it with: pip"},
        memory={names.TREE: 600_000_000},
        weights=300_000_000,
    )


def test_the_terminal_tells_all_that_was_found(findings: Findings) -> None:
    told = for_terminal(findings)
    for line in (
        "target <- draft, cpu bfloat16, 2 threads",
        "Temperature 0:",
        "Temperature 0.6:",
        "sequoia tree / sequoia plain: 2.50x (2.50 to 2.50); wanted 2x: reached",
        "sequoia tree / llama.cpp: not measured; wanted 1.5x",
        "sequoia tree: 2.00x; wanted under 2.5x: reached",
        "- one parts",
        "- llama.cpp: not measured: llama_cpp is not installed; install it with: pip",
    ):
        assert line in told.splitlines()
    assert "8 nodes" in told


def test_the_values_for_machines_are_json_and_hold_every_run(findings: Findings) -> None:
    read = json.loads(json.dumps(as_values(findings, SETTING)))
    assert [each["params"]["temperature"] for each in read["comparisons"]] == [0.0, 0.6]
    assert len(read["comparisons"][0]["runs"][names.TREE]) == 2
    assert read["comparisons"][0]["tree_sizes"]["8"]["middle"] == 20
    assert read["absent"] == dict(findings.absent)
    assert read["versions"]["torch"]


def test_the_document_and_its_pictures(findings: Findings, tmp_path: Path) -> None:
    file = tmp_path / "docs" / "benchmarks.md"
    write_document(findings, SETTING, file)
    text = file.read_text()
    assert "```\nsequoia bench\n```" in text
    assert "2 threads for every system" in text
    assert "| 8 | 20.0 (19.0 to 21.0) |  |" in text
    for line in for_terminal(findings).splitlines():
        if line.startswith("| sequoia"):
            assert line in text
    for picture in (document.SYSTEMS_PICTURE, document.SIZES_PICTURE):
        assert f"(img/{picture})" in text
        drawn = (tmp_path / "docs" / "img" / picture).read_text()
        labels = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
        assert "T = 0.6" in "".join(labels)
    assert "sequoia tree" in (tmp_path / "docs" / "img" / document.SYSTEMS_PICTURE).read_text()


def test_the_same_figures_give_the_same_picture(findings: Findings, tmp_path: Path) -> None:
    drawn = []
    for name in ("one.svg", "two.svg"):
        plot.draw_sizes(tmp_path / name, {"T = 0": findings.sweeps[0]})
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("say", [for_terminal, lambda findings: _written(findings)])
def test_without_matplotlib_it_says_how_to_get_pictures(
    say: Callable[[Findings], str], findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "can_draw", lambda: False)
    monkeypatch.setattr(plot, "draw_systems", None)
    told = say(replace(findings, absent={}))
    assert "matplotlib is not installed; install it with: pip install -e '.[peers]'" in told
    assert "](img/" not in told


def _written(findings: Findings) -> str:
    return "\n".join(document._document(findings, SETTING))
