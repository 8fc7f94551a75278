"""`sequoia accept` and its two forms among the release's scripts, from a pair to a vector."""

import json
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from app.cli import app
from app.config.interrupts import INTERRUPTS
from sequoia_core.data.prompts import PROMPTS
from sequoia_core.errors import ModelLoadError
from sequoia_core.figures.charts import draw_vector
from sequoia_core.measure.acceptance import AcceptanceVector, count_acceptance
from sequoia_core.model.loading.loader import embedded_target_path
from sequoia_core.tree.files import load_growmap, read_acceptance_rates
from tests.core.reproducing import save_small_pair, save_texts

WIDTH = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair, and texts of which a character is a token."""
    folder = tmp_path_factory.mktemp("models")
    save_small_pair(folder)
    save_texts(folder)
    return folder


@pytest.fixture
def interrupts_noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As from the command's entry point on, where a shell lets SIGINT be ignored as well."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(INTERRUPTS, "_noted", None)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    INTERRUPTS.note()
    yield
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, handler)


def run(folder: Path, *arguments: str, width: int = WIDTH, code: int = 0) -> str:
    """Standard output of a command on the pair, or its one line of error."""
    models = ("--target", str(folder / "target"), "--model", str(folder / "draft"))
    data = ("--dataset", str(folder / "texts.txt"), "--end", "2", "--W", str(width))
    result = CliRunner().invoke(app, [*arguments, *models, "--dtype", "float32", *data])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("accept", "--DP", "0.9"),
        ("accept", "--static"),
        ("accept", "--ALG", "greedy"),
        ("reproduce", "test-accept", "--D", "1", "--Mode", "greedy", "--M", "259"),
        ("reproduce", "fast-test", "--DP", "1.1", "--T", "1.1"),
    ],
    ids=" ".join,
)
def test_a_vector_is_measured_written_and_reported(
    folder: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    dst = tmp_path / "vector.pt"
    measured = json.loads(run(folder, *command, "--P", "1", "--dst", str(dst), "--json"))
    vector = torch.load(dst, weights_only=True)
    rates = measured["acceptance_rates"]
    assert vector.tolist() == pytest.approx([0.0, *rates, measured["rejected"]])
    assert float(vector.sum()) == pytest.approx(1.0)
    assert len(rates) == len(measured["intervals"]) == WIDTH
    assert 0 < rates[0] < 1
    assert measured["prompts"] == 2
    static = "--static" in command or "fast-test" in command
    heat = 0.0 if "--ALG" in command else 1.1 if "--T" in command else 0.6
    assert measured["method"] == ("static" if static else "decoding")
    positions = range(24, 25) if static else range(2, 2 * 128 + 1)  # an answer may end early
    assert measured["positions"] in positions
    assert measured["dst"] == str(dst)
    assert measured["temperature"] == heat


def test_the_same_seed_gives_the_same_vector_in_the_working_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second, other = (
        json.loads(run(folder, "accept", "--json", "--seed", seed)) for seed in ("3", "3", "4")
    )
    assert first == second
    assert first["acceptance_rates"] != other["acceptance_rates"]
    (rates,) = read_acceptance_rates("acceptance-rate-vector.pt")
    assert len(rates) == WIDTH


def test_rates_by_depth_are_measured_for_a_search(folder: Path, tmp_path: Path) -> None:
    dst, tree = tmp_path / "rates.json", tmp_path / "tree.json"
    shown = run(folder, "accept", "--D", "2", "--dst", str(dst))
    values = json.loads(dst.read_text())
    assert [len(rates) for rates in values["deeper_rates"]] == [WIDTH]
    assert values["positions"] > values["deeper_positions"][0] > 0
    assert "depth 2" in shown
    assert "decoding with a tree of" in shown
    by_depth = read_acceptance_rates(dst)
    assert by_depth == (tuple(values["acceptance_rates"]), *map(tuple, values["deeper_rates"]))
    times = ("--max-depth", "5", "--draft-time", "0.1", "--target-time", "1:10,8:10.5")
    command = ["search", "--vector", str(dst), *times, "--dst", str(tree)]
    assert CliRunner().invoke(app, command).exit_code == 0
    found = load_growmap(tree)
    assert found.deeper_rates == by_depth[1:]
    listed = CliRunner().invoke(app, ["growmap", "show", str(tree)]).stdout
    assert "at depth 2" in listed
    assert f"{found.expected_tokens(by_depth[0], by_depth[1:]):.3f} tokens per pass" in listed


def test_a_table_and_a_picture_show_every_rank(folder: Path, tmp_path: Path) -> None:
    dst, picture = tmp_path / "vector.json", tmp_path / "vector.svg"
    shown = run(folder, "accept", "--static", "--dst", str(dst), "--picture", str(picture))
    values = json.loads(dst.read_text())
    rows = [line.split() for line in shown.splitlines()[1 : 1 + WIDTH]]
    expected = [
        [str(rank), f"{rate:.4f}", f"{low:.4f}", "to", f"{high:.4f}"]
        for rank, (rate, (low, high)) in enumerate(
            zip(values["acceptance_rates"], values["intervals"], strict=True), start=1
        )
    ]
    assert [row[:5] for row in rows] == expected
    assert f"{values['rejected']:.4f} rejected by all" in shown
    assert "24 positions of 2 prompts" in shown
    assert f"written: {picture}" in shown
    assert "rank of the child" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("accept", "--M", "258"), "--M is 258, but the smallest value that works is 259"),
        (("accept", "--DP", "0"), "draft top-p is 0.0"),
        (("accept", "--static", "--M", "300"), "--M does nothing with --static"),
        (("accept", "--D", "2", "--dst", "a.pt"), "a file that ends in .json"),
        (("accept", "--D", "2", "--static"), "leave out --static or --D"),
        (("reproduce", "test-accept", "--D", "0"), "depth is 0; give 1 to"),
        (("accept", "--W", "0"), "width is 0"),
        (("accept", "--P", "0"), "top_p is 0.0"),
        (("accept", "--start", "2"), "end is 2; it must be above start"),
        (("accept", "--end", "9"), "has 3 rows; rows 0 to 9 were asked for"),
        (("accept", "--dataset", "nowhere"), "known are cnn, openwebtext, c4, wiki, mt-bench"),
        (("accept", "--draft", "none"), "the target has no draft"),
        (("accept", "--static", "--draft", "none"), "the target has no draft"),
        (("accept", "--dst", "vector.txt"), "must end in .json or .pt"),
        (("accept", "--picture", "a.gif"), "must end in .svg or .png"),
        (("accept", "--dst", "/dev/null/vector.pt"), "its folder cannot be made"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_cannot_be_measured_is_one_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    pair = ("--target", str(folder / "target"), "--model", str(folder / "draft"))
    data = ("--dataset", str(folder / "texts.txt"), "--end", "2", "--W", str(WIDTH))
    words = 2 if arguments[0] == "reproduce" else 1
    usual = (*pair, "--dtype", "float32", *data)  # what comes later on a command line counts
    result = CliRunner().invoke(app, [*arguments[:words], *usual, *arguments[words:]])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("sequoia: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("done", [0, 1])
def test_ctrl_c_leaves_what_was_measured_and_writes_no_vector(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    def stopping(*arguments: Any) -> Iterator[Any]:
        yield from islice(count_acceptance(*arguments), done)
        raise KeyboardInterrupt

    monkeypatch.setattr("sequoia_core.reproduce.acceptance.count_acceptance", stopping)
    dst = tmp_path / "vector.json"
    models = ("--target", str(folder / "target"), "--model", str(folder / "draft"))
    data = ("--dataset", str(folder / "texts.txt"), "--end", "2", "--W", "3", "--dst", str(dst))
    result = CliRunner().invoke(app, ["accept", *models, *data, "--json"])
    assert result.exit_code == 130
    assert not dst.exists()
    if done:
        assert json.loads(result.stdout)["prompts"] == 1
        assert "these are the results so far" in result.stderr
    else:
        assert result.stdout == ""
        assert "before the first prompt was done" in result.stderr


def test_an_error_after_ctrl_c_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, interrupts_noted: None
) -> None:
    def stopping(*arguments: Any) -> Iterator[Any]:
        yield from islice(count_acceptance(*arguments), 1)
        signal.raise_signal(signal.SIGINT)

    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError("no space is left")

    monkeypatch.setattr("sequoia_core.reproduce.acceptance.count_acceptance", stopping)
    monkeypatch.setattr("app.commands.experiment.print_report", full)
    assert "no space is left" in run(folder, "accept", code=1)


def test_a_window_without_room_for_text_and_tree_is_refused(folder: Path) -> None:
    line = run(folder, "accept", width=60, code=2)
    assert "and a tree of 60 nodes are more than the context window of 300" in line


@pytest.mark.embedded
def test_the_embedded_pair_is_judged_on_a_text(tmp_path: Path) -> None:
    try:
        embedded_target_path()
    except ModelLoadError as error:
        pytest.skip(str(error))
    dst, text = tmp_path / "vector.json", tmp_path / "text.txt"
    text.write_text(" ".join(PROMPTS * 3))
    command = ["accept", "--static", "--P", "1", "--end", "1", "--W", "4", "--dst", str(dst)]
    result = CliRunner().invoke(app, [*command, "--dataset", str(text)])
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(dst.read_text())
    assert values["prompts"] == 1
    assert values["intervals"] == []
    assert values["positions"] == 128
    assert values["acceptance_rates"][0] > 0.3  # what is said thrice is easy to guess


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
@pytest.mark.parametrize("intervals", [(), ((0.4, 0.7), (0.0, 0.0), (0.0, 0.1))])
def test_a_vector_with_gaps_is_drawn(
    tmp_path: Path, name: str, intervals: tuple[tuple[float, float], ...]
) -> None:
    vector = AcceptanceVector((0.5, 0.0, 0.02), 0.48, intervals, 50, 2)
    draw_vector(tmp_path / name, vector)
    begin = (tmp_path / name).read_bytes()[:8]
    assert begin.startswith(b"<?xml" if name.endswith("svg") else b"\x89PNG")


def test_a_vector_of_nothing_is_drawn(tmp_path: Path) -> None:
    draw_vector(tmp_path / "a.svg", AcceptanceVector((0.0, 0.0), 1.0, (), 50, 1))
    assert (tmp_path / "a.svg").stat().st_size > 0
