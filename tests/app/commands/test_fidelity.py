"""`sequoia fidelity` prints a table, or JSON lines, of a model against the unrounded one."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from sequoia_core.data.passages import PROMPT_TOKENS
from tests.core.checkpoints import save_model, tiny_tokenizer

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "max_position_embeddings": 512}


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tiny_tokenizer(), **SHAPE)
    (tmp_path / "text.jsonl").write_text('{"turns": ["ABBA"]}\n{"turns": ["AC DC"]}\n')
    return str(tmp_path / "target")


def fidelity(target: str, *arguments: str) -> str:
    data = ["--dataset", str(Path(target).with_name("text.jsonl")), "--end", "2"]
    words = ["fidelity", "--target", target, "--device", "cpu", *data, *arguments]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_rounded_weights_are_compared_with_the_original_ones(target: str) -> None:
    lines = fidelity(target, "--quantize", "int8").splitlines()
    assert lines[0] == "target in int8, against target in float32 PyTorch"
    assert lines[1].split("  ")[0] == "text"
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "all"]
    assert lines[-1].endswith("%")


def test_json_lines_have_the_figures_of_each_text_and_of_all(target: str) -> None:
    rows = [
        json.loads(line) for line in fidelity(target, "--quantize", "int4", "--json").splitlines()
    ]
    assert [row["text"] for row in rows] == ["1", "2", "all"]
    assert rows[-1]["positions"] == rows[0]["positions"] + rows[1]["positions"]
    assert 0.0 < rows[-1]["kl_mean"] <= rows[-1]["kl_largest"]
    assert {row["model"] for row in rows} == {"target in int4"}


def test_the_same_numbers_are_no_distance(target: str) -> None:
    same = ["--weights", "torch", "--dtype", "float32", "--json"]
    *_, whole = (json.loads(line) for line in fidelity(target, *same).splitlines())
    assert whole["kl_largest"] < 1e-9
    assert whole["same_argmax"] == 1.0


def test_texts_are_not_continued(target: str) -> None:
    """Also one of as many tokens as are a prompt elsewhere."""
    text = Path(target).with_name("text.jsonl")
    text.write_text(json.dumps({"text": "A " * 200}) + "\n")
    for tokens in (PROMPT_TOKENS, 100):
        words = ("--end", "1", "--tokens", str(tokens), "--json")
        *_, whole = (json.loads(line) for line in fidelity(target, *words).splitlines())
        assert whole["positions"] == tokens


@pytest.mark.parametrize("wrong", [("--answers", "-1"), ("--tokens", "0")])
def test_counts_out_of_range_are_refused(wrong: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["fidelity", *wrong])
    assert result.exit_code == 2
    assert wrong[0] in result.stderr


def test_models_of_other_tokens_are_refused(target: str, tmp_path: Path) -> None:
    save_model(tmp_path / "other", tiny_tokenizer(first="B"), **SHAPE)
    words = [
        "fidelity",
        "--target",
        target,
        "--device",
        "cpu",
        "--against",
        str(tmp_path / "other"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert "target and other have different tokens; give --against" in result.stderr
