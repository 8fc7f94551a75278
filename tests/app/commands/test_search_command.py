"""`sequoia search`: the release's config or flags in, a tree, a table and a picture out."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from sequoia_core.tree.files import load_growmap
from tests.core.conftest import reference_folder
from tests.core.tree.test_budget_search import write_config

__all__ = ["reference_folder"]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.mark.parametrize("command", [("search",), ("reproduce", "tree-search")])
def test_a_config_is_searched_by_and_its_tree_written(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    config = write_config(tmp_path)
    shown = run(*command, "--config", config)
    tree = load_growmap(tmp_path / "tree.pt")
    assert f"{tree.size} nodes, depth {tree.depth} ({tree.depth + 1} levels)" in shown
    assert f"written: {tmp_path / 'tree.pt'}" in shown
    (chosen,) = (line.split() for line in shown.splitlines() if line.rstrip().endswith("chosen"))
    assert chosen[0] == str(tree.size)
    tokens = tree.expected_tokens((0.6, 0.1, 0.05))
    assert float(chosen[3]) == pytest.approx(tokens, abs=6e-4)


def test_flags_say_the_same_as_a_config(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    flags = (
        *("--vector", tmp_path / "vector.pt", "--max-depth", 4, "--draft-time", 0.5),
        *("--target-time", "1:10,4:11,16:14.5"),
    )
    by_config = json.loads(run("search", "--config", config, "--json"))
    dst = tmp_path / "other.json"
    by_flags = json.loads(run("search", *flags, "--json", "--dst", dst))
    assert by_flags.pop("dst") == str(dst)
    assert by_config.pop("dst") == str(tmp_path / "tree.pt")
    assert by_flags == by_config
    assert by_flags["parents"] == list(load_growmap(dst).parents)
    assert by_flags["pays"] is True
    chosen = min(by_flags["candidates"], key=lambda each: float(each["ms_per_token"]))
    assert {key: by_flags[key] for key in chosen} == chosen


def test_dst_overrides_the_configs(tmp_path: Path) -> None:
    config, dst = write_config(tmp_path), tmp_path / "new" / "tree.json"
    run("search", "--config", config, "--dst", dst)
    assert load_growmap(dst).source == "searched for vector.pt with given times"
    assert not (tmp_path / "tree.pt").exists()


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_picture_has_a_line_a_depth(tmp_path: Path, ending: str) -> None:
    picture = tmp_path / f"search.{ending}"
    run("search", "--config", write_config(tmp_path), "--picture", picture)
    if ending == "svg":
        text = picture.read_text()
        assert all(f"depth {depth}" in text for depth in range(4))
        assert "depth 4" not in text
    else:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_plain_decoding_is_told_where_no_tree_pays(tmp_path: Path) -> None:
    torch.save(torch.tensor([0.0, 0.0, 0.0, 1.0]), tmp_path / "zero.pt")
    config = write_config(tmp_path, acceptance_rate_vector="zero.pt", target_time=[10, 11, 12])
    shown = run("search", "--config", config)
    assert "every tree would be slower here" in shown
    assert load_growmap(tmp_path / "tree.pt").size == 1
    dear = write_config(tmp_path, valid_budget=[4, 8, 16], target_time=[10, 90, 91], max_depth=2)
    shown = run("search", "--config", dear)
    assert "a forward of 4 rows (10 ms)" in shown


def test_a_budget_that_no_tree_reaches_is_told(tmp_path: Path) -> None:
    config = write_config(tmp_path, max_depth=2)
    assert "unreachable" in run("search", "--config", config)


FLAGS = ("--vector", "vector.pt", "--max-depth", "4", "--draft-time", "0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config FILE, or --vector"),
        (FLAGS, "give --config FILE, or --vector"),
        ((*FLAGS, "--target-time", "10,11"), "--target-time: '10,11' is no list"),
        ((*FLAGS, "--target-time", "1:10,1:11"), "names 1 nodes twice"),
        ((*FLAGS, "--target-time", "1:10,4:-1"), "target_time of 4 nodes is -1.0"),
        ((*FLAGS, "--target-time", "9:10", "--max-budget", "8"), "9 nodes, which is not"),
        ((*FLAGS, "--target-time", "4096:10,5000:1"), "max_budget is 5000"),
        (("--config", "config.json", "--max-depth", "3"), "--max-depth and --config say the same"),
        (("--config", "config.json", "--dst", "tree.txt"), "must end in .json or .pt"),
        (("--config", "config.json", "--picture", "a.bmp"), "must end in .svg or .png"),
        (("--config", "none.json"), "search config none.json: it cannot be read"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    line = run("search", *arguments, code=2)
    assert message in line
    assert line.startswith("sequoia: ")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([0.0, 0.8, 0.7, 0.0], "add up to 1.5"),
        ([0.0, -0.5, 0.7, 0.0], "entry 1 is -0.5"),
        ([0.0, float("nan"), 0.7, 0.0], "entry 1 is not a number"),
    ],
)
def test_a_bad_vector_is_one_line(tmp_path: Path, entries: list[float], message: str) -> None:
    torch.save(torch.tensor(entries), tmp_path / "bad.pt")
    config = write_config(tmp_path, acceptance_rate_vector="bad.pt")
    assert message in run("search", "--config", config, code=1)


def test_the_releases_script_wants_its_config() -> None:
    assert "give --config FILE, or --vector" in run("reproduce", "tree-search", code=2)


def test_the_references_demo_runs_unchanged(reference_folder: Path, tmp_path: Path) -> None:
    for name in ("demo-config.json", "acceptance-rate-vector.pt"):
        shutil.copy(reference_folder / name, tmp_path)
    told: dict[str, Any] = json.loads(
        run("reproduce", "tree-search", "--config", tmp_path / "demo-config.json", "--json")
    )
    theirs = load_growmap(reference_folder / "demo_tree.pt")
    assert load_growmap(tmp_path / "demo_tree.pt").parents == theirs.parents
    assert (told["nodes"], told["levels"]) == (theirs.size, theirs.depth + 1)
    assert told["speedup"] == pytest.approx(10 / told["ms_per_token"])
