"""`sequoia bench` passes on what it was told, and the clock around an engine counts steps only."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app import launch, screen_bench
from app.cli import app
from app.screen_bench import TimedEngine, measure_screen
from sequoia_core import bench
from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from tests.fakes import replay


def test_bench_passes_on_its_plan_and_writes_the_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []

    def measure(pair: object, plan: bench.BenchPlan, _progress: object) -> tuple[str, object]:
        asked.append((pair, plan))
        return "the table", {"rows": [1]}

    monkeypatch.setattr(launch, "load_chosen", lambda settings, progress: "the pair")
    monkeypatch.setattr(bench, "measure", measure)
    file = tmp_path / "runs.json"
    arguments = ["bench", "--count", "2", "--tokens", "32", "--temperature", "0"]
    result = CliRunner().invoke(app, [*arguments, "--json-file", str(file)])
    assert result.exit_code == 0, result.output
    assert result.stdout == "the table\n"
    plan = bench.BenchPlan(None, 2, 32, 0.0, hugging_face=True, source=None)
    assert asked == [("the pair", plan)]
    assert json.loads(file.read_text()) == {"rows": [1]}


def test_the_clock_counts_what_came_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(screen_bench, "perf_counter", lambda: float(next(ticks)))
    engine = TimedEngine(replay())
    events = list(engine.reply("Why?", SamplingParams(), lambda: False))
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) > 2
    assert engine.tokens == sum(len(step.token_ids) for step in steps[1:])
    assert engine.seconds == len(steps) - 1
    assert list(engine.tune(lambda: False)) == []


def test_runs_alternate_and_the_ratio_is_taken_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def run(kind: str, _prompts: list[str], _flags: object) -> float:
        order.append(kind)
        return 90.0 if kind == "screen" else 100.0

    monkeypatch.setattr(screen_bench, "_run_in_terminal", run)
    report = measure_screen(["a"], {}, 2, lambda _message, _fraction: None)
    assert order == ["screen", "headless", "headless", "screen"]
    assert "ratio 0.90 (0.90 to 0.90)" in report
