"""What the report makes of runs: medians, ratios prompt by prompt, pictures, documents."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.bench import names
from sequoia_core.bench.findings import BenchFindings, best_tree, ratio, summarize
from sequoia_core.bench.report import (
    BAR_WIDTH,
    BenchSetting,
    as_values,
    bars,
    document,
    for_terminal,
    write_document,
)
from sequoia_core.bench.runs import SpeedComparison
from sequoia_core.bench.systems import AVX2, BASELINES, OWN, PEERS
from sequoia_core.config import SamplingParams
from sequoia_core.events import PairDescription, StepTimings
from sequoia_core.figures import charts
from sequoia_core.measure.spread import Spread
from tests.core.bench_runs import FixedSystem, compared, run_at


def named(temperature: float, speeds: dict[str, list[float]]) -> SpeedComparison:
    """Runs at these speeds by system."""
    runs = {name: [run_at(speed) for speed in each] for name, each in speeds.items()}
    return SpeedComparison(SamplingParams(temperature, max_new_tokens=8), runs)


SPEEDS = st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9)
SETTING = BenchSetting("a machine", "sequoia bench", "the first 2 prompts")


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
    outcome = compared(FixedSystem("a", 10, log), FixedSystem("b", 20, log, steps=1))
    first, second = summarize(outcome.comparisons[0])
    assert first.ratio == Spread(1.0, 1.0, 1.0)
    assert second.ratio.middle == pytest.approx(2.0)
    assert second.tokens_per_second.middle == pytest.approx(20.0)
    assert second.tokens_per_step == 7
    assert second.first_ms == pytest.approx(50.0)
    assert second.parts == StepTimings(1.0, 2.0, 1.0)
    assert second.same_text == 2


@given(SPEEDS)
def test_bars_are_in_the_order_of_speeds_and_the_fastest_fills_the_width(
    speeds: list[float],
) -> None:
    drawn = bars({f"s{at}": Spread.of([speed]) for at, speed in enumerate(speeds)})
    lengths = [line.split("  ")[1].count("█") for line in drawn.splitlines()]
    ranked = [length for _, length in sorted(zip(speeds, lengths, strict=True))]
    assert ranked == sorted(ranked)
    assert max(lengths) == BAR_WIDTH


def findings_of(**changes: object) -> BenchFindings:
    values: dict[str, object] = {
        "pair": PairDescription("target", "draft", "cpu", "native", 2048),
        "threads": 2,
    }
    return BenchFindings(**(values | changes))  # type: ignore[arg-type]


def test_the_best_tree_is_so_over_all_temperatures() -> None:
    greedy = named(0.0, {names.PLAIN: [1.0], names.TREE: [4.0], names.ADAPTIVE: [3.0]})
    sampled = named(0.6, {names.PLAIN: [1.0], names.TREE: [1.0], names.ADAPTIVE: [2.0]})
    assert best_tree([greedy, sampled]) == names.ADAPTIVE
    assert best_tree([greedy]) == names.TREE
    assert best_tree([named(0.0, {names.PLAIN: [1.0]})]) is None


def test_texts_that_equal_the_first_systems_are_counted() -> None:
    texts = {names.PLAIN: (1, 1), names.TREE: (1, 2)}
    runs = {name: [run_at(1.0, token_ids=(at,)) for at in ids] for name, ids in texts.items()}
    assert [each.same_text for each in summarize(SpeedComparison(SamplingParams(), runs))] == [2, 1]


def test_conditions_and_memory_have_tables_of_their_own() -> None:
    quick, slow = run_at(1.0, first_seconds=1.0), run_at(1.0, first_seconds=2.0)
    reading = SpeedComparison(SamplingParams(0.0), {names.PLAIN: [quick], names.PYTORCH: [slow]})
    findings = findings_of(
        comparisons=(named(0.0, {names.PLAIN: [1.0], names.TREE: [2.0]}),),
        prefill=reading,
        busy=named(0.0, {names.PLAIN: [8.0], names.busy(names.PLAIN): [4.0]}),
        avx2=named(0.0, {names.AVX2: [40.0], names.FLOAT32_AVX2: [10.0]}),
        memory={names.TREE: 420_000_001},
        chat_memory=499_000_000,
    )
    reported = for_terminal(findings).splitlines()
    for line in (
        "Reading a prompt of 1,400 tokens:",
        "| sequoia plain, PyTorch | 700.0 (700.0 to 700.0) | 0.50x (0.50 to 0.50) |",
        "| sequoia plain, with a busy process | 4.0 (4.0 to 4.0) | 0.50x (0.50 to 0.50) |",
        "| sequoia plain, PyTorch float32, AVX2 | 10.0 (10.0 to 10.0) | 0.25x (0.25 to 0.25) |",
        "| sequoia tree | 420 MB |",
        "| the chat with its screen, after an answer | 499 MB |",
    ):
        assert line in reported


def test_every_tree_that_is_ranked_exists() -> None:
    known = {each.name for each in (*OWN, *BASELINES, *AVX2, *PEERS)}
    assert known == {value for value in vars(names).values() if isinstance(value, str)} & known
    assert set(names.TREES) <= known


@pytest.fixture
def findings() -> BenchFindings:
    log: list[str] = []
    outcome = compared(FixedSystem(names.PLAIN, 10, log), FixedSystem(names.TREE, 25, log, steps=3))
    plain = Spread(9, 10, 11)
    greedy = replace(outcome.comparisons[0], sizes={1: plain, 8: Spread(19, 20, 21)})
    sampled = replace(outcome.comparisons[1], sizes={1: plain})
    return BenchFindings(
        pair=PairDescription("target", "draft", "cpu", "bfloat16", 2048),
        tuned="measured",
        threads=2,
        comparisons=(greedy, sampled),
        divergences=("one differs",),
        absent={names.LLAMA_CPP: "llama_cpp is not installed; install it with: pip"},
        memory={names.TREE: 600_000_000},
        weights=300_000_000,
    )


def test_the_terminal_shows_all_findings(findings: BenchFindings) -> None:
    reported = for_terminal(findings)
    for line in (
        "target <- draft, cpu bfloat16, 2 threads",
        "Temperature 0:",
        "Temperature 0.6:",
        "| sequoia tree | 2.50x (2.50 to 2.50) | 2.33 | 2.50x (2.50 to 2.50) | 2.33 | 2.50x |",
        "| sequoia tree | 25.0 (25.0 to 25.0) | 2.50x (2.50 to 2.50) | 2.33 | 50 | 4x2 "
        "| 1.00 | 2.00 | 1.00 | 25.0% | 2 of 2 |",
        "| sequoia tree | 600 MB |",
        "Peak memory of a process of its own, interpreter and libraries included. "
        "Both models' weights in bfloat16 are 300 MB.",
        "- one differs",
        "- llama.cpp: llama_cpp is not installed; install it with: pip",
    ):
        assert line in reported.splitlines()
    assert "8 nodes" in reported


def test_parts_that_are_not_known_are_left_empty() -> None:
    greedy = named(0.0, {names.PLAIN: [10.0]})
    assert greedy.runs[names.PLAIN][0].parts is None
    shown = for_terminal(findings_of(comparisons=(greedy,)))
    assert "|  |  |  |  |  | 1 of 1 |" in shown


def test_the_values_for_machines_are_json_and_hold_every_run(findings: BenchFindings) -> None:
    read = json.loads(json.dumps(as_values(findings, SETTING)))
    assert [each["params"]["temperature"] for each in read["comparisons"]] == [0.0, 0.6]
    assert len(read["comparisons"][0]["runs"][names.TREE]) == 2
    assert read["comparisons"][0]["tree_sizes"]["8"]["middle"] == 20
    assert read["absent"] == dict(findings.absent)
    assert read["versions"]["torch"]


def test_the_document_and_its_pictures(findings: BenchFindings, tmp_path: Path) -> None:
    file = tmp_path / "docs" / "benchmarks.md"
    write_document(findings, SETTING, file)
    text = file.read_text()
    assert "```\nsequoia bench\n```" in text
    assert "2 threads for every system" in text
    assert "| 8 | 20.0 (19.0 to 21.0) |  |" in text
    for line in for_terminal(findings).splitlines():
        if line.startswith("| "):
            assert line in text
    for name in ("benchmarks-systems.svg", "benchmarks-tree-sizes.svg"):
        assert f"(img/{name})" in text
        drawn = (tmp_path / "docs" / "img" / name).read_text()
        labels = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
        assert "T = 0.6" in "".join(labels)
    assert "sequoia tree" in (tmp_path / "docs/img/benchmarks-systems.svg").read_text()


def test_what_was_not_run_is_neither_drawn_nor_explained(
    findings: BenchFindings, tmp_path: Path
) -> None:
    runs = {name: findings.comparisons[0].runs[name] for name in (names.PLAIN, names.TREE)}
    bare = replace(findings.comparisons[0], runs=runs, sizes={})
    write_document(replace(findings, comparisons=(bare,)), SETTING, tmp_path / "trees.md")
    text = (tmp_path / "trees.md").read_text()
    assert [each.name for each in (tmp_path / "img").iterdir()] == ["trees-systems.svg"]
    assert "sequoia tree" in text
    for absent in ("tree-sizes", "llama.cpp", "EAGLE", "PyTorch:"):
        assert absent not in text.partition("## ")[0]


def test_the_same_figures_give_the_same_picture(findings: BenchFindings, tmp_path: Path) -> None:
    drawn = []
    for name in ("one.svg", "two.svg"):
        charts.draw_sizes(tmp_path / name, {"T = 0": findings.comparisons[0].sizes})
        drawn.append((tmp_path / name).read_bytes())
    assert drawn[0] == drawn[1]


def written(findings: BenchFindings) -> str:
    return document(findings, SETTING, "benchmarks")


@pytest.mark.parametrize("say", [for_terminal, written])
def test_without_matplotlib_it_says_how_to_get_pictures(
    say: Callable[[BenchFindings], str], findings: BenchFindings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "can_draw", lambda: False)
    monkeypatch.setattr(charts, "draw_bars", None)
    reported = say(replace(findings, absent={}))
    assert "matplotlib is not installed; install it with: pip install -e '.[peers]'" in reported
    assert "](img/" not in reported
