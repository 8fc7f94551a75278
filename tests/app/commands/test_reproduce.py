"""`sequoia reproduce`: the testbeds and the robustness experiment, from flags to figures."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from app.config import model_choice
from sequoia_core.bench.own_systems import engine_system
from sequoia_core.data.passages import DataSpec, load_prompts
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.loader import embedded_target_path
from sequoia_core.model.loading.pair import Pair
from sequoia_core.reproduce import testbed
from sequoia_core.reproduce.robustness import RULES, RobustnessExperiment
from tests.core.reproducing import load_tiny, save_pair, save_texts

TESTBEDS = {
    "testbed": "sequoia",
    "testbed-greedy": "greedy",
    "test-specinfer": "specinfer",
    "test-greedys": "topk",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair, texts of which a character is a token, and a tree."""
    folder = tmp_path_factory.mktemp("models")
    save_pair(folder)
    save_texts(folder)
    (folder / "tree.json").write_text('{"name": "small", "parents": [-1, 0, 0, 1]}')
    return folder


@pytest.fixture(scope="module")
def tiny(folder: Path) -> Pair:
    return load_tiny(folder)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tiny: Pair) -> list[Any]:
    """Settings that a pair was loaded with; it is always the tiny one."""
    settings: list[Any] = []

    def load(given: Any, progress: object) -> Pair:
        settings.append(given)
        return tiny

    monkeypatch.setattr(model_choice, "load_chosen", load)
    return settings


def run(folder: Path, command: str, *arguments: str) -> Result:
    data = ("--dataset", str(folder / "texts.txt"), "--end", "2", "--tokens", "12")
    tree = ("--growmap", str(folder / "tree.json"))
    return CliRunner().invoke(app, ["reproduce", command, *data, *tree, *arguments])


@pytest.mark.parametrize(("command", "rule"), TESTBEDS.items())
def test_every_testbed_takes_the_releases_line(folder: Path, command: str, rule: str) -> None:
    """The models are really loaded, `--model` as the draft."""
    models = ("--model", str(folder / "draft"), "--target", str(folder / "target"))
    given = ("--T", "0.6", "--P", "1.0", "--start", "0", "--M", "384", "--Mode", "greedy")
    result = run(folder, command, *models, *given, "--dtype", "float32", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["rule"] == rule
    assert told["temperature"] == (0.0 if rule == "greedy" else 0.6)
    assert told["seed"] == 17
    assert told["growmap"] == {"name": "small", "nodes": 4, "depth": 2}
    assert told["prompts"] == told["prompts_asked"] == 2
    assert told["pair"]["draft"] == "draft"
    assert list(told["systems"]) == ["plain", "tree"]
    tree = told["systems"]["tree"]
    assert 1.0 <= tree["tokens_per_step"]["low"] <= tree["tokens_per_step"]["value"] <= 3.0
    for name, system in told["systems"].items():
        assert system["ms_per_token"]["low"] > 0
        assert (system["speedup"] is None) == (name == "plain")
        assert all(len(each["token_ids"]) == 12 for each in told["runs"][name])


def test_the_baseline_runs_alone(folder: Path, loaded: list[Any]) -> None:
    result = run(folder, "testbed", "--Mode", "baseline", "--json")
    told = json.loads(result.stdout)
    assert list(told["systems"]) == ["plain"]
    assert told["growmap"] is None
    assert told["split_ms"] is None


def test_the_benchmark_splits_a_step(folder: Path, loaded: list[Any], tmp_path: Path) -> None:
    picture = tmp_path / "split.png"
    result = run(folder, "testbed", "--Mode", "benchmark", "--picture", str(picture))
    assert result.exit_code == 0, result.output
    heading = next(line for line in result.stdout.splitlines() if "verify" in line)
    assert heading.split() == ["draft", "sample", "verify", "accept", "rest"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_table_says_what_it_shows(folder: Path, loaded: list[Any]) -> None:
    result = run(folder, "test-specinfer", "--temperature", "0.9", "--top-p", "0.95")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["plain", "tree"]
    assert [line.split("  ")[0] for line in lines[1:6]] == [
        "tokens/step", "ms/token", "ms/step", "first step, ms", "speed-up",
    ]  # fmt: skip
    assert "2 prompts, 12 tokens each · specinfer, small: 4 nodes, depth 2" in lines[6]
    assert "temperature 0.9 · top-p 0.95 · seed 17" in lines[6]
    assert all(len(line) <= 80 for line in lines[:6])


def test_the_same_seed_gives_the_same_tokens(folder: Path, loaded: list[Any]) -> None:
    def texts(seed: str) -> Any:
        told = json.loads(run(folder, "testbed", "--json", "--seed", seed).stdout)
        return [each["token_ids"] for each in told["runs"]["tree"]]

    first = texts("3")
    assert first == texts("3")
    assert first != texts("4")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--M", "100"),
            "--M is 100, but the smallest value that works is 144: 140 tokens of text",
        ),
        (("--tokens", "200"), "more than the context window of 300"),
        (("--tokens", "1"), "decode more tokens"),
        (("--growmap", "nowhere"), "growmap nowhere: no such file or name"),
        (("--dataset", "nowhere"), "data set nowhere"),
        (("--end", "9"), "has 3 rows"),
        (("--start", "5"), "end is 2"),
        (("--T", "-1"), "temperature is -1"),
        (("--P", "0"), "top_p is 0"),
        (("--DP", "0"), "top_p is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--picture", "picture.pdf"), "must end in .svg or .png"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    folder: Path, loaded: list[Any], arguments: tuple[str, ...], told: str
) -> None:
    result = run(folder, "testbed", *arguments)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_drafts_nucleus_above_1_cuts_nothing(folder: Path, loaded: list[Any]) -> None:
    told = json.loads(run(folder, "testbed", "--DP", "1.1", "--json").stdout)
    assert told["draft_top_p"] == 1.0


@pytest.mark.parametrize("command", ["testbed-greedy", "test-greedys"])
def test_a_drafts_nucleus_is_refused_where_nothing_is_drawn(
    folder: Path, loaded: list[Any], command: str
) -> None:
    result = run(folder, command, "--DP", "0.9")
    assert result.exit_code == 2
    assert "--DP does nothing" in result.stderr


@pytest.mark.parametrize("stopped_at", [1, 2])
def test_ctrl_c_leaves_what_was_measured(
    folder: Path, loaded: list[Any], monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    ran: list[object] = []

    def stopping(*arguments: Any) -> Any:
        decode = engine_system(*arguments)

        def stop(prompt_ids: Any, params: Any) -> Any:
            if params.max_new_tokens == 12:
                ran.append(prompt_ids)
                if len(ran) > 2 * stopped_at - 1:
                    raise KeyboardInterrupt
            return decode(prompt_ids, params)

        return stop

    monkeypatch.setattr(testbed, "engine_system", stopping)
    result = run(folder, "testbed", "--json")
    assert result.exit_code == 130
    if stopped_at == 1:
        assert result.stdout == ""
        assert result.stderr == "sequoia: interrupted before the first prompt was done\n"
    else:
        assert json.loads(result.stdout)["prompts"] == 1
        assert result.stderr == "sequoia: interrupted; these are the results so far\n"


def study(folder: Path, dst: Path, *arguments: str) -> Result:
    settings = ("--T", "0.4", "--T", "1", "--P", "1", "--dst", str(dst))
    return run(folder, "robustness", *settings, *arguments)


def test_the_study_compares_draws_and_does_not_count_twice(
    folder: Path, loaded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dst, picture = tmp_path / "counts.jsonl", tmp_path / "study.svg"
    result = study(folder, dst, "--picture", str(picture))
    assert result.exit_code == 0, result.output
    assert "top-p" in result.stdout
    assert "of 4 comparisons beyond the noise" in result.stdout
    assert "temperature" in picture.read_text()
    lines = dst.read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * len(RULES)
    monkeypatch.delattr(RobustnessExperiment, "count")  # nothing is left to be decoded
    again = study(folder, dst, "--json")
    assert again.exit_code == 0, again.output
    told = json.loads(again.stdout)
    assert [each["temperature"] for each in told["settings"]] == [0.4, 1.0]
    assert told["first"] == "sequoia"
    assert set(told["overall_ahead"]) == {"specinfer", "topk"}
    assert dst.read_text().splitlines() == lines


def test_a_study_that_is_stopped_goes_on(
    folder: Path, loaded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, dst = tmp_path / "whole.jsonl", tmp_path / "counts.jsonl"
    study(folder, whole)
    count = RobustnessExperiment.count
    left = [None] * 5

    def stopping(*arguments: Any) -> Any:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return count(*arguments)

    monkeypatch.setattr(RobustnessExperiment, "count", stopping)
    result = study(folder, dst)
    assert result.exit_code == 130
    assert f"interrupted; 5 results are kept in {dst}" in result.stderr
    monkeypatch.setattr(RobustnessExperiment, "count", count)
    result = study(folder, dst)
    assert result.exit_code == 0, result.output
    assert dst.read_text() == whole.read_text()
    other = study(folder, dst, "--seed", "18")
    assert other.exit_code == 2
    assert "was begun with seed 17, not 18" in other.stderr


def test_one_prompt_is_no_study(folder: Path, loaded: list[Any], tmp_path: Path) -> None:
    result = study(folder, tmp_path / "counts.jsonl", "--end", "1")
    assert result.exit_code == 2
    assert "two or more" in result.stderr
    assert not (tmp_path / "counts.jsonl").exists()


def test_offloading_streams_from_where_the_device_is_not(folder: Path, loaded: list[Any]) -> None:
    run(folder, "testbed", "--Mode", "baseline", "--offloading", "--device", "cpu")
    run(folder, "testbed", "--Mode", "baseline", "--offloading", "--offload", "none")
    assert [str(each.offload) for each in loaded] == ["disk", "none"]


def test_prompts_are_those_of_the_data_set(folder: Path, loaded: list[Any], tiny: Pair) -> None:
    prompts = load_prompts(DataSpec(str(folder / "texts.txt"), 1, 2), tiny.tokenizer)
    result = run(folder, "testbed", "--Mode", "baseline", "--start", "1", "--json")
    told = json.loads(result.stdout)
    assert told["prompts"] == len(prompts) == 1
    assert told["start"] == 1


@pytest.mark.embedded
def test_the_embedded_pair_is_the_default() -> None:
    try:
        embedded_target_path()
    except ModelLoadError as error:
        pytest.skip(str(error))
    arguments = ["--end", "1", "--tokens", "8", "--growmap", "smollm2-135m/stochastic-8x3"]
    result = CliRunner().invoke(app, ["reproduce", "testbed", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["pair"]["target"] == "SmolLM2-135M-Instruct"
    assert told["pair"]["draft"] == "bundled draft"
    assert 1.0 <= told["systems"]["tree"]["tokens_per_step"]["value"] <= 4.0
