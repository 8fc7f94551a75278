"""A grafted tree is the drafted one and a path of known tokens, and nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.speculate.draft import DraftModel, GrowPlan, grow, top_children
from sequoia_core.speculate.graft import graft
from sequoia_core.speculate.token_tree import TokenTree, TreeLayout
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.models import TableModel

CPU = torch.device("cpu")


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens that lead to each node."""
    paths: list[tuple[int, ...]] = [()]
    for node in range(1, tree.growmap.size):
        paths.append((*paths[tree.growmap.parents[node]], int(tree.token_ids[node])))
    return paths


@given(
    parents=st.lists(st.integers(0, 30), max_size=9),
    known=st.lists(st.integers(0, 10), max_size=5),
    follow=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_a_graft_adds_the_known_path_and_keeps_every_drawn_node(
    parents: list[int], known: list[int], follow: int, seed: int
) -> None:
    model = TableModel(11, seed)
    plan = GrowPlan.of(tree_of(parents), CPU)
    drafted = grow(DraftModel(model), plan, [2], model.new_cache(), top_children)
    deepest = paths_of(drafted)[-1]
    known = [*deepest[:follow], *known]  # some of it runs along the tree
    tree = graft(drafted, known)
    drawn, paths = paths_of(drafted), paths_of(tree)
    prefixes = {tuple(known[:length]) for length in range(len(known) + 1)}
    assert len(set(paths)) == len(paths)
    assert set(paths) == set(drawn) | prefixes
    assert {paths[node] for node in tree.grafted} == prefixes - set(drawn)
    for node in tree.grafted:
        siblings = tree.growmap.children[tree.growmap.parents[node]]
        assert siblings[-1] == node
        assert node not in tree.inner_rows
    for node, path in enumerate(drawn):
        same = paths.index(path)
        assert float(tree.node_probs[same]) == float(drafted.node_probs[node])
        assert int(tree.columns[same]) == int(drafted.columns[node])
        assert tree.inner_rows.get(same) == drafted.inner_rows.get(node)
    # numbered as a shape must be, so that what is built without checks equals what is checked
    checked = GrowMap(tree.growmap.parents, tree.growmap.name)
    assert checked == tree.growmap
    for field in ("size", "depths", "depth", "levels", "children", "ranks", "branching"):
        assert getattr(checked, field) == getattr(tree.growmap, field)
    layout = TreeLayout.of(tree.growmap, CPU)
    assert layout.parents.tolist() == [0, *tree.growmap.parents[1:]]
    assert torch.equal(layout.mask, tree.growmap.ancestor_mask())
    assert layout.depths.tolist() == list(tree.growmap.depths)
