"""Adaptive trees and looked-up paths change no token at temperature 0 and no distribution above.

Above 0 it is proved by enumeration: every draw of trees whose width and depth follow a random
policy, with any continuation appended, and every verdict on them.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.model.graphs import EagerRunner, Graphs
from sequoia_core.speculate import verify
from sequoia_core.speculate.adaptive_draft import BestPaths, DraftedTree, grow_adaptive
from sequoia_core.speculate.adaptive_policy import DraftCandidates, NewNode
from sequoia_core.speculate.appended_path import append_path
from sequoia_core.speculate.draft import DraftModel, top_children
from sequoia_core.speculate.sampling import draft_probs
from sequoia_core.speculate.scored_tree import ScoredTree, score
from sequoia_core.speculate.token_tree import TokenTree
from sequoia_core.tree.choice import AdaptiveTree, DynamicTree, Tree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.decode.test_lossless_greedy import plain
from tests.core.engines import check_caches, check_laws, finish_of, make_engine, tokens_of
from tests.core.models import TableModel, tiny_llama
from tests.core.speculate.test_lossless_sampling import Runs, ordered_tuples, p_value

CPU = torch.device("cpu")
VOCAB = 3
CONTEXT = (1, 0, 2)
SAMPLED = SamplingParams(temperature=0.8)
PROMPT = [3, 1, 4, 1, 5, 3, 1, 4]


class RandomPolicy:
    """Decides by a hash of all that it may know: the draft's peak and the path."""

    def __init__(self, seed: int, depth: int, width: int) -> None:
        self._seed, self._depth, self.width = seed, depth, width
        self._paths: dict[int, tuple[int, ...]] = {}
        self._known: list[tuple[tuple[int, ...], float]] = []

    def read(self, born: Sequence[NewNode]) -> list[int]:
        for each in born:
            above = self._paths[each.parent] if each.node else ()
            self._paths[each.node] = (*above, each.token_id)
        deep = [each.node for each in born if len(self._paths[each.node]) <= self._depth]
        return [node for node in deep if node == 0 or self._dice(self._paths[node], 0.0, 4)]

    def children(self, offers: Sequence[DraftCandidates]) -> list[int]:
        assert all(offer.probs == () for offer in offers)
        return [
            self._dice(self._paths[offer.node], offer.peak, offer.width + 1) for offer in offers
        ]

    def _dice(self, path: tuple[int, ...], peak: float, sides: int) -> int:
        # as the real policy may, it goes by everything that came before this node's draws
        self._known.append((path, round(peak, 6)))
        return random.Random(repr((self._seed, self._known))).randrange(sides)


class Scripted:
    """Draws what it is told and remembers the probability of drawing that."""

    def __init__(self, script: Sequence[tuple[int, ...]]) -> None:
        self._script = iter(script)
        self.laws: list[dict[tuple[int, ...], float]] = []

    def __call__(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = draft_probs(logits, SAMPLED)
        drawn = []
        for row in probs:
            columns = range(probs.shape[1])
            self.laws.append(dict(ordered_tuples(row.double().tolist(), columns, count)))
            drawn.append(next(self._script, next(iter(self.laws[-1]))))
        return torch.tensor(drawn), probs


def every_tree(draft: DraftModel, seed: int, depth: int) -> Iterator[tuple[DraftedTree, float]]:
    """Each tree that can be drawn under the policy, with its probability."""
    pending: list[tuple[tuple[int, ...], ...]] = [()]
    while pending:
        script = pending.pop()
        choose = Scripted(script)
        cache = draft.model.new_cache()
        draft.model.extend(torch.tensor(CONTEXT[:-1]), cache)
        policy = RandomPolicy(seed, depth, draft.columns)
        drafted = grow_adaptive(draft, policy, CONTEXT[-1:], cache, choose)
        if len(choose.laws) > len(script):  # a draw that is not decided yet: branch on it
            pending += [(*script, tokens) for tokens in choose.laws[len(script)]]
            continue
        probability = 1.0
        for law, tokens in zip(choose.laws, script, strict=True):
            probability *= law[tokens]
        yield drafted, probability


def judged(
    scored: ScoredTree, node: int, *, certain: bool = False
) -> tuple[dict[int, float], Tensor]:
    """Probability that each child of a node is accepted, and what is emitted otherwise [V].

    By `sequoia`, or with `certain` by `topk`.
    """
    attempts: dict[int, verify.Attempt] = {}
    uniforms = [1.0 - 2.0**-53] * scored.growmap.size
    found = verify._try_children(scored, node, uniforms, attempts, certain=certain)
    # a child that is accepted with certainty leaves nothing
    residual = torch.zeros(scored.logits.shape[1])
    if not isinstance(found, int):
        residual = found if isinstance(found, Tensor) else found.target_probs()
    accepted, reach = {}, 1.0
    for child, attempt in attempts.items():
        accepted[child] = reach * attempt.accept_prob
        reach *= 1.0 - attempt.accept_prob
    return accepted, reach * residual.double()


def joint_of(scored: ScoredTree, target: TableModel, *, certain: bool = False) -> Tensor:
    """Probability of each first and second token that one tree leads to."""

    def after(tokens: Sequence[int]) -> Tensor:
        logits = target.logits_after((*CONTEXT, *tokens))
        return (logits / SAMPLED.temperature).softmax(-1).double()

    accepted, rest = judged(scored, 0, certain=certain)
    joint = torch.stack([rest[first] * after([first]) for first in range(VOCAB)])
    for child, probability in accepted.items():
        below, bonus = judged(scored, child, certain=certain)
        second = bonus.clone()
        for grandchild, share in below.items():
            second[scored.nodes.token_ids[grandchild]] += share
        joint[scored.nodes.token_ids[child]] += probability * second
    return joint


def target_logits(target: TableModel, tree: TokenTree) -> Tensor:
    """After each node of a tree, [T, V]."""
    tokens = tree.on_host().token_ids
    paths: list[tuple[int, ...]] = [()]
    for node in range(1, tree.growmap.size):
        paths.append((*paths[tree.growmap.parents[node]], tokens[node]))
    return torch.stack([target.logits_after((*CONTEXT, *path)) for path in paths])


@given(
    seed=st.integers(0, 10**6),
    depth=st.integers(1, 2),
    known=st.lists(st.integers(0, VOCAB - 1), max_size=3),
    trimmed=st.booleans(),
)
@example(seed=1, depth=2, known=[], trimmed=False)
@example(seed=2, depth=2, known=[0, 1, 2], trimmed=True)
@settings(max_examples=25, deadline=None)
def test_two_tokens_have_the_targets_joint_distribution_by_enumeration(
    seed: int, depth: int, known: list[int], trimmed: bool
) -> None:
    target = TableModel(VOCAB, seed, order=3, scale=1.0)
    ids = torch.tensor([0, 2]) if trimmed else None
    draft = DraftModel(TableModel(2 if trimmed else VOCAB, seed + 1, order=3, scale=1.0), ids)
    joint, total = torch.zeros(VOCAB, VOCAB, dtype=torch.float64), 0.0
    for drafted, probability in every_tree(draft, seed, depth):
        tree = append_path(drafted.tree(), known)
        scored = score(tree, target_logits(target, tree), SAMPLED)
        joint += probability * joint_of(scored, target)
        total += probability
    assert total == pytest.approx(1.0)
    torch.testing.assert_close(joint, expected_joint(target), atol=2e-6, rtol=0)


def expected_joint(target: TableModel) -> Tensor:
    """The target's own, float64 [V, V]."""
    first = (target.logits_after(CONTEXT) / SAMPLED.temperature).softmax(-1).double()
    second = [target.logits_after((*CONTEXT, token)) for token in range(VOCAB)]
    return first[:, None] * (torch.stack(second) / SAMPLED.temperature).softmax(-1).double()


@given(
    seed=st.integers(0, 10**6),
    tree=st.builds(DynamicTree, st.integers(2, 9), st.integers(1, 3), st.integers(1, 3)),
    trimmed=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_two_tokens_of_a_dynamic_tree_have_the_targets_joint_distribution_by_enumeration(
    seed: int, tree: DynamicTree, trimmed: bool
) -> None:
    """Nothing of such a tree is drawn, so that there is one."""
    target = TableModel(VOCAB, seed, order=3, scale=1.0)
    ids = torch.tensor([0, 2]) if trimmed else None
    draft = DraftModel(TableModel(2 if trimmed else VOCAB, seed + 1, order=3, scale=1.0), ids)
    cache = draft.model.new_cache()
    draft.model.extend(torch.tensor(CONTEXT[:-1]), cache)
    policy = BestPaths(tree, tree.size, 100)
    drafted = grow_adaptive(draft, policy, CONTEXT[-1:], cache, top_children)
    found = drafted.part(policy.best(), tree.name)
    scored = score(found, target_logits(target, found), SAMPLED)
    joint = joint_of(scored, target, certain=True)
    torch.testing.assert_close(joint, expected_joint(target), atol=2e-6, rtol=0)


def test_leaving_out_drawn_children_that_seem_improbable_would_not_be_lossless() -> None:
    """Why a dynamic tree is refused where children are drawn."""
    target = TableModel(VOCAB, 5, order=3, scale=1.0)
    draft = DraftModel(TableModel(VOCAB, 6, order=3, scale=1.0))
    joint = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    for drafted, probability in every_tree(draft, 3, 1):
        drafted._ranked = True  # past the check
        stated = drafted.tree().on_host().draft_prob
        kept = [node for node, prob in enumerate(stated) if prob > 0.3]
        tree = drafted.part(kept, "cut")
        joint += probability * joint_of(score(tree, target_logits(target, tree), SAMPLED), target)
    assert float((joint - expected_joint(target)).abs().max()) > 1e-3


def test_the_joint_distribution_stays_where_the_engine_decodes_with_dynamic_trees() -> None:
    draft = DraftModel(TableModel(4, 12, order=2, scale=1.0))
    params = SamplingParams(temperature=0.8, seed=17)
    run = Runs(DynamicTree(7, 3, 3), params, draft, mode=Mode.TOPK)
    counts = Counter[tuple[int, ...]](run.first_two() for _ in range(8_000))
    assert p_value(counts, run.joint()) > 1e-4
    assert run.largest == 7


@pytest.mark.parametrize("mode", [Mode.SEQUOIA, Mode.TRAVERSE])
@pytest.mark.parametrize("lookup", [Lookup.OFF, Lookup.ON])
def test_what_is_learnt_while_sampling_leaves_the_joint_distribution_alone(
    lookup: Lookup, mode: Mode
) -> None:
    runs = 8_000
    draft = DraftModel(TableModel(4, 12, order=2, scale=1.0))
    params = SamplingParams(temperature=0.8, seed=17)
    run = Runs(AdaptiveTree(size=8, depth=3, branching=3), params, draft, lookup, mode)
    counts = Counter[tuple[int, ...]](run.first_two() for _ in range(runs))
    assert p_value(counts, run.joint()) > 1e-4
    assert run.largest > 3  # or nothing was tested


@pytest.mark.parametrize("tree", [AdaptiveTree(8, 3, 3), GrowMap((-1, 0, 0, 1))])
@pytest.mark.parametrize("trimmed", [False, True])
def test_trees_judged_at_once_leave_the_joint_distribution_alone(tree: Tree, trimmed: bool) -> None:
    """With what is looked up, at sizes that are filled up, as on a device."""
    kept = torch.tensor([0, 2, 3]) if trimmed else None
    draft = DraftModel(TableModel(3 if trimmed else 4, 12, order=2, scale=1.0), kept)
    params, graphs = SamplingParams(temperature=0.8, seed=23), Graphs(EagerRunner(), CPU)
    run = Runs(tree, params, draft, Lookup.ON, at_once=True, graphs=graphs)
    counts = Counter[tuple[int, ...]](run.first_two() for _ in range(1_000))
    assert p_value(counts, run.joint()) > 1e-4
    assert run.largest > 4  # of the tree, what was looked up


CHOICES = [
    TreeChoice(mode, growmap, adaptive=growmap is None, lookup=lookup)
    for mode, growmap, lookup in itertools.product(
        (Mode.SEQUOIA, Mode.GREEDY, Mode.CHAIN),
        (None, GrowMap((-1, 0, 0, 1))),
        Lookup,
    )
] + [
    TreeChoice(mode, dynamic=dynamic, lookup=lookup)
    for mode, dynamic, lookup in itertools.product(
        (Mode.TOPK, Mode.GREEDY), (DynamicTree(6, 3, 2), DynamicTree(20, 4, 4)), Lookup
    )
]


@pytest.mark.parametrize("lookup", list(Lookup))
@pytest.mark.parametrize("adaptive", [True, False])
def test_llama_tokens_equal_plain_greedy(adaptive: bool, lookup: Lookup) -> None:
    target, draft = tiny_llama(1), tiny_llama(1, num_layers=1)
    growmap = None if adaptive else GrowMap.k_ary([2, 2])
    made = make_engine(target, draft)
    made.tree_choice = TreeChoice(growmap=growmap, adaptive=adaptive, lookup=lookup)
    params = SamplingParams(temperature=0.0, max_new_tokens=60)
    assert tokens_of(list(made.generate(PROMPT, params))) == plain(target, PROMPT, 60)


@given(
    seed=st.integers(0, 10_000),
    choice=st.sampled_from(CHOICES),
    order=st.integers(1, 3),
    trimmed=st.booleans(),
    eos=st.none() | st.integers(0, 8),
)
@settings(max_examples=80, deadline=None)
def test_table_tokens_equal_plain_greedy(
    seed: int, choice: TreeChoice, order: int, trimmed: bool, eos: int | None
) -> None:
    """A table of order 1 repeats itself soon, so that what is looked up is right for long."""
    target = TableModel(9, seed, order=order)
    same = seed % 3 == 0
    other = TableModel(4, seed) if trimmed else TableModel(9, seed + (not same), order=order)
    draft = DraftModel(other, torch.tensor([1, 4, 5, 8]) if trimmed else None)
    made = make_engine(target, draft, eos=[] if eos is None else [eos])
    made.tree_choice = choice
    events = []
    for event in made.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=50)):
        events.append(event)
        check_caches(made, target, other)
    check_laws(events)
    expected = plain(target, PROMPT, 50)
    if eos in expected:
        expected = expected[: expected.index(eos) + 1]
    assert tokens_of(events) == expected
    assert list(made.token_ids) == PROMPT + expected


@given(seed=st.integers(0, 10_000), lookup=st.sampled_from(list(Lookup)), order=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_without_a_draft_what_is_looked_up_changes_no_token(
    seed: int, lookup: Lookup, order: int
) -> None:
    target = TableModel(9, seed, order=order)
    made = make_engine(target, None)
    made.tree_choice = TreeChoice(lookup=lookup)
    params = SamplingParams(temperature=0.0, max_new_tokens=50)
    events = list(made.generate(PROMPT, params))
    check_laws(events)
    assert tokens_of(events) == plain(target, PROMPT, 50)
    if lookup is Lookup.ON and order == 1:  # of 9 tokens, each always followed by the same one
        assert finish_of(events).totals.steps < 30


@given(seed=st.integers(0, 1000), choice=st.sampled_from(CHOICES), window=st.integers(12, 40))
@settings(max_examples=40, deadline=None)
def test_a_full_context_ends_the_answer_in_any_window(
    seed: int, choice: TreeChoice, window: int
) -> None:
    target = TableModel(9, seed, order=2, window=window)
    draft = TableModel(9, seed, order=2, window=window - seed % 5)
    made = make_engine(target, draft)
    made.tree_choice = choice
    params = SamplingParams(temperature=0.0, max_new_tokens=100)
    events = list(made.generate(PROMPT, params))
    assert tokens_of(events) == plain(target, PROMPT, window - len(PROMPT))
    check_laws(events)
