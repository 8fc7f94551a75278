"""EAGLE-2's tree: its nodes, how it is named, and where it is refused."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import GrowMapError
from sequoia_core.events import Step, TreeChosen
from sequoia_core.speculate.adaptive_draft import BestPaths, DraftedTree, grow_adaptive
from sequoia_core.speculate.adaptive_policy import NewNode
from sequoia_core.speculate.draft import DraftModel, SampledChildren, top_children
from sequoia_core.speculate.token_tree import TokenTree
from sequoia_core.speculate.tree_advisor import Advice, BundledAdvisor
from sequoia_core.tree.choice import MOST_DEPTH, DynamicTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.models import TableModel

CONTEXT = [3, 1, 4]
Path = tuple[int, ...]


def grown(
    model: TableModel, bounds: DynamicTree, draft_room: int = 10_000
) -> tuple[TokenTree, BestPaths]:
    cache = model.new_cache()
    model.extend(torch.tensor(CONTEXT[:-1]), cache)
    policy = BestPaths(bounds, bounds.size, draft_room)
    drafted = grow_adaptive(DraftModel(model), policy, CONTEXT[-1:], cache, top_children)
    return drafted.part(policy.best(), bounds.name), policy


def paths_of(tree: TokenTree) -> list[Path]:
    tokens, parents = tree.on_host().token_ids, tree.growmap.parents
    paths: list[Path] = [()]
    for node in range(1, tree.growmap.size):
        paths.append((*paths[parents[node]], tokens[node]))
    return paths


def written_out(model: TableModel, bounds: DynamicTree) -> set[Path]:
    """The nodes by the paper's two phases, expansion and reranking, in float64."""
    scores: dict[Path, float] = {(): 0.0}
    level: list[Path] = [()]
    for _ in range(bounds.depth):
        new: dict[Path, float] = {}
        for path in level:
            probs = model.logits_after([*CONTEXT, *path]).double().log_softmax(-1)
            best = probs.topk(min(bounds.branching, model.vocab_size))
            for prob, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                new[*path, token] = scores[path] + prob
        scores |= new
        level = sorted(new, key=lambda path: -new[path])[: bounds.branching]
    return set(sorted(scores, key=lambda path: -scores[path])[: bounds.size])


@given(
    seed=st.integers(0, 10_000),
    bounds=st.builds(DynamicTree, st.integers(2, 40), st.integers(1, 5), st.integers(1, 12)),
)
@settings(max_examples=60, deadline=None)
def test_its_nodes_are_those_of_the_papers_two_phases(seed: int, bounds: DynamicTree) -> None:
    model = TableModel(9, seed)
    tree, policy = grown(model, bounds)
    paths = paths_of(tree)
    assert set(paths) == written_out(model, bounds)
    assert len(policy.passes) <= bounds.depth
    assert max(policy.passes) <= bounds.branching
    # of each node that has children the distribution that they are of is at hand
    for node, children in enumerate(tree.growmap.children):
        if children:
            probs = model.logits_after([*CONTEXT, *paths[node]]).softmax(-1)
            torch.testing.assert_close(tree.draft_probs[tree.inner_rows[node]], probs)


def test_a_pass_that_could_add_no_node_is_not_made() -> None:
    """A third of four nodes is better than anything below the second level."""
    tree, policy = grown(TableModel(9, 3, scale=0.1), DynamicTree(4, 6, 9))
    assert tree.growmap.depth == 1
    assert policy.passes == [1, 3]


@given(room=st.integers(1, 12))
@settings(deadline=None)
def test_the_draft_reads_no_more_than_it_has_room_for(room: int) -> None:
    tree, policy = grown(TableModel(9, 3), DynamicTree(40, 5, 3), room)
    assert sum(policy.passes) <= room
    assert tree.growmap.size > 1


def test_rounding_above_one_takes_no_child_without_its_parent() -> None:
    policy = BestPaths(DynamicTree(2, 3, 1), 2, 100)
    policy.read([NewNode(0, -1, 0, 5, 1.0)])
    policy.read([NewNode(1, 0, 1, 5, math.nextafter(1.0, 2.0)), NewNode(2, 0, 2, 6, 0.0)])
    policy.read([NewNode(3, 1, 1, 5, math.nextafter(1.0, 2.0))])
    assert policy.best() == [0, 1]


def test_drawn_children_are_never_left_out() -> None:
    model = TableModel(9, 3)
    draft, cache = DraftModel(model), model.new_cache()
    model.extend(torch.tensor(CONTEXT[:-1]), cache)
    choose = SampledChildren(SamplingParams(0.7), torch.Generator())
    policy = BestPaths(DynamicTree(4, 2, 3), 4, 100)
    drafted: DraftedTree = grow_adaptive(draft, policy, CONTEXT[-1:], cache, choose)
    with pytest.raises(AssertionError, match="distributions alone"):
        drafted.part(policy.best(), "cut")


@pytest.mark.parametrize(
    ("name", "bounds"),
    [("dynamic", (60, 6, 10)), ("dynamic:60x6x10", (60, 6, 10)), ("dynamic:2x1x1", (2, 1, 1))],
)
def test_a_name_says_nodes_depth_and_children(name: str, bounds: Sequence[int]) -> None:
    tree = DynamicTree.named(name)
    assert tree == DynamicTree(*bounds)
    assert tree is not None
    assert DynamicTree.named(tree.name) == tree


@pytest.mark.parametrize("name", ["", "adaptive", "dynamics", "chain/4", "my-dynamic:1/2/3"])
def test_other_names_are_of_other_trees(name: str) -> None:
    assert DynamicTree.named(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "dynamic:", "dynamic:8", "dynamic:8x2", "dynamic:8x2xn", "dynamic:8/2/2", "dynamic:8x2x2x2",
        "dynamic:1x2x2",
        "dynamic:8x0x2", "dynamic:8x2x0", "dynamic:9999x2x2", f"dynamic:8x{MOST_DEPTH + 1}x2",
        "dynamic:-8x2x2", "dynamic:٨x2x2",
    ],
)  # fmt: skip
def test_a_name_without_such_bounds_is_refused(name: str) -> None:
    with pytest.raises(GrowMapError, match="as in dynamic:60x6x10"):
        DynamicTree.named(name)


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in (Mode.GREEDY, Mode.TOPK)])
def test_modes_whose_children_are_drawn_refuse_it(mode: Mode) -> None:
    with pytest.raises(GrowMapError, match="its modes are topk and greedy"):
        TreeChoice(mode, dynamic=DynamicTree())


def test_it_is_one_of_three_kinds() -> None:
    with pytest.raises(GrowMapError, match="fixed shape, adaptive or dynamic"):
        TreeChoice(Mode.GREEDY, adaptive=True, dynamic=DynamicTree())
    with pytest.raises(GrowMapError, match="fixed shape, adaptive or dynamic"):
        TreeChoice(Mode.GREEDY, GrowMap.chain(2), dynamic=DynamicTree())


class Untaught(BundledAdvisor):
    """Counts what it is asked to learn."""

    observed = timed = 0

    @override
    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        self.observed += 1
        return None

    @override
    def time(self, step: Step, temperature: float) -> None:
        self.timed += 1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_an_answer_says_its_bounds_and_teaches_no_advisor(temperature: float) -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1))
    engine.tree_choice = TreeChoice(Mode.TOPK, dynamic=DynamicTree(12, 3, 4))
    engine.advisor = advisor = Untaught({})
    params = SamplingParams(temperature, seed=3, max_new_tokens=30)
    events = list(engine.generate([3, 1, 4], params))
    chosen = events[0]
    assert isinstance(chosen, TreeChosen)
    assert (chosen.growmap, chosen.nodes, chosen.depth) == ("dynamic:12x3x4", 12, 3)
    assert {len(step.nodes) for step in steps_of(events)} == {12}
    assert len(tokens_of(events)) == 30
    assert (advisor.observed, advisor.timed) == (0, len(steps_of(events)))
