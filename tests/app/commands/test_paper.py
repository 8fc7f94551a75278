"""`sequoia reproduce paper`: a published table here, from the command line to the kept file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.commands import paper
from app.commands.paper import head_of
from app.config import model_choice
from app.config.load import load_settings
from sequoia_core.config import Offload
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.loader import embedded_target_path
from sequoia_core.reproduce.paper import PaperPlan
from sequoia_core.reproduce.paper_facts import PaperChoice, Room, paper_facts
from tests.core.reproducing import save_small_pair, save_texts

COMMAND = ("reproduce", "paper", "--hardware")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair, and a file of texts of which a character is a token."""
    folder = tmp_path_factory.mktemp("models")
    save_small_pair(folder)
    save_texts(folder)
    return folder


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> tuple[str, ...]:
    """The command on the tiny pair and one text, without its folder for results."""
    models = ("--target", str(folder / "target"), "--model", str(folder / "draft"))
    data = ("--dataset", str(folder / "texts.txt"), "--end", "1", "--growmap", "k-ary/2x2")
    return *COMMAND, "a100", *models, *data, "--dtype", "float32", "--dst", str(tmp_path / "out")


def run(*arguments: str, code: int = 0) -> str:
    """Standard output, or the one line of error."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 GiB of memory, enough disk, nothing fetched, no token."""

    def room(_settings: object) -> Room:
        return Room("cpu", 6 * 2**30, 10**13, 2, token=False, fetched=lambda _name: False)

    monkeypatch.setattr(paper, "room", room)


def test_the_table_runs_on_any_pair_is_kept_and_goes_on(
    own: tuple[str, ...], tmp_path: Path
) -> None:
    values = json.loads(run(*own, "--json"))
    assert values["hardware"] == "a100"
    cells = values["cells"]
    assert [cell["temperature"] for cell in cells] == [0.0, 0.6]
    for cell in cells:
        assert cell["skipped"] is None
        assert cell["result"]["tree"] == "7x2"
        assert 1.0 <= cell["result"]["tokens_per_step"]["value"] <= 3.0
    kept = Path(values["file"])
    assert kept == tmp_path / "out" / "cells.jsonl"
    before = kept.read_text()
    picture = tmp_path / "table.svg"
    shown = run(*own, "--picture", str(picture))
    assert kept.read_text() == before
    rows = [line for line in shown.splitlines() if "texts.txt" in line]
    for row, cell in zip(rows, cells, strict=True):
        assert f"{cell['result']['tokens_per_step']['value']:.2f} (" in row
        assert f"{cell['result']['speedup']['middle']:.2f}x" in row
    assert "2 of 2 cells measured, 0 skipped" in shown
    assert "texts.txt, T=0.6" in picture.read_text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (("--end", "2"), "was begun with end 1, not 2"),
        (("--seed", "5"), "was begun with seed 17, not 5"),
        (("--P", "0.9"), "was begun with top-p 1.0, not 0.9"),
        (("--growmap", "chain/2"), "was begun with growmap 'k-ary/2x2', not 'chain/2'"),
        (("--hardware", "l40"), "was begun with hardware 'a100', not 'l40'"),
    ],
)
def test_other_options_do_not_go_on_with_a_kept_table(
    own: tuple[str, ...], tmp_path: Path, changed: tuple[str, ...], words: str
) -> None:
    head = tmp_path / "out" / "cells.jsonl"
    head.parent.mkdir()
    settings = load_settings({"dtype": "float32"})
    choice, options = PaperChoice("a100", growmap="k-ary/2x2"), PaperPlan(0, 1, 1.0, 17)
    begun = head_of(settings, choice, options)
    head.write_text(json.dumps(begun) + "\n")
    assert words in run(*own, *changed, code=2)


@pytest.mark.usefixtures("small_machine")
def test_what_cannot_be_held_is_skipped_with_the_reason(tmp_path: Path) -> None:
    shown = run(*COMMAND, "a100", "--dst", str(tmp_path))
    lines = [line for line in shown.splitlines() if "skipped: " in line]
    assert len(lines) == 32
    assert all("6.0 GiB are free on cpu" in line for line in lines)
    assert any(line.endswith("5.08 · 4.04x · 6.0 ms") for line in map(str.strip, lines))
    assert "paper, NVIDIA A100" in shown
    assert "0 of 32 cells measured, 32 skipped" in shown
    assert (tmp_path / "cells.jsonl").read_text().count("\n") == 1


@pytest.mark.usefixtures("small_machine")
def test_a_target_whose_layers_are_streamed_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_settings: object, _progress: object) -> object:
        raise ModelLoadError("not fetched here")

    monkeypatch.setattr(model_choice, "load_chosen", load)
    wanted = (*COMMAND, "a100", "--pairs", "1.3b-33b", "--json", "--dst")
    for more, reason in (((), "needs 63.6 GiB"), (("--offload", "disk"), "not fetched here")):
        values = json.loads(run(*wanted, str(tmp_path / reason), *more))
        assert all(reason in cell["skipped"] for cell in values["cells"])


def test_a_published_pair_is_loaded_by_its_names_and_streamed_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(settings: Any, _progress: object) -> object:
        asked.append(settings)
        raise ModelLoadError(f"{settings.target}: the hub cannot be reached")

    monkeypatch.setattr(model_choice, "load_chosen", load)
    monkeypatch.setattr(
        paper,
        "room",
        lambda _: Room("cpu", 10**13, 10**13, 2, token=True, fetched=lambda _: False),
    )
    values = json.loads(run(*COMMAND, "l40", "--dst", str(tmp_path), "--json"))
    assert {cell["skipped"] for cell in values["cells"]} == {
        f"{setup.target.name}: the hub cannot be reached" for setup in published("l40")
    }
    # a pair that does not load is not tried for each of its cells
    assert [(each.target, each.draft) for each in asked] == [
        (pair.target.name, pair.draft.name) for pair in published("l40")
    ]
    assert [each.offload for each in asked] == [
        Offload.DISK if pair.offload else Offload.NONE for pair in published("l40")
    ]


def published(hardware: str) -> Iterator[Any]:
    """Pairs on some hardware, in the order of its table."""
    facts = paper_facts()
    return (facts.pairs[setup.pair] for setup in facts.setups_on(hardware))


def test_an_own_pair_that_does_not_run_at_all_is_an_error(tmp_path: Path) -> None:
    missing = ("--target", str(tmp_path / "nowhere"), "--model", "none")
    assert "nowhere" in run(*COMMAND, "a100", *missing, "--dst", str(tmp_path), code=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pairs", "1.3b-33b"), "on the l40 there are 68m-7b"),
        (("--pairs", "embedded", "--pairs", "68m-7b"), "name no other with it"),
        (("--pairs", "68m-7b", "--target", "x"), "leave them out or name no models"),
        (("--dataset", "nowhere"), "known are cnn, openwebtext, c4, wiki, mt-bench"),
        (("--end", "0"), "end is 0"),
        (("--P", "2"), "top_p is 2.0"),
        (("--picture", "a.gif"), "must end in .svg or .png"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    told = run(*COMMAND, "l40", "--dst", str(tmp_path), *arguments, code=2)
    assert words in told
    assert told.startswith("sequoia: ")
    assert told.count("\n") == 1


def test_an_interrupted_run_says_how_to_go_on(
    own: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_choice, "load_chosen", interrupt)
    told = run(*own, code=130)
    assert "interrupted; 0 results are kept in" in told
    assert "the same command continues" in told


@pytest.mark.parametrize(("device", "place"), [("cpu", "cpu"), ("cpu,cpu", "cpu+cpu")])
def test_the_machine_is_asked_for_what_there_is(device: str, place: str) -> None:
    room = paper.room(load_settings({"device": device, "dtype": "float32"}))
    assert (room.place, room.value_bytes) == (place, 4)
    assert room.memory > 0
    assert room.disk > 0
    assert not room.fetched("nobody/nothing")


def test_there_are_tables_for_the_hardware_that_can_be_named() -> None:
    told = run(*COMMAND, "none", code=2)
    assert set(re.findall(r"'(\w\d+)'", told)) == set(paper_facts().hardware)


def embedded_is_here() -> bool:
    """Whether the embedded target is installed."""
    try:
        embedded_target_path()
    except ModelLoadError:
        return False
    return True


@pytest.mark.skipif(not embedded_is_here(), reason="the embedded target is not installed")
def test_the_embedded_pair_fills_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequoia_core.reproduce.paper.NEW_TOKENS", 12)
    question = tmp_path / "question.jsonl"
    question.write_text('{"prompt": "Name a tree."}\n')
    data = ("--dataset", str(question), "--end", "1", "--dst", str(tmp_path / "out"))
    tree = ("--growmap", "smollm2-135m/greedy-8x3")
    shown = run(*COMMAND, "a100", "--pairs", "embedded", *data, *tree)
    assert "2 of 2 cells measured, 0 skipped" in shown
    assert "paper, 68m-7b on NVIDIA A100" in shown
    kept = (tmp_path / "out" / "cells.jsonl").read_text().splitlines()[1:]
    for line in kept:
        result = json.loads(line)["result"]
        assert result["tree"] == "8x3"
        assert result["tokens_per_step"]["value"] > 1.0
