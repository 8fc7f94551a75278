"""`sequoia reproduce predict-offload`: predicted times are printed as such."""

import json
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from sequoia_core.reproduce import offload_prediction
from sequoia_core.reproduce.paper_facts import Hardware, PaperPair
from sequoia_core.tree.growmap import GrowMap


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["reproduce", "predict-offload", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Hardware]:
    """The machines that were predicted for, with models of two layers: the others take seconds."""
    seen: list[Hardware] = []
    predict = offload_prediction.predict

    def of_two_layers(
        pair: PaperPair, machine: Hardware, growmap: GrowMap, *others: Any
    ) -> offload_prediction.Prediction:
        seen.append(machine)
        models: dict[str, Any] = {
            name: replace(model, config=replace(model.config, num_layers=2))
            for name, model in (("target", pair.target), ("draft", pair.draft))
        }
        return predict(replace(pair, **models), machine, growmap, *others)

    monkeypatch.setattr(offload_prediction, "predict", of_two_layers)
    return seen


def test_both_gpus_are_predicted_and_labelled_so(asked: list[Hardware]) -> None:
    shown = run()
    assert [machine.title for machine in asked] == ["NVIDIA L40", "NVIDIA A100"]
    assert "predicted ms/token" in shown
    assert "predicted, not measured: no GPU ran" in shown
    assert "link 31.5 GB/s" in shown
    rows = [line.split() for line in shown.splitlines() if "768x18" in line]
    assert [row[-2:] for row in rows] == [["660", "5700"], ["-", "-"]]


def test_measured_bandwidths_take_the_place_of_stated_ones(asked: list[Hardware]) -> None:
    options = ("--link", "24", "--memory", "40", "--bandwidth", "800", "--tflops", "150")
    (found,) = json.loads(run("--hardware", "l40", "--pairs", "8b-70b", "--json", *options))
    (machine,) = asked
    assert machine == Hardware("NVIDIA L40", 40.0, 800.0, 24.0, 150.0)
    assert found["predicted"] is True
    assert found["hardware"]["link_gbs"] == 24.0
    assert (found["pair"], found["nodes"], found["depth"]) == ("8b-70b", 768, 17)
    assert found["published_ms_per_token"] == 600


def test_a_pair_without_offloading_is_one_line() -> None:
    assert "with offloading there are 7b-70b, 8b-70b" in run("--pairs", "68m-7b", code=2)


def test_a_gpu_without_room_is_one_line() -> None:
    assert "needs" in run("--hardware", "l40", "--memory", "8", code=2)
