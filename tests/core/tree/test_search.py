"""The search is exact: it equals the plain recurrence, and no tree beats it."""

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from sequoia_core.errors import ParameterError
from sequoia_core.tree.files import find_growmap, growmap_names, load_growmap, read_acceptance_rates
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import LikeliestTrees, choose_tree, expected_tokens_table

GROWMAPS = Path(__file__).parents[3] / "growmaps"


def naive_best(rates: list[float], nodes: int, depth: int, branches: int) -> float:
    """Most expected tokens with at most `nodes` nodes and `depth` edges, as the paper's recurrence.

    `exactly(n, d, b)` is the best tree of n nodes whose root has b children: the last child takes
    some of the nodes, a tree with b - 1 children the others.
    """

    @functools.cache
    def exactly(n: int, d: int, b: int) -> float:
        if b == 0:
            return 1.0 if n == 1 else -np.inf
        if d == 0 or b > len(rates):
            return -np.inf
        return max(
            (exactly(n - y, d, b - 1) + rates[b - 1] * any_root(y, d - 1) for y in range(1, n)),
            default=-np.inf,
        )

    @functools.cache
    def any_root(n: int, d: int) -> float:
        return max(exactly(n, d, b) for b in range(branches + 1))

    return max(any_root(n, depth) for n in range(1, nodes + 1))


def random_rates(seed: int) -> list[float]:
    """Every third vector falls; the others rise and fall, with zeros."""
    generator = random.Random(seed)
    rates = [generator.random() * generator.choice([0, 1, 1]) for _ in range(5)]
    return sorted(rates, reverse=True) if seed % 3 == 0 else rates


@pytest.mark.parametrize("seed", range(12))
def test_every_value_equals_the_plain_recurrence(seed: int) -> None:
    rates, branches = random_rates(seed), 1 + seed % 6
    table = expected_tokens_table(rates, 13, 5, branches)
    for nodes in range(1, 14):
        for depth in range(6):
            naive = naive_best(rates, nodes, depth, branches)
            assert table.values[nodes, depth] == pytest.approx(naive, rel=1e-12)


def test_the_reference_vector_gives_the_values_of_the_plain_recurrence(
    reference_folder: Path,
) -> None:
    (vector,) = read_acceptance_rates(reference_folder / "acceptance-rate-vector.pt")
    rates = list(vector)
    table = expected_tokens_table(rates, 32, 10, 32)
    naive = [[naive_best(rates, n, d, 32) for d in (0, 1, 3, 10)] for n in (1, 2, 7, 19, 32)]
    assert table.values[np.ix_([1, 2, 7, 19, 32], [0, 1, 3, 10])] == pytest.approx(np.array(naive))


@pytest.mark.parametrize("seed", range(4))
def test_no_tree_of_up_to_seven_nodes_beats_the_table(seed: int) -> None:
    rates = random_rates(seed)[:3]
    best: dict[tuple[int, int], float] = {}
    parent_lists: list[tuple[int, ...]] = [(-1,)]
    for size in range(1, 8):
        for parents in parent_lists:
            tree = GrowMap(parents)
            if tree.branching <= 3:
                key = (size, tree.depth)
                best[key] = max(best.get(key, 0.0), tree.expected_tokens(rates))
        parent_lists = [
            (*parents, up) for parents in parent_lists for up in range(max(parents[-1], 0), size)
        ]
    table = expected_tokens_table(rates, 7, 6, 3)
    for nodes in range(1, 8):
        for depth in range(7):
            brute = max(value for (n, d), value in best.items() if n <= nodes and d <= depth)
            assert table.values[nodes, depth] == pytest.approx(brute, rel=1e-12)


@functools.cache
def trees_of(size: int) -> tuple[GrowMap, ...]:
    """Every shape of so many nodes, some of them twice."""
    if size == 1:
        return (GrowMap((-1,)),)
    smaller = (tree.parents for tree in trees_of(size - 1))
    grown = ((*parents, up) for parents in smaller for up in range(max(parents[-1], 0), size - 1))
    return tuple(map(GrowMap, grown))


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_no_tree_beats_the_table_where_rates_differ_by_depth(seed: int, levels: int) -> None:
    rates, deeper = (
        random_rates(seed)[:3],
        [random_rates(seed + at + 1)[:3] for at in range(levels)],
    )
    table = expected_tokens_table(rates, 7, 6, 3, deeper)
    worth = [
        (tree, tree.expected_tokens(rates, deeper)) for n in range(1, 8) for tree in trees_of(n)
    ]
    for nodes in range(1, 8):
        for depth in range(7):
            brute = max(
                value
                for tree, value in worth
                if tree.size <= nodes and tree.depth <= depth and tree.branching <= 3
            )
            assert table.values[nodes, depth] == pytest.approx(brute, rel=1e-12)
            tree = table.tree(nodes, depth)
            assert (tree.size <= nodes, tree.depth <= depth) == (True, True)
            assert tree.expected_tokens(rates, deeper) == pytest.approx(brute, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_equal_rates_at_every_depth_are_the_positional_model(seed: int) -> None:
    rates = random_rates(seed)
    plain = expected_tokens_table(rates, 24, 6, 4)
    deep = expected_tokens_table(rates, 24, 6, 4, [rates] * 3)
    assert (deep.values == plain.values).all()
    assert deep.tree(24, 6).parents == plain.tree(24, 6).parents


def test_a_draft_that_is_never_right_below_the_first_level_gets_no_second_one() -> None:
    table = expected_tokens_table([0.5, 0.3, 0.1], 20, 5, 8, [[0.0, 0.0]])
    assert table.tree(20, 5).parents == (-1, 0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_is_worth_what_the_table_says_within_its_budget(seed: int) -> None:
    rates = random_rates(seed)
    table = expected_tokens_table(rates, 40, 6, 4)
    for nodes in (1, 2, 3, 9, 40):
        for depth in range(7):
            tree = table.tree(nodes, depth)
            assert tree.size <= nodes
            assert tree.depth <= depth
            assert tree.branching <= 4
            assert tree.expected_tokens(rates) == pytest.approx(table.values[nodes, depth])


@pytest.mark.parametrize("seed", range(12))
def test_where_rates_fall_the_likeliest_nodes_are_the_best_trees(seed: int) -> None:
    generator = random.Random(seed)
    by_depth = [sorted(random_rates(seed + at), reverse=True) for at in range(1 + seed % 3)]
    rates, deeper, branches = by_depth[0], by_depth[1:], generator.choice([1, 2, 40])
    table = expected_tokens_table(rates, 40, 6, branches, deeper)
    found = LikeliestTrees.of(rates, 40, 6, branches, deeper)
    assert found.limits == table.limits
    np.testing.assert_allclose(found.values, table.values, rtol=1e-12)
    for nodes, depth in ((1, 3), (7, 2), (23, 0), (40, 6)):
        tree = found.tree(nodes, depth)
        assert tree.size <= nodes
        assert tree.depth <= depth
        assert tree.branching <= branches
        assert tree.expected_tokens(rates, deeper) == pytest.approx(table.values[nodes, depth])
        exact = table.tree(nodes, depth)
        assert tree.acceptance_rates == exact.acceptance_rates
        assert tree.deeper_rates == exact.deeper_rates


@pytest.mark.parametrize("seed", range(12))
def test_where_rates_rise_they_are_evened_out_for_it(seed: int) -> None:
    """So nothing is skipped that must be there, and about the best tree is found."""
    noise = random.Random(seed)
    rates = [noise.uniform(0.7, 1.3) * rate for rate in (0.5, 0.1, 0.07, 0.05, 0.04, 0.03, 0.03)]
    exact = expected_tokens_table(rates, 60, 6, 60)
    tree = LikeliestTrees.of(rates, 60, 6, 60).tree(60, 6)
    assert 0.99 * exact.values[60, 6] <= tree.expected_tokens(rates)
    assert tree.expected_tokens(rates) <= exact.values[60, 6] + 1e-9


def test_the_likeliest_nodes_make_trees_of_the_size_of_the_published_ones() -> None:
    rates = (0.6, 0.15, 0.07, 0.04, 0.02, 0.01)
    found = LikeliestTrees.of(rates, 768, 18, 768)
    tree = found.tree(768, 18)
    assert (tree.size, tree.name) == (768, f"searched-768x{tree.depth}")
    assert tree.expected_tokens(rates) == pytest.approx(found.values[768, 18])
    free = choose_tree(found, lambda _: 1.0, lambda _: 1e-6, 1.0)
    assert free.tree.size == 768


def test_values_never_fall_with_a_larger_budget() -> None:
    values = expected_tokens_table(random_rates(7), 60, 8, 5).values
    assert (np.diff(values, axis=0) >= 0).all()
    assert (np.diff(values, axis=1) >= 0).all()


def test_nodes_that_add_nothing_are_left_out() -> None:
    assert expected_tokens_table([0.0, 0.0], 20, 4, 2).tree(20, 4).size == 1
    assert (
        expected_tokens_table([1.0], 20, 4, 3).tree(20, 9 - 5).parents == GrowMap.chain(4).parents
    )


def test_a_lower_rank_may_be_worth_its_idle_elder_sibling() -> None:
    table = expected_tokens_table([0.0, 0.9], 3, 1, 2)
    assert table.values[3, 1] == pytest.approx(1.9)
    assert table.values[2, 1] == 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        ([0.5], 0, 1, 1),
        ([0.5], 4097, 1, 1),
        ([0.5], 2, -1, 1),
        ([0.5], 2, 1, 0),
        ([1.5], 2, 1, 1),
        ([float("nan")], 2, 1, 1),
    ],
)
def test_budgets_and_rates_out_of_range_are_refused(
    arguments: tuple[list[float], int, int, int],
) -> None:
    with pytest.raises(ParameterError):
        expected_tokens_table(*arguments)


@pytest.mark.parametrize(("nodes", "depth"), [(0, 1), (6, 1), (2, -1), (2, 4)])
def test_a_tree_outside_the_table_is_refused(nodes: int, depth: int) -> None:
    with pytest.raises(ParameterError, match="the table holds"):
        expected_tokens_table([0.5], 5, 3, 1).tree(nodes, depth)


def test_the_choice_is_the_maximum_over_all_sizes_and_depths() -> None:
    rates = [0.6, 0.2, 0.1]
    table = expected_tokens_table(rates, 24, 6, 3)

    def speedup(tokens: float, nodes: int, depth: int) -> float:
        return tokens * 20.0 / (20.0 + 0.4 * nodes + 0.5 + depth * 1.5)

    plan = choose_tree(table, lambda nodes: 20.0 + 0.4 * nodes, lambda _: 1.5, 20.0, 0.5)
    everything = [
        speedup(float(table.values[n, d]), n, d) for n in range(2, 25) for d in range(1, 7)
    ]
    assert plan.predicted_speedup == pytest.approx(max(everything))
    assert plan.growmap is not None
    tree = plan.growmap
    assert tree.expected_tokens(rates) == pytest.approx(plan.expected_tokens)
    assert speedup(plan.expected_tokens, tree.size, tree.depth) == pytest.approx(max(everything))
    assert plan.expected_tokens * 20.0 / plan.step_ms == pytest.approx(plan.predicted_speedup)


def test_a_cost_per_drafted_row_counts_the_nodes_that_have_children() -> None:
    table = expected_tokens_table([0.5, 0.3], 12, 4, 2)
    plan = choose_tree(table, lambda _: 11.0, lambda rows: 0.01 * rows, 10.0, sizes=[12])
    assert plan.growmap is not None
    inner = sum(1 for row in plan.growmap.children if row)
    assert plan.step_ms == pytest.approx(11.0 + 0.01 * inner)


def test_the_early_end_of_the_search_misses_nothing() -> None:
    table = expected_tokens_table([0.5, 0.3, 0.1], 16, 5, 3)

    def speedup(nodes: int, depth: int) -> float:
        tree = table.tree(nodes, depth)
        drafting = sum(
            1.0 + 0.2 * sum(1 for node in level if tree.children[node])
            for level in tree.levels[:-1]
        )
        return float(table.values[nodes, depth]) * 10 / (10 + nodes / 4 + drafting)

    plan = choose_tree(table, lambda nodes: 10 + nodes / 4, lambda rows: 1.0 + 0.2 * rows, 10.0)
    everything = [speedup(nodes, depth) for nodes in range(2, 17) for depth in range(1, 6)]
    assert plan.predicted_speedup == pytest.approx(max(everything))


@pytest.mark.parametrize("seed", range(12))
def test_no_budget_beats_the_choice_whatever_passes_cost(seed: int) -> None:
    """Also where three rows are cheaper to draft than two, and rates differ by depth."""
    generator = random.Random(seed)
    rates = random_rates(seed)[:4]
    deeper = [random_rates(seed + at + 1)[:3] for at in range(seed % 3)]
    row, width, overhead = (generator.random() for _ in range(3))
    table = expected_tokens_table(rates, 16, 5, 4, deeper)

    def target_ms(nodes: int) -> float:
        return 10.0 + row * nodes

    def draft_ms(rows: int) -> float:
        return 1.0 + 0.3 * width * rows - (0.4 if rows == 3 else 0.0)

    def speedup(tree: GrowMap) -> float:
        inner = (sum(1 for node in level if tree.children[node]) for level in tree.levels[:-1])
        step_ms = target_ms(tree.size) + overhead + sum(map(draft_ms, inner))
        return tree.expected_tokens(rates, deeper) * 10.5 / step_ms

    plan = choose_tree(table, target_ms, draft_ms, 10.5, overhead)
    # a budget that is not used up is charged for all its rows: its tree is met at its own size
    trees = [table.tree(nodes, depth) for nodes in range(2, 17) for depth in range(1, 6)]
    best = max(speedup(tree) for tree in trees if tree.size > 1)
    assert plan.predicted_speedup == pytest.approx(best)


def test_only_measured_or_wanted_sizes_are_considered() -> None:
    table = expected_tokens_table([0.9], 32, 20, 1)
    times = {1: 10.0, 4: 10.0, 8: 10.0, 64: 1.0}
    plan = choose_tree(table, times.__getitem__, lambda _: 0.1, 10.0, sizes=times)
    assert plan.growmap is not None
    assert plan.growmap.size == 8
    plan = choose_tree(table, lambda _: 10.0, lambda _: 0.1, 10.0, sizes=[3, 4])
    assert plan.growmap is not None
    assert plan.growmap.size == 4


def test_plain_decoding_wins_where_no_tree_pays() -> None:
    table = expected_tokens_table([0.3, 0.1], 16, 4, 2)
    plan = choose_tree(table, lambda nodes: 10.0 * nodes, lambda _: 5.0, 10.0)
    assert plan.growmap is None
    assert 0 < plan.predicted_speedup < 1
    assert plan.expected_tokens > 1


def test_a_choice_without_candidates_or_times_is_refused() -> None:
    table = expected_tokens_table([0.5], 8, 2, 1)
    with pytest.raises(ParameterError, match="no tree"):
        choose_tree(table, lambda _: 10.0, lambda _: 1.0, 10.0, sizes=[1, 99])
    flat = expected_tokens_table([0.5], 8, 0, 1)
    with pytest.raises(ParameterError, match="no tree"):
        choose_tree(flat, lambda _: 10.0, lambda _: 1.0, 10.0)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="measured time"):
            choose_tree(table, {4: bad}.__getitem__, lambda _: 1.0, 10.0, sizes=[4])


def test_the_reference_configuration_gets_a_tree_as_good_as_the_reference_chose(
    reference_folder: Path,
) -> None:
    config = json.loads((reference_folder / "demo-config.json").read_text())
    (rates,) = read_acceptance_rates(reference_folder / config["acceptance_rate_vector"])
    theirs = load_growmap(reference_folder / config["dst"])
    times = dict(zip(config["valid_budget"], config["target_time"], strict=True))
    table = expected_tokens_table(rates, config["max_budget"], config["max_depth"], 32)
    plan = choose_tree(
        table, times.__getitem__, lambda _: config["draft_time"], times[1], sizes=times
    )
    their_step = times[theirs.size] + theirs.depth * config["draft_time"]
    their_speedup = theirs.expected_tokens(rates) * times[1] / their_step
    assert plan.predicted_speedup >= their_speedup * (1 - 1e-12)


@pytest.mark.parametrize(
    "name", [name for name in growmap_names() if find_growmap(name).acceptance_rates]
)
def test_packaged_shapes_with_rates_are_optimal(name: str) -> None:
    tree = find_growmap(name)
    rates = tree.acceptance_rates
    table = expected_tokens_table(rates, tree.size, tree.depth, len(rates))
    assert tree.expected_tokens(rates) == pytest.approx(table.values[tree.size, tree.depth])


def test_the_call_in_the_growmaps_readme_makes_the_packaged_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (GROWMAPS / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "growmaps/README.md", "exec"), {})
    made = load_growmap(tmp_path / "greedy-16x4.json")
    assert made == find_growmap("smollm2-135m/greedy-16x4")
