"""The release's search: its config file, its choice value for value, and what is refused of it."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sequoia_core.errors import GrowMapError, ParameterError
from sequoia_core.tree.budget_search import (
    Candidate,
    SearchConfig,
    SearchFile,
    SearchResult,
    paired,
    search,
)
from sequoia_core.tree.files import load_growmap, save_growmap
from sequoia_core.tree.search import choose_tree, expected_tokens_table

VALUES: dict[str, Any] = {
    "acceptance_rate_vector": "vector.pt",
    "max_depth": 4,
    "max_budget": 16,
    "draft_time": 0.5,
    "valid_budget": [1, 4, 16],
    "target_time": [10, 11, 14.5],
    "dst": "tree.pt",
}


def exact_values(rates: Sequence[float], nodes: int, levels: int) -> dict[tuple[int, int], float]:
    """The release's recurrence: trees of exactly n nodes and at most so many levels."""
    worst = float("-inf")
    exact: dict[tuple[int, int, int], float] = {}
    for level in range(1, levels + 1):
        exact[1, level, 0] = 1.0
    for n in range(2, nodes + 1):
        for level in range(2, levels + 1):
            for b in range(1, len(rates) + 1):
                options = [
                    exact.get((y, level, b - 1), worst)
                    + rates[b - 1]
                    * max(
                        exact.get((n - y, level - 1, c), worst) if n > y else worst
                        for c in range(len(rates) + 1)
                    )
                    for y in range(1, n)
                    if any((n - y, level - 1, c) in exact for c in range(len(rates) + 1))
                ]
                best = max(options, default=worst)
                if best > worst:
                    exact[n, level, b] = best
    found: dict[tuple[int, int], float] = {}
    for (n, level, _), value in exact.items():
        found[n, level] = max(found.get((n, level), worst), value)
    return found


def release_choice(config: SearchConfig) -> tuple[tuple[int, int], float]:
    """Its loop over budgets and levels, the first of the best: (nodes, levels), ms a token."""
    values = exact_values(config.rates[0], config.max_budget, config.max_depth)
    best, chosen = float("inf"), (0, 0)
    for nodes, target_ms in config.target_time.items():
        for levels in range(1, config.max_depth + 1):
            if (nodes, levels) in values:
                ms = (levels * config.draft_time + target_ms) / values[nodes, levels]
                if ms < best:
                    best, chosen = ms, (nodes, levels)
    return chosen, best


@pytest.mark.parametrize("seed", range(12))
def test_candidates_and_choice_are_the_releases(seed: int) -> None:
    rng = random.Random(seed)
    rates = [rng.random() for _ in range(rng.randint(1, 4))]
    rates = [rate / (sum(rates) + 0.2) for rate in rates]
    budgets = sorted(rng.sample(range(1, 15), 5))
    config = SearchConfig(
        (tuple(rates),), rng.randint(1, 5), 14, rng.choice([0.0, 0.3, 2.0]),
        {nodes: 10 + rng.random() * nodes for nodes in budgets},
    )  # fmt: skip
    values = exact_values(rates, 14, config.max_depth)
    expected = {key: value for key, value in values.items() if key[0] in budgets}
    if not expected:
        with pytest.raises(ParameterError, match="raise max_depth"):
            search(config)
        return
    result = search(config)
    found = {(each.nodes, each.levels): each.expected_tokens for each in result.candidates}
    assert found == pytest.approx(expected)
    chosen, ms = release_choice(config)
    assert (result.best.nodes, result.best.levels) == chosen
    assert result.best.ms_per_token == pytest.approx(ms)
    assert result.tree.expected_tokens(rates) == pytest.approx(result.best.expected_tokens)
    assert result.tree.size <= chosen[0]
    assert result.tree.depth + 1 <= chosen[1]
    assert result.tree.branching <= len(rates)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_the_machines_own_search_with_a_pass_more(seed: int) -> None:
    rng = random.Random(seed)
    rates = sorted((rng.random() / 3 for _ in range(3)), reverse=True)
    times = {nodes: 10 + rng.random() * nodes for nodes in (1, 2, 4, 8, 16)}
    config = SearchConfig((tuple(rates),), 6, 16, 0.4, times)
    result = search(config)
    table = expected_tokens_table(rates, 16, 5, 3)
    plan = choose_tree(table, times.__getitem__, lambda _rows: 0.4, times[1], 0.4, times)
    assert plan.predicted_speedup == pytest.approx(result.speedup(result.best))
    assert plan.tree.parents == result.tree.parents


def test_a_draft_that_is_never_right_leaves_plain_decoding() -> None:
    result = search(SearchConfig(((0.0, 0.0),), 5, 8, 0.3, {1: 10.0, 8: 12.0}))
    assert (result.tree.size, result.best) == (1, Candidate(1, 1, 1.0, 10.3))
    assert result.speedup(result.best) < 1


def test_a_speedup_is_over_one_node_or_else_over_the_first_budget() -> None:
    times = {8: 12.0, 1: 10.0, 4: 11.0}
    result = search(SearchConfig(((0.5,),), 3, 8, 0.0, times))
    assert result.plain_ms == 10.0
    assert result.best_of(8) is None  # a chain of three levels has three nodes
    assert result.best_of(1) == Candidate(1, 1, 1.0, 10.0)
    without = SearchConfig(((0.5, 0.2),), 3, 8, 0.0, {4: 11.0, 2: 10.0})
    assert search(without).plain_ms == 11.0
    assert without.plain_nodes == 4


@pytest.mark.parametrize("seed", range(8))
def test_rates_that_are_the_same_at_every_depth_give_the_tree_of_one_vector(seed: int) -> None:
    rng = random.Random(seed)
    rates = tuple(sorted((rng.random() / 4 for _ in range(4)), reverse=True))
    times = {nodes: 10 + rng.random() * nodes for nodes in (1, 4, 16)}
    one, alike = (
        search(SearchConfig((rates,) * depths, 6, 16, 0.4, times), "given") for depths in (1, 3)
    )
    assert alike.candidates == one.candidates
    assert alike.tree.parents == one.tree.parents
    assert one.tree == replace(alike.tree, deeper_rates=())


def test_rates_that_fall_with_depth_give_a_shallower_tree_and_say_what_it_expects() -> None:
    times = {1: 10.0, 8: 10.5}
    rates, below = (0.7, 0.1, 0.08, 0.05), (0.2, 0.1)
    one = search(SearchConfig((rates,), 8, 8, 0.1, times))
    by_depth = search(SearchConfig((rates, below), 8, 8, 0.1, times))
    assert by_depth.tree.depth < one.tree.depth
    tree = by_depth.tree
    assert (tree.acceptance_rates, tree.deeper_rates) == (rates, (below,))
    assert tree.expected_tokens(rates, [below]) == pytest.approx(by_depth.best.expected_tokens)
    assert tree.expected_tokens(rates, [below]) > one.tree.expected_tokens(rates, [below])


def test_a_full_tree_is_as_wide_as_the_rates_of_each_depth() -> None:
    """Of one child and then of three, a tree of two levels has 2 nodes, of three 5."""
    rates = ((0.5,), (0.3, 0.2, 0.1))
    found = search(SearchConfig(rates, 4, 5, 0.1, {1: 10.0, 2: 10.1, 5: 10.2}))
    levels = {
        nodes: [each.levels for each in found.candidates if each.nodes == nodes] for nodes in (2, 5)
    }
    assert levels == {2: [2, 3, 4], 5: [3, 4]}


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(torch.tensor([0.0, 0.6, 0.1, 0.05, 0.25]), folder / "vector.pt")
    values = {**VALUES, **changes}
    path = folder / "config.json"
    path.write_text(json.dumps({key: each for key, each in values.items() if each is not ...}))
    return path


def test_a_config_is_read_with_its_paths_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "configs"
    file = SearchFile.read(write_config(folder))
    assert (file.vector, file.dst) == (folder / "vector.pt", folder / "tree.pt")
    assert file.config == SearchConfig(
        (tuple(torch.tensor([0.6, 0.1, 0.05]).tolist()),), 4, 16, 0.5, {1: 10.0, 4: 11.0, 16: 14.5}
    )
    elsewhere = tmp_path / "here"
    write_config(elsewhere)
    monkeypatch.chdir(elsewhere)
    (folder / "vector.pt").unlink()
    assert SearchFile.read(folder / "config.json").vector == Path("vector.pt")
    absolute = write_config(folder, dst=str(tmp_path / "a.json"))
    assert SearchFile.read(absolute).dst == tmp_path / "a.json"
    missing = write_config(folder, dst="no/such/tree.pt")
    assert SearchFile.read(missing).dst == Path("no/such/tree.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_depth": ...}, "`max_depth`"),
        ({"dst": ...}, "`dst`"),
        ({"valid_budget": [1, 4]}, '"valid_budget" has 2 entries and "target_time" 3'),
        ({"valid_budget": [1, 4, 4]}, "names 4 nodes twice"),
        ({"valid_budget": [0, 4, 16]}, "0 nodes, which is not from 1 to max_budget"),
        ({"valid_budget": [1, 4, 17]}, "17 nodes, which is not from 1 to max_budget, 16"),
        ({"valid_budget": [1, 4.5, 16]}, r"int.*valid_budget"),
        ({"valid_budget": [], "target_time": []}, "valid_budget is empty"),
        ({"target_time": [10, "11", 14]}, r"float.*target_time"),
        ({"target_time": [10, 0, 14]}, "target_time of 4 nodes is 0.0"),
        ({"target_time": [10, float("nan"), 14]}, "target_time of 4 nodes is nan"),
        ({"target_time": 10}, r"array.*target_time"),
        ({"max_depth": "10"}, r"int.*str.*max_depth"),
        ({"max_depth": True}, r"int.*bool.*max_depth"),
        ({"max_depth": 0}, "max_depth is 0"),
        ({"max_depth": 257}, "max_depth is 257"),
        ({"max_budget": 5000}, "max_budget is 5000; give 1 to 4096"),
        ({"draft_time": None}, r"float.*null.*draft_time"),
        ({"draft_time": -1}, "draft_time is -1"),
        ({"draft_time": float("inf")}, "draft_time is inf"),
        ({"dst": 3}, r"str.*int.*dst"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_its_entry(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write_config(tmp_path, **changes)
    with pytest.raises(ParameterError, match=message) as refused:
        SearchFile.read(path)
    assert str(refused.value).startswith(f"search config {path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it cannot be read: No such file"),
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "object"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParameterError, match=message):
        SearchFile.read(path)


def test_a_vector_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(GrowMapError, match=r"acceptance vector nowhere\.pt: No such file"):
        SearchFile.read(write_config(tmp_path, acceptance_rate_vector="nowhere.pt"))


def test_without_rates_there_is_nothing_to_search_with() -> None:
    with pytest.raises(ParameterError, match="no acceptance rate"):
        SearchConfig((), 3, 8, 0.3, {1: 1.0})


def test_a_config_may_name_a_vector_with_depths(tmp_path: Path) -> None:
    path = write_config(tmp_path, acceptance_rate_vector="rates.json")
    saved = {"acceptance_rates": [0.6, 0.1], "deeper_rates": [[0.4, 0.1], [0.2]]}
    (tmp_path / "rates.json").write_text(json.dumps(saved))
    assert SearchFile.read(path).config.rates == ((0.6, 0.1), (0.4, 0.1), (0.2,))


def test_lists_are_paired() -> None:
    assert paired([1, 4], [10, 11.5]) == {1: 10.0, 4: 11.5}


def found_in(folder: Path) -> tuple[SearchFile, SearchResult]:
    file = SearchFile.read(folder / "demo-config.json")
    return file, search(file.config)


def test_the_references_demo_gets_the_references_tree_value_for_value(
    reference_folder: Path, tmp_path: Path
) -> None:
    file, result = found_in(reference_folder)
    assert (result.best.nodes, result.best.levels) == (4, 4)
    save_growmap(result.tree, tmp_path / "tree.pt")
    ours, theirs = (
        torch.load(path, map_location="cpu", weights_only=True)
        for path in (tmp_path / "tree.pt", file.dst)
    )
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        same = torch.equal(value, ours[key]) if torch.is_tensor(value) else value == ours[key]
        assert same, key
    assert load_growmap(file.dst).parents == result.tree.parents
