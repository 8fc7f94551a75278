"""`sequoia bench` passes on its options, and the clock around an engine counts steps only."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app.cli import app
from app.commands import bench as bench_command
from app.commands import console
from app.commands.terminal import TerminalError
from app.config import model_choice
from sequoia_core import bench
from sequoia_core.bench import report, session
from sequoia_core.config import WeightFormat


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the benchmark was asked to measure; it finds nothing."""
    asked: list[Any] = []

    def measure(pair: object, plan: bench.BenchPlan, _progress: object) -> str:
        asked.append((pair, plan))
        return "findings"

    monkeypatch.setattr(model_choice, "load_chosen", lambda settings, progress: "the pair")
    monkeypatch.setattr(session, "measure", measure)
    monkeypatch.setattr(bench_command, "_measure_chat", lambda *_: None)
    monkeypatch.setattr(report, "for_terminal", lambda findings: f"the {findings}")
    return asked


def test_bench_passes_on_its_plan_and_writes_what_was_found(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values, markdown = tmp_path / "runs.json", tmp_path / "bench.md"
    settings: list[report.BenchSetting] = []

    def as_values(_findings: object, setting: report.BenchSetting) -> dict[str, int]:
        settings.append(setting)
        return {"rows": 1}

    monkeypatch.setattr(report, "as_values", as_values)
    monkeypatch.setattr(
        report, "write_document", lambda found, _, file: file.write_text(f"the {found}")
    )
    arguments = ["bench", "--count", "2", "--tokens", "32", "--temperature", "0.3"]
    arguments += ["--temperature", "0", "--no-peers", "--no-memory", "--tree-sizes", "16, 8,"]
    arguments += ["--peer-draft", "there", "--prompts", "some/where.jsonl"]
    arguments += ["--json-file", str(values), "--markdown", str(markdown)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "the findings\n"
    plan = bench.BenchPlan(
        peer_draft="there", prompts="some/where.jsonl", count=2, tokens=32,
        temperatures=(0.3, 0.0), peers=False, memory=False, tree_sizes=(8, 16),
    )  # fmt: skip
    assert asked == [("the pair", plan)]
    assert json.loads(values.read_text()) == {"rows": 1}
    assert markdown.read_text() == "the findings"
    assert settings[0].prompts == "the first 2 prompts of where.jsonl"
    assert "cores" in settings[0].machine


@pytest.mark.parametrize(
    ("before", "temperatures"), [([], (0.0, 0.6)), (["--temperature", "0.9"], (0.9,))]
)
def test_bench_measures_both_temperatures_unless_one_is_chosen(
    asked: list[Any], before: list[str], temperatures: tuple[float, ...]
) -> None:
    result = CliRunner().invoke(app, [*before, "bench"])
    assert result.exit_code == 0, result.output
    assert asked[0][1] == bench.BenchPlan(temperatures=temperatures)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--tree-sizes", "8,x"],
        ["--tree-sizes", "8,5000"],
        ["--temperature", "-1"],
        ["--growmap", "adaptive"],
        ["--lookup", "on"],
        ["--seed", "3"],
        ["--json-file", "/dev/null/none/runs.json"],
        ["--markdown", "/"],
    ],
)
def test_bench_refuses_what_it_cannot_follow_before_loading(
    asked: list[Any], wrong: list[str]
) -> None:
    result = CliRunner().invoke(app, ["bench", *wrong])
    assert result.exit_code == 2, result.output
    assert not asked
    assert "unexpected" not in result.output


def test_bench_writes_into_folders_that_are_missing_and_into_the_home(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(report, "as_values", lambda _findings, _setting: {"rows": 1})
    result = CliRunner().invoke(app, ["bench", "--json-file", "~/new/runs.json"])
    assert result.exit_code == 0, result.output
    assert asked
    assert json.loads((tmp_path / "new" / "runs.json").read_text()) == {"rows": 1}


def test_a_temperature_before_the_command_is_weaker_and_not_the_chats(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_chat: list[Any] = []

    def measure_chat(_findings: object, _plan: object, flags: object, _progress: object) -> None:
        of_the_chat.append(flags)

    monkeypatch.setattr(bench_command, "_measure_chat", measure_chat)
    arguments = ["--temperature", "0.3", "bench", "--temperature", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert asked[0][1].temperatures == (0.0,)
    assert of_the_chat == [{}]


def test_bench_passes_on_which_forward_was_asked_for(asked: list[Any]) -> None:
    result = CliRunner().invoke(app, ["bench", "--dtype", "float32", "--weights", "torch"])
    assert result.exit_code == 0, result.output
    assert (asked[0][1].dtype, asked[0][1].weights) == ("float32", WeightFormat.TORCH)


def hear(message: str, fraction: float | None) -> None:
    """Progress, of which nothing is shown."""


@dataclass
class Found:
    """What of findings the chat's memory is added to."""

    interrupted: bool = False
    chat_memory: int | None = None
    absent: dict[str, str] = field(default_factory=dict)


def test_the_chats_memory_is_measured_with_the_other_figures_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = {"draft": "none"}
    monkeypatch.setattr(
        bench_command, "measure_chat_memory", lambda given: 7 if given is flags else 0
    )

    def found(findings: Any, **changes: bool) -> Any:
        plan = bench.BenchPlan(**changes)  # type: ignore[arg-type]
        bench_command._measure_chat(findings, plan, flags, hear)
        return findings

    assert found(Found()).chat_memory == 7
    assert found(Found(), memory=False).chat_memory is None
    assert found(Found(interrupted=True)).chat_memory is None


def test_a_chat_that_ends_is_a_line_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_flags: object) -> int:
        raise TerminalError("the chat ended")

    monkeypatch.setattr(bench_command, "measure_chat_memory", fail)
    found: Any = Found(absent={"a": "b"})
    bench_command._measure_chat(found, bench.BenchPlan(), {}, hear)
    assert found.absent == {"a": "b", "the whole chat, memory": "the chat ended"}


def test_an_interrupt_while_the_chats_memory_is_measured_keeps_the_findings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_flags: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_command, "measure_chat_memory", interrupt)
    found: Any = Found(absent={"a": "b"})
    bench_command._measure_chat(found, bench.BenchPlan(), {}, hear)
    assert found == Found(interrupted=True, absent={"a": "b"})


def test_a_request_to_end_is_an_interrupt_while_it_measures() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended, bench_command._interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.exit_code == console.INTERRUPTED
    assert signal.getsignal(signal.SIGTERM) is before
