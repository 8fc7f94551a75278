"""A growmap is a tree: what is derived agrees with the parents, and nothing else gets in."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.errors import GrowMapError
from sequoia_core.tree.growmap import MAX_NODES, GrowMap


@st.composite
def parent_lists(draw: st.DrawFn) -> list[int]:
    """Any tree in any numbering: nodes hang below earlier ones, then all are relabelled."""
    size = draw(st.integers(1, 30))
    parents = [-1] + [draw(st.integers(0, node - 1)) for node in range(1, size)]
    labels = draw(st.permutations(range(size)))
    relabelled = [0] * size
    for node, parent in enumerate(parents):
        relabelled[labels[node]] = -1 if parent < 0 else labels[parent]
    return relabelled


def ancestors_or_self(parents: tuple[int, ...], node: int) -> set[int]:
    found = {node}
    while parents[node] >= 0:
        node = parents[node]
        found.add(node)
    return found


def shape_of(parents: list[int], node: int) -> list[Any]:
    """The subtree as nested lists, which have no numbering."""
    return [shape_of(parents, child) for child, up in enumerate(parents) if up == node]


@settings(deadline=None)
@given(parent_lists())
def test_renumbering_keeps_the_shape_and_is_breadth_first(parents: list[int]) -> None:
    tree = GrowMap(tuple(parents))
    assert shape_of(list(tree.parents), 0) == shape_of(parents, parents.index(-1))
    assert list(tree.parents) == sorted(tree.parents)
    assert GrowMap(tree.parents).parents == tree.parents


@settings(deadline=None)
@given(parent_lists())
def test_everything_derived_agrees_with_the_parents(parents: list[int]) -> None:
    tree = GrowMap(tuple(parents))
    mask = tree.ancestor_mask()
    assert mask.dtype == torch.bool
    for node in range(tree.size):
        line = ancestors_or_self(tree.parents, node)
        assert set(mask[node].nonzero().flatten().tolist()) == line
        assert tree.depths[node] == len(line) - 1
        assert tree.children[node] == tuple(
            child for child in range(tree.size) if tree.parents[child] == node
        )
        assert node in tree.levels[tree.depths[node]]
        if node:
            assert tree.children[tree.parents[node]][tree.ranks[node] - 1] == node
    assert tree.ranks[0] == 0
    assert sum(map(len, tree.levels)) == tree.size
    assert tree.depth == max(tree.depths) == len(tree.levels) - 1
    assert tree.branching == max(map(len, tree.children))


@settings(deadline=None)
@given(parent_lists(), st.lists(st.floats(0, 1), max_size=4))
def test_expected_tokens_is_one_plus_what_each_depth_adds(
    parents: list[int], rates: list[float]
) -> None:
    tree = GrowMap(tuple(parents))
    by_depth = tree.expected_by_depth(rates)
    assert len(by_depth) == tree.depth
    assert tree.expected_tokens(rates) == pytest.approx(1 + sum(by_depth))
    by_path = 0.0
    for node in range(tree.size):
        product = 1.0
        for step in ancestors_or_self(tree.parents, node) - {0}:
            rank = tree.ranks[step]
            product *= rates[rank - 1] if rank <= len(rates) else 0.0
        by_path += product
    assert tree.expected_tokens(rates) == pytest.approx(by_path)


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), max_size=6))
def test_widths_say_how_many_nodes_each_level_has(branches: list[int]) -> None:
    tree = GrowMap.k_ary([*branches, *[1] * 7])
    said = re.findall(r"(\d+)(?: \(x(\d+)\))?", tree.widths())
    levels = [int(width) for width, times in said for _ in range(int(times or 1))]
    assert levels == [len(level) for level in tree.levels]
    assert len(said) <= len(branches) + 1


def test_a_chain_drafts_its_length() -> None:
    chain = GrowMap.chain(4)
    assert (chain.size, chain.depth, chain.branching) == (5, 4, 1)
    assert GrowMap.chain(0).size == 1


def test_k_ary_levels_multiply() -> None:
    tree = GrowMap.k_ary([3, 1, 2])
    assert [len(level) for level in tree.levels] == [1, 3, 3, 6]
    assert {len(tree.children[node]) for node in tree.levels[2]} == {2}


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ((), "empty"),
        ((0,), "0 roots"),
        ((-1, -1), "2 roots"),
        ((-1, 2, 1), "cycle"),
        ((-1, 1), "cycle"),
        ((-1, -2), "outside"),
        ((-1, 2), "outside"),
        ((-1, 10**30), "outside"),
        ((-1, *[0] * MAX_NODES), "65,536"),
    ],
)
def test_what_is_no_tree_is_refused_in_one_line(parents: tuple[int, ...], words: str) -> None:
    with pytest.raises(GrowMapError, match=words) as caught:
        GrowMap(parents)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("branches", "error"),
    [
        ([300, 300], "more than 65,536 nodes"),
        ([10**5, 10**5], "more than 65,536 nodes"),
        ([2, -1], "-1 children of a node; there are 0 or more"),
        ([10**5, -1], "more than 65,536 nodes"),
    ],
)
def test_levels_that_make_no_tree_are_refused_before_they_are_listed(
    branches: list[int], error: str
) -> None:
    with pytest.raises(GrowMapError, match=f"^{error}$"):
        GrowMap.k_ary(branches)


def test_parents_may_be_an_array_and_rates_a_generator() -> None:
    parents: Any = np.array([-1, 0, 0])
    rates: Any = (rate / 10 for rate in (6, 2))
    assert GrowMap(parents, acceptance_rates=rates) == GrowMap(
        (-1, 0, 0), acceptance_rates=(0.6, 0.2)
    )


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_rate_must_be_a_probability(rate: float) -> None:
    with pytest.raises(GrowMapError, match="probability"):
        GrowMap((-1,), acceptance_rates=(rate,))


def test_a_name_cannot_carry_terminal_escapes() -> None:
    with pytest.raises(GrowMapError, match="printable"):
        GrowMap((-1,), name="\x1b[31mred")
