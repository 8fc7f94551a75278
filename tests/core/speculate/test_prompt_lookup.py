"""Continuations come from the longest earlier match, and are tried as far as they were right.

A tree with one appended is the drafted tree and a path of known tokens, and nothing else.
"""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequoia_core.config import Lookup
from sequoia_core.speculate.adaptive_policy import LookupPath
from sequoia_core.speculate.appended_path import append_path
from sequoia_core.speculate.cost_model import CostModel
from sequoia_core.speculate.draft import DraftModel, GrowPlan, grow, top_children
from sequoia_core.speculate.prompt_lookup import LONGEST, PromptLookup, TokenIndex
from sequoia_core.speculate.token_tree import TokenTree, TreeLayout
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.models import TableModel

CPU = torch.device("cpu")

TEXT = st.lists(st.integers(0, 3), max_size=40)
MATCHED = 12


def longest_match(ids: Sequence[int]) -> int:
    """How many last tokens an earlier place shares, by looking everywhere; 0 below two."""
    best = 0
    for place in range(2, len(ids)):
        length = 0
        while length < min(place, MATCHED) and ids[place - length - 1] == ids[-length - 1]:
            length += 1
        best = max(best, length)
    return best if best > 1 else 0


@given(texts=st.lists(st.tuples(st.integers(0, 40), TEXT), min_size=1, max_size=5))
@example(texts=[(0, [1, 2, 3, 1, 2]), (3, [1]), (0, [1, 2])])
@settings(max_examples=150, deadline=None)
def test_the_index_is_that_of_the_last_list_whatever_it_followed_before(
    texts: list[tuple[int, list[int]]],
) -> None:
    index, ids = TokenIndex(), list[int]()
    for kept, added in texts:  # rolled back to somewhere, then extended
        ids = [*ids[:kept], *added]
        index.follow(ids)
        fresh = TokenIndex()
        fresh.follow(ids)
        assert index.find() == fresh.find()
        assert index._places == fresh._places


@given(ids=TEXT)
@settings(max_examples=200, deadline=None)
def test_a_continuation_followed_the_longest_of_the_latest_matches(ids: list[int]) -> None:
    index = TokenIndex()
    index.follow(ids)
    found = index.find()
    assert found.matched <= longest_match(ids)
    if ids and sum(pair == (ids[-2:-1], ids[-1:]) for pair in pairs(ids)) <= 12:
        assert found.matched == longest_match(ids)
    if not found.matched:
        assert found.token_ids == ()
        return
    # from some earlier place on, the text followed by its own continuation reads the same
    longer = [*ids, *found.token_ids]
    assert len(found.token_ids) == LONGEST
    assert any(
        longer[place - found.matched : place + LONGEST] == longer[len(ids) - found.matched :]
        for place in range(found.matched, len(ids))
    )


def pairs(ids: Sequence[int]) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [(ids[at : at + 1], ids[at + 1 : at + 2]) for at in range(len(ids) - 1)]


def test_a_loop_goes_on_with_itself() -> None:
    index = TokenIndex()
    index.follow([7, 1, 2, 3, 1, 2, 3])
    assert index.find().token_ids[:8] == (1, 2, 3, 1, 2, 3, 1, 2)


def follow(lookups: PromptLookup, text: Sequence[int], use: Lookup, start: int) -> list[LookupPath]:
    """Propose before each token of a text and learn from the tokens that came."""
    proposed = []
    for at in range(start, len(text) - LONGEST):
        proposed.append(lookups.propose(text[:at], use, LONGEST))
        lookups.learn(text[at : at + LONGEST])
    return proposed


def test_auto_is_taken_in_by_nothing_twice_and_by_what_repeats_always() -> None:
    lookups = PromptLookup(CostModel())
    loop = [1, 2, 3, 4, 5, 6, 7, 8] * 12
    assert all(each.token_ids for each in follow(lookups, loop, Lookup.AUTO, 40)[8:])
    # the same two tokens again and again, followed by another each time
    misleading = [token for at in range(400) for token in (1, 2, 10 + at)]
    lookups = PromptLookup(CostModel())
    proposed = follow(lookups, misleading, Lookup.AUTO, 100)
    assert not any(each.token_ids for each in proposed[300:])


def test_off_proposes_nothing_and_on_whatever_is_found() -> None:
    loop = [1, 2, 3] * 5
    for use, length in ((Lookup.OFF, 0), (Lookup.ON, 6)):
        assert len(PromptLookup(CostModel()).propose(loop, use, 6).token_ids) == length


def test_a_continuation_ends_with_what_ends_an_answer() -> None:
    lookups = PromptLookup(CostModel(), frozenset({3}))
    assert lookups.propose([1, 2, 3, 4, 1, 2], Lookup.ON, 6).token_ids == (3,)


def test_what_is_found_but_not_tried_is_learnt_from_all_the_same() -> None:
    lookups = PromptLookup(CostModel())
    before = lookups.estimate(2)
    for _ in range(50):
        assert lookups.propose([1, 2, 3, 4, 1, 2], Lookup.ON, 0).token_ids == ()
        lookups.learn([9])
    assert lookups.estimate(2) < before / 5


@given(matched=st.integers(2, 40), hits=st.lists(st.booleans(), max_size=60))
def test_estimates_are_probabilities_that_go_with_the_hits(matched: int, hits: list[bool]) -> None:
    lookups = PromptLookup(CostModel())
    text = [*range(100, 100 + min(matched, MATCHED)), 5]
    prompt = [*text, 50, *text[:-1]]
    for hit in hits:
        before = lookups.estimate(matched)
        lookups.propose(prompt, Lookup.ON, 1)
        lookups.learn([5 if hit else 6])
        after = lookups.estimate(matched)
        assert 0 < after < 1
        assert (after > before) == hit


@pytest.mark.parametrize("use", [Lookup.ON, Lookup.AUTO])
def test_probabilities_fall_along_a_continuation(use: Lookup) -> None:
    known = PromptLookup(CostModel()).propose([1, 2, 3, 4, 5, 6, 7] * 4, use, LONGEST)
    assert len(known.probs) == len(known.token_ids) > 3
    assert list(known.probs) == sorted(known.probs, reverse=True)
    assert all(0 < prob < 1 for prob in known.probs)


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens that lead to each node."""
    paths: list[tuple[int, ...]] = [()]
    for parent, token in zip(tree.growmap.parents[1:], tree.on_host().token_ids[1:], strict=True):
        paths.append((*paths[parent], token))
    return paths


@given(
    parents=st.lists(st.integers(0, 30), max_size=9),
    known=st.lists(st.integers(0, 10), max_size=5),
    follow=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_an_appended_path_is_added_and_every_drawn_node_kept(
    parents: list[int], known: list[int], follow: int, seed: int
) -> None:
    model = TableModel(11, seed)
    plan = GrowPlan(tree_of(parents), CPU)
    drafted = grow(DraftModel(model), plan, torch.tensor([2]), model.new_cache(), top_children)
    deepest = paths_of(drafted)[-1]
    known = [*deepest[:follow], *known]  # some of it runs along the tree
    tree = append_path(drafted, known)
    drawn, paths = paths_of(drafted), paths_of(tree)
    prefixes = {tuple(known[:length]) for length in range(len(known) + 1)}
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(drawn) | prefixes
    assert {paths[node] for node in tree.appended} == prefixes - set(drawn)
    for node in tree.appended:
        siblings = tree.growmap.children[tree.growmap.parents[node]]
        assert siblings[-1] == node
        assert node not in tree.inner_rows
    for node, path in enumerate(drawn):
        same = paths.index(path)
        assert tree.on_host().draft_prob[same] == drafted.on_host().draft_prob[node]
        assert tree.on_host().columns[same] == drafted.on_host().columns[node]
        assert tree.inner_rows.get(same) == drafted.inner_rows.get(node)
    # numbered as a shape must be, so that what is built without checks equals what is checked
    checked = GrowMap(tree.growmap.parents, tree.growmap.name)
    assert checked == tree.growmap
    for field in ("size", "depths", "depth", "levels", "children", "ranks", "branching"):
        assert getattr(checked, field) == getattr(tree.growmap, field)
    layout = TreeLayout(tree.growmap, CPU)
    assert layout.parents.tolist() == [0, *tree.growmap.parents[1:]]
    assert torch.equal(layout.mask, tree.growmap.ancestor_mask())
    assert layout.depths.tolist() == list(tree.growmap.depths)
