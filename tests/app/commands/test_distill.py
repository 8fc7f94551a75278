"""`sequoia distill`: what it passes on, what it shows, and how it ends."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.commands import distill as command
from app.commands.distill import describe
from sequoia_core.distill import pipeline
from sequoia_core.distill.options import DistillStatus, Options, remember
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.catalogue import catalogue
from tests.core.distill.runs import tiny_target


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, ["distill", *words])


class Fake:
    """Remembers what it was asked for and reports what it was told to."""

    asked: tuple[Options, Path]
    reports: tuple[DistillStatus | BaseException, ...] = ()

    def __init__(self, options: Options, out: Path) -> None:
        Fake.asked = (options, out)

    def run(self) -> Iterator[DistillStatus]:
        for report in Fake.reports:
            if isinstance(report, BaseException):
                raise report
            yield report


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(pipeline, "Distillation", Fake)
    monkeypatch.setattr(Fake, "reports", ())
    return Fake


def test_options_are_passed_on_and_the_others_left_to_their_defaults(
    fake: type[Fake], tmp_path: Path
) -> None:
    out, text = tmp_path / "draft", tmp_path / "text.npz"
    text.write_bytes(b"")
    words = ["--target", "a/b", "--layers", "0,1", "--head-vocab", "4096", "--tokens", "9000"]
    words += ["--steps", "7", "--minutes", "2.5", "--seed", "3", "--kind", "independent"]
    words += ["--loss", "tv", "--bits", "8", "--device", "cpu"]
    words += ["--data", str(text), "--text", str(text)]
    result = invoke("--out", str(out), *words)
    assert result.exit_code == 0, result.output
    expected = Options(
        "a/b",
        "0,1",
        4096,
        9000,
        7,
        2.5,
        3,
        str(text),
        str(text),
        None,
        "independent",
        "tv",
        8,
        "cpu",
    )
    assert fake.asked == (expected, out)
    assert f"--draft {out}" in result.stdout
    assert invoke("--out", str(out)).exit_code == 0
    assert fake.asked == (Options(), out)


def test_the_plans_options_and_the_commands_are_the_same() -> None:
    shared = {"target", "device"}
    assert set(command.OPTIONS) | shared == set(Options.__dataclass_fields__)
    assert not set(command.OPTIONS) & shared


def test_target_and_device_are_those_of_the_settings(
    fake: type[Fake], config_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def planned(*words: str) -> tuple[str | None, str]:
        result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "draft")])
        assert result.exit_code == 0, result.output
        return Fake.asked[0].target, Fake.asked[0].device

    (config_home / "config.toml").write_text('target = "in/file"\ndevice = "cuda:1"\n')
    assert planned("distill") == ("in/file", "cuda:1")
    monkeypatch.setenv("SEQUOIA_TARGET", "in/environment")
    assert planned("distill") == ("in/environment", "cuda:1")
    before = ("--target", "before/command", "--device", "cpu")
    assert planned(*before, "distill") == ("before/command", "cpu")
    assert planned(*before, "distill", "--target", "own/option") == ("own/option", "cpu")
    pair = next(entry for entry in catalogue() if not entry.embedded)
    assert planned("--pair", pair.name, "distill") == (pair.target.name, "cuda:1")


def test_a_run_gone_on_with_keeps_its_target_unless_another_is_named(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "draft"
    begun = Options(target="a/b", device="cpu")
    remember(out / pipeline.WORK, begun)
    monkeypatch.setenv("SEQUOIA_TARGET", "since/then")
    assert invoke("--out", str(out), "--resume").exit_code == 0
    assert fake.asked == (begun, out)
    refused = CliRunner().invoke(app, ["--target", "c/d", "distill", "--out", str(out), "--resume"])
    assert refused.exit_code == 2
    assert "begun with --target a/b, not c/d" in refused.stderr


def test_a_command_line_on_the_card_does_the_same_again(fake: type[Fake], tmp_path: Path) -> None:
    options = Options(target="a b", steps=7, minutes=1.5, kind="conditioned")
    words = options.command_line(tmp_path / "x")
    assert CliRunner().invoke(app, shlex.split(words)[1:]).exit_code == 0
    assert fake.asked == (options, tmp_path / "x")


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = [DistillStatus("training", at / 100, 50.0, 2.5, 1.75) for at in range(101)]
    monkeypatch.setattr(Fake, "reports", (DistillStatus("writing text", 0.0, 0.0), *steps))
    lines = invoke("--out", str(tmp_path / "draft")).stderr.splitlines()
    assert lines[0] == "writing text 0%"
    assert lines[1] == "training 0%  50 tokens/s  loss 2.500  1.75 tokens per pass predicted"
    assert len(lines) == 1 + 11


def test_progress_is_a_bar_on_a_terminal(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    monkeypatch.setattr(Fake, "reports", (DistillStatus("training", 0.5, 50.0, 2.5),) * 2)
    shown = invoke("--out", str(tmp_path / "draft")).stderr
    assert "training" in shown
    assert "50%" in shown
    assert "loss 2.500" in shown


def test_figures_that_are_not_there_are_not_shown() -> None:
    assert describe(DistillStatus("measuring", 0.0, 0.0)) == ""
    assert describe(DistillStatus("training", 0.0, 0.0, 1.0)) == "loss 1.000"


def test_an_interrupted_run_says_how_to_go_on(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Fake, "reports", (KeyboardInterrupt(),))
    out = tmp_path / "my draft"
    result = invoke("--out", str(out))
    assert result.exit_code == 130
    assert result.stderr.strip().endswith(f"sequoia distill --out '{out}' --resume")


def test_a_bad_target_is_a_failure_of_one_line(
    fake: type[Fake], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Fake, "reports", (ModelLoadError("no chat\ntemplate"),))
    result = invoke("--out", str(tmp_path / "draft"))
    assert (result.exit_code, result.stderr) == (1, "sequoia: no chat template\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tokens", "3"), "--tokens is 3"),
        (("--resume",), "nothing to resume"),
        (("--data", "/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_wrong_use_ends_with_exit_code_2_and_writes_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    result = invoke("--out", str(tmp_path / "draft"), *words)
    assert result.exit_code == 2
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "draft").exists()


def test_a_tiny_run_from_the_command_to_a_draft(tmp_path: Path) -> None:
    target, out = tiny_target(tmp_path / "target"), tmp_path / "draft"
    words: list[Any] = ["--target", target, "--tokens", "600", "--steps", "2", "--head-vocab", "20"]
    result = invoke("--out", str(out), *words, "--device", "cpu", "--layers", "1")
    assert result.exit_code == 0, result.output
    assert {"README.md", "config.json", "model.safetensors"} < {f.name for f in out.iterdir()}
    again = invoke("--out", str(out), "--resume")
    assert again.exit_code == 0
    assert again.stderr == ""
    assert "holds a finished draft" in invoke("--out", str(out), *words).stderr
