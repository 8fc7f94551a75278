"""`--offload` reaches the models from every command that loads some, and doctor tells of it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sequoia_core
from app.cli import app
from app.commands import doctor
from app.commands.doctor import BROKEN, Finding
from sequoia_core.bench import BenchPlan
from sequoia_core.bench.systems import ModelFactory, Sources
from sequoia_core.config import Offload
from sequoia_core.errors import SequoiaError
from sequoia_core.model.loading import loader, pair
from tests.core.checkpoints import save_model, tiny_tokenizer


class LoadedError(SequoiaError):
    """Nothing more is needed of a command once it loads."""


@pytest.mark.parametrize(
    "command",
    [["ask", "hello"], ["calibrate"], ["bench"], ["accept"], ["reproduce", "testbed"]],
    ids=" ".join,
)
def test_it_reaches_the_models(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[dict[str, Any]] = []

    def load_pair(*_models: str | None, **options: object) -> None:
        loaded.append(options)
        raise LoadedError("loaded")

    monkeypatch.setitem(vars(sequoia_core), "load_pair", load_pair)
    result = CliRunner().invoke(app, [*command, "--offload", "disk"])
    assert [options["offload"] for options in loaded] == [Offload.DISK], result.output


def test_a_system_that_is_weighed_in_a_process_of_its_own_is_offloaded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[object] = []

    def load_pair(*_models: str | None, **options: object) -> None:
        given.append(options["offload"])

    monkeypatch.setattr(pair, "load_pair", load_pair)
    sources = Sources(BenchPlan("target", offload=Offload.DISK), "cpu", "float32", threads=1)
    assert ModelFactory(sources).pair is None
    assert given == [Offload.DISK]


def test_an_answer_is_decoded_from_disk(tmp_path: Path) -> None:
    save_model(tmp_path, tiny_tokenizer(), num_hidden_layers=5)
    asked = ["ask", "--target", str(tmp_path), "--dtype", "float32", "--temperature", "0"]
    asked += ["--device", "cpu", "--max-new-tokens", "8", "--system", "", "hi"]
    resident, streamed = (
        CliRunner().invoke(app, [*asked, "--offload", place]) for place in ("none", "disk")
    )
    assert resident.exit_code == streamed.exit_code == 0, streamed.output
    assert streamed.stdout == resident.stdout != ""


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--offload", "cpu", "--device", "cpu"], 2, "give --offload disk"),
        (["--offload", "disk", "--weights", "int8"], 2, "int8"),
        (["--offload", "tape"], 2, "tape"),
    ],
)
def test_what_cannot_be_is_one_line(options: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(app, ["ask", *options, "hi"])
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output


def findings(monkeypatch: pytest.MonkeyPatch, **flags: str) -> list[Finding]:
    monkeypatch.setattr(loader, "EMBEDDED_DISTRIBUTION", "no_such_distribution")
    return list(doctor.examine({"device": "cpu", **flags}))


def test_doctor_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(finding.subject != "offload" for finding in findings(monkeypatch))
    (told,) = (each for each in findings(monkeypatch, offload="disk") if each.subject == "offload")
    assert told.detail == "disk: layers come two at a time, but those that fit on a GPU"


def test_doctor_finds_one_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    (broken,) = (each for each in findings(monkeypatch, offload="cpu") if "offload" in each.detail)
    assert broken.mark == BROKEN
    assert "give --offload disk" in broken.detail
