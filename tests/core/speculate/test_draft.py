"""A drafted tree: each level's children come from the draft's own distribution at their parent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.config import SamplingParams
from sequoia_core.speculate.draft import DraftModel, GrowPlan, SampledChildren, grow, top_children
from sequoia_core.speculate.token_tree import TokenTree
from tests.core.engines import tree_of
from tests.core.models import RowCache, TableModel

CPU = torch.device("cpu")
PARENTS = st.lists(st.integers(0, 30), max_size=9)
IDS = torch.tensor([1, 4, 5, 8, 9, 11, 12, 15, 17, 18])


def sequences(tree: TokenTree, context: list[int]) -> list[list[int]]:
    """What each node stands after, itself included; `context` ends with the root."""
    found, nodes = [context], tree.on_host()
    for node in range(1, tree.growmap.size):
        found.append([*found[tree.growmap.parents[node]], nodes.token_ids[node]])
    return found


@given(parents=PARENTS, seed=st.integers(0, 500), pending=st.integers(1, 4), trim=st.booleans())
@settings(max_examples=80, deadline=None)
def test_greedy_children_are_the_most_probable_tokens_in_order(
    parents: list[int], seed: int, pending: int, trim: bool
) -> None:
    growmap = tree_of(parents)
    model = TableModel(10 if trim else 19, seed)
    draft = DraftModel(model, IDS if trim else None)
    context, cache = [3, 1, 4, 1, 5], model.new_cache()
    model.extend(torch.tensor(context[:-pending]), cache)
    tree = grow(
        draft, GrowPlan(growmap, CPU), torch.tensor(context[-pending:]), cache, top_children
    )
    nodes = tree.on_host()
    assert nodes.token_ids[0] == context[-1]
    for node, before in enumerate(sequences(tree, context)):
        logits = model.logits_after(before)
        children = growmap.children[node]
        best = logits.topk(len(children)).indices
        expected = (IDS[best] if trim else best).tolist()
        assert [nodes.token_ids[child] for child in children] == expected
        if children:
            probs = tree.draft_probs[tree.inner_rows[node]]
            torch.testing.assert_close(probs, logits.softmax(-1))
        for child, column in zip(children, best.tolist(), strict=True):
            assert nodes.columns[child] == column
            assert nodes.draft_prob[child] == pytest.approx(float(probs[column]))


@given(parents=PARENTS, seed=st.integers(0, 500), top_p=st.sampled_from([1.0, 0.6]))
@settings(max_examples=60, deadline=None)
def test_sampled_siblings_differ_and_their_probabilities_are_those_drawn_from(
    parents: list[int], seed: int, top_p: float
) -> None:
    growmap, model = tree_of(parents), TableModel(19, seed)
    params = SamplingParams(temperature=0.7, top_p=top_p)
    choose = SampledChildren(params, torch.Generator().manual_seed(seed))
    tree = grow(
        DraftModel(model), GrowPlan(growmap, CPU), torch.tensor([2]), model.new_cache(), choose
    )
    nodes = tree.on_host()
    for node in range(growmap.size):
        tokens = [nodes.token_ids[child] for child in growmap.children[node]]
        assert len(set(tokens)) == len(tokens)
        for child, token in zip(growmap.children[node], tokens, strict=True):
            probs = tree.draft_probs[tree.inner_rows[node]]
            assert nodes.draft_prob[child] == float(probs[token])
            assert float(probs.sum()) == pytest.approx(1.0, abs=1e-5)
        if tokens:
            assert float(tree.draft_probs[tree.inner_rows[node], tokens[0]]) > 0


@given(parents=PARENTS, pending=st.integers(1, 5))
@settings(deadline=None)
def test_leaves_are_not_read_and_inner_nodes_are_read_once_in_order(
    parents: list[int], pending: int
) -> None:
    growmap, model = tree_of(parents), TableModel(19, 1)
    context, cache = [3, 1, 4, 1, 5], model.new_cache()
    model.extend(torch.tensor(context[:-pending]), cache)
    plan = GrowPlan(growmap, CPU)
    nodes = grow(
        DraftModel(model), plan, torch.tensor(context[-pending:]), cache, top_children
    ).on_host()
    assert isinstance(cache, RowCache)
    inner = sorted(plan.inner_rows, key=lambda node: plan.inner_rows[node])
    read = inner or [0]
    expected = [(nodes.token_ids[node], 4 + growmap.depths[node]) for node in read]
    assert cache.rows == [*zip(context[:-1], range(4), strict=True), *expected]
    levels_with_inner = {growmap.depths[node] for node in read}
    assert model.forwards == len(levels_with_inner)
