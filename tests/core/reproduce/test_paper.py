"""The published table: its cells and trees, what cannot be held, and that nothing done is lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from sequoia_core.errors import ModelLoadError, ParameterError, SequoiaError
from sequoia_core.measure.spread import Spread
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.tensor_names import layer_values
from sequoia_core.reproduce.bootstrap import Interval
from sequoia_core.reproduce.experiment import ResultFile
from sequoia_core.reproduce.paper import (
    NEW_TOKENS,
    CellResult,
    CellRow,
    PaperExperiment,
    PaperPlan,
    draw_paper,
    outcome_row,
    outcome_values,
)
from sequoia_core.reproduce.paper_facts import (
    TEMPERATURES,
    PaperCell,
    PaperChoice,
    Room,
    other_cells,
    paper_facts,
    published_cells,
    why_not,
)
from sequoia_core.tree.files import find_growmap
from tests.core.reproducing import quiet, save_small_pair, save_texts

FACTS = paper_facts()
PLAN = PaperPlan(start=0, end=1, top_p=1.0, seed=17)
RESULT = CellResult(
    prompts=4,
    tree="128x9",
    tokens_per_step=Interval(2.0, 2.25, 2.5),
    tree_ms=Spread(7.0, 8.0, 9.0),
    plain_ms=Spread(10.0, 12.0, 13.0),
    speedup=Spread(1.25, 1.5, 1.75),
)


@pytest.mark.parametrize(("hardware", "pairs", "cells"), [("a100", 4, 32), ("l40", 5, 28)])
def test_the_table_has_every_pair_data_set_and_temperature_once(
    hardware: str, pairs: int, cells: int
) -> None:
    table = list(published_cells(FACTS, PaperChoice(hardware)))
    assert len({cell.pair for cell in table}) == pairs
    assert len({cell.key for cell in table}) == len(table) == cells
    figures = [figure for figure in FACTS.figures if figure.hardware == hardware]
    assert [cell.figure for cell in table if cell.figure] == figures
    # a pair is loaded once: its cells stand together
    changes = sum(first.pair != second.pair for first, second in pairwise(table))
    assert changes == pairs - 1


@pytest.mark.parametrize("hardware", sorted(FACTS.hardware))
def test_every_cell_has_a_packaged_tree_its_own_where_there_is_one(hardware: str) -> None:
    for cell in published_cells(FACTS, PaperChoice(hardware)):
        assert cell.growmap is not None
        assert find_growmap(cell.growmap).size > 1
        kind = "greedy" if cell.temperature == 0 else "stochastic"
        if cell.figure is not None:
            assert cell.growmap == f"{hardware}/{cell.pair}/{cell.dataset}-{kind}"


@pytest.mark.parametrize(
    ("place", "tree"),
    [
        (("68m-7b", "cnn", 0.6), "l40/68m-7b/cnn-stochastic"),
        (("68m-13b", "cnn", 0.6), "l40/68m-13b/c4-stochastic"),
        (("160m-13b", "cnn", 0.0), "l40/68m-13b/c4-greedy"),
        (("7b-70b", "mt-bench", 0.6), "l40/7b-70b/mt-bench-greedy"),
    ],
)
def test_the_nearest_tree_stands_in(place: tuple[str, str, float], tree: str) -> None:
    cells = {cell.key: cell for cell in published_cells(FACTS, PaperChoice("l40"))}
    assert cells[place].growmap == tree


def test_pairs_data_sets_and_the_tree_may_be_chosen() -> None:
    choice = PaperChoice("a100", ("68m-13b",), ("mine.txt",), "chain/4")
    cells = list(published_cells(FACTS, choice))
    assert [cell.key for cell in cells] == [("68m-13b", "mine.txt", t) for t in TEMPERATURES]
    assert {cell.growmap for cell in cells} == {"chain/4"}
    own = list(other_cells(FACTS, PaperChoice("a100"), "mine"))
    assert [cell.figure.tokens for cell in own[:2] if cell.figure] == [5.08, 3.92]
    assert {(cell.pair, cell.growmap) for cell in own} == {("mine", None)}


def test_pairs_that_nothing_is_published_for_are_refused() -> None:
    with pytest.raises(ParameterError, match="on the l40 there are 68m-7b"):
        list(published_cells(FACTS, PaperChoice("l40", ("1.3b-33b",))))


def machine(**changes: object) -> Room:
    """One that holds everything, but for the changes."""
    room = Room("cpu", 10**13, 10**13, 2, token=True, fetched=lambda _name: False)
    return replace(room, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(FACTS.pairs))
def test_a_pair_is_held_back_from_the_very_byte_that_is_missing(name: str) -> None:
    pair = FACTS.pairs[name]
    needed = pair.needed_bytes(2, 384)
    assert why_not(pair, machine(memory=needed), 384) == ""
    assert "GiB are free on cpu" in why_not(pair, machine(memory=needed - 1), 384)
    fetched = 2 * (pair.target.parameters + pair.draft.parameters)
    assert why_not(pair, machine(disk=fetched), 384) == ""
    assert "would be fetched" in why_not(pair, machine(disk=fetched - 1), 384)
    there = machine(disk=0, token=False, fetched=lambda _name: True)
    assert why_not(pair, there, 384) == ""
    gated = pair.target.gated or pair.draft.gated
    assert ("gated and there is no HF_TOKEN" in why_not(pair, machine(token=False), 384)) == gated


def test_streaming_leaves_two_layers_of_the_target_in_memory() -> None:
    pair = FACTS.pairs["7b-70b"]
    layer = layer_values(pair.target.config)
    resident = replace(pair, offload=False).needed_bytes(2, 384)
    assert pair.needed_bytes(2, 384) == resident - 2 * 78 * layer
    assert pair.needed_bytes(4, 384) > pair.needed_bytes(2, 384)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two random models of one tokenizer, a character a token."""
    models = save_small_pair(tmp_path_factory.mktemp("models"), window=400)
    return load_pair(*models, dtype="float32")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of two texts that are long enough."""
    return str(save_texts(tmp_path_factory.mktemp("texts"), 2))


class Shelf:
    """Hands out the pair under some names and counts how often."""

    def __init__(self, pair: Pair, *names: str) -> None:
        self._pair, self._names = pair, names
        self.asked: list[str] = []

    def load(self, name: str, _progress: Callable[[str, float | None], None]) -> Pair:
        """The pair, or that there is none."""
        self.asked.append(name)
        if name not in self._names:
            raise ModelLoadError(f"{name}: too large")
        return self._pair


def cells_of(texts: str, *pairs: str) -> list[PaperCell]:
    """Both temperatures of each pair on the texts, with a small tree."""
    return [
        PaperCell(pair, texts, temperature, "k-ary/2x2", None)
        for pair in pairs
        for temperature in TEMPERATURES
    ]


def table(
    cells: list[PaperCell], path: Path, shelf: Shelf, plan: PaperPlan = PLAN
) -> PaperExperiment:
    """The experiment, not run yet."""
    return PaperExperiment(cells, ResultFile(path, {}, CellRow), shelf.load, plan, "a100")


def test_cells_are_decoded_kept_and_not_decoded_again(
    pair: Pair, texts: str, tmp_path: Path
) -> None:
    path = tmp_path / "cells.jsonl"
    shelf, cells = Shelf(pair, "small"), cells_of(texts, "large", "small")
    filled = table(cells, path, shelf)
    filled.run(quiet)
    outcomes = filled.outcomes()
    assert [cell for cell, _ in outcomes] == cells
    assert [outcome for _, outcome in outcomes[:2]] == ["large: too large"] * 2
    for _, outcome in outcomes[2:]:
        assert isinstance(outcome, CellResult)
        assert (outcome.prompts, outcome.tree) == (1, "7x2")
        assert 1.0 <= outcome.tokens_per_step.value <= 3.0
        assert outcome.speedup.middle > 0
    assert shelf.asked == ["large", "small"]
    later = Shelf(pair)
    resumed = table(cells, path, later)
    resumed.run(quiet)
    assert resumed.outcomes() == outcomes
    assert later.asked == ["large"]


def test_a_killed_run_continues_after_its_last_whole_cell(
    pair: Pair, texts: str, tmp_path: Path
) -> None:
    cells, path = cells_of(texts, "small"), tmp_path / "cells.jsonl"
    first = table(cells[:1], path, Shelf(pair, "small"))
    first.run(quiet)
    with path.open("a") as file:
        file.write('{"pair": "small", "data')
    continued = table(cells, path, Shelf(pair, "small"))
    continued.run(quiet)
    outcomes = continued.outcomes()
    assert outcomes[0] == first.outcomes()[0]
    assert all(isinstance(outcome, CellResult) for _, outcome in outcomes)
    assert len(path.read_text().splitlines()) == 1 + len(cells)


def test_a_data_set_that_cannot_be_had_costs_its_cells_alone(
    pair: Pair, texts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_name: str) -> object:
        raise SequoiaError("data set c4: the hub cannot be reached")

    monkeypatch.setattr("sequoia_core.data.passages.named_rows", unreachable)
    cells = [replace(cell, dataset="c4") for cell in cells_of(texts, "small")]
    filled = table(cells + cells_of(texts, "small"), tmp_path / "cells", Shelf(pair, "small"))
    filled.run(quiet)
    skipped = ["cannot be reached" in str(outcome) for _, outcome in filled.outcomes()]
    assert skipped == [True] * 2 + [False] * 2


def test_too_few_rows_end_the_run_and_what_was_done_is_kept(
    pair: Pair, texts: str, tmp_path: Path
) -> None:
    path, short = tmp_path / "cells.jsonl", tmp_path / "short.txt"
    short.write_text(Path(texts).read_text().splitlines()[0] + "\n")
    cells = cells_of(texts, "small") + cells_of(str(short), "small")
    filled = table(cells, path, Shelf(pair, "small"), replace(PLAN, end=2))
    with pytest.raises(ParameterError, match="has 1 rows"):
        filled.run(quiet)
    assert len(path.read_text().splitlines()) == 1 + 2


def test_too_small_a_cache_says_what_would_do(pair: Pair, texts: str, tmp_path: Path) -> None:
    needed = 128 + NEW_TOKENS + 7
    plan = replace(PLAN, cache_length=needed - 1)
    filled = table(cells_of(texts, "small"), tmp_path / "cells.jsonl", Shelf(pair, "small"), plan)
    with pytest.raises(ParameterError, match=f"the smallest value that works is {needed}"):
        filled.run(quiet)


def test_a_set_that_is_known_to_be_short_is_read_to_its_end() -> None:
    options = PaperPlan(0, 200, 1.0, 17)
    assert options.data("mt-bench").end == 80
    assert options.data("c4").end == 200
    assert replace(options, end=3).data("mt-bench").end == 3


@pytest.mark.parametrize("wrong", [{"end": 0}, {"top_p": 0.0}, {"seed": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError):
        replace(PLAN, **wrong)  # type: ignore[arg-type]


def test_a_row_is_read_back_and_other_lines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    row = CellRow("small", "c4", 0.6, None, RESULT)
    ResultFile(path, {}, CellRow).add(row)
    assert ResultFile(path, {}, CellRow).rows == [row]
    whole = json.loads(path.read_text().splitlines()[1])
    for missing in ("pair", "result"):
        line = {name: value for name, value in whole.items() if name != missing}
        path.write_text(f"{{}}\n{json.dumps(line)}\n")
        with pytest.raises(ParameterError, match="line 2: no result"):
            ResultFile(path, {}, CellRow)


def test_a_cell_is_shown_with_what_was_measured_and_what_is_published(tmp_path: Path) -> None:
    cell = next(published_cells(FACTS, PaperChoice("a100")))
    place = ("68m-7b", "c4", "0")
    published = "5.08 · 4.04x · 6.0 ms"
    measured = "2.25 (2.00 to 2.50) · 1.50x (1.25 to 1.75) · 8.0 ms, plain 12.0"
    assert outcome_row(cell, RESULT) == (*place, "128x9", measured, published)
    assert outcome_row(cell, "too large") == (
        *place,
        "68m-7b/c4-greedy",
        "skipped: too large",
        published,
    )
    unknown = replace(cell, growmap=None, figure=None)
    assert outcome_row(unknown, "too large") == (*place, "-", "skipped: too large", "-")
    values = outcome_values(cell, RESULT)
    assert (values["result"]["tree"], values["skipped"]) == ("128x9", None)
    values = outcome_values(cell, "too large")
    assert (values["result"], values["skipped"]) == (None, "too large")
    assert values["paper"]["tokens"] == 5.08
    pytest.importorskip("matplotlib")
    draw_paper(tmp_path / "paper.svg", [(cell, RESULT), (cell, "too large")])
    drawn = (tmp_path / "paper.svg").read_text()
    assert all(word in drawn for word in ("published", "here", "68m-7b, c4, T=0"))
