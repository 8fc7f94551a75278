"""The policy of adaptive trees: what pays is drafted, and nothing is decided by what was drawn."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.speculate.adaptive_draft import grow_adaptive
from sequoia_core.speculate.adaptive_policy import (
    EDGES,
    IDLE_STEPS,
    AcceptanceEstimator,
    AdaptivePolicy,
    DraftCandidates,
    LookupPath,
    NewNode,
    StepPolicy,
    overlapping,
    stated,
)
from sequoia_core.speculate.cost_model import CostModel, StepCosts
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.sampling import draft_probs, ordered_draws
from sequoia_core.tree.choice import AdaptiveTree
from tests.core.models import TableModel

WIDE, ROOM = AdaptiveTree(size=64, depth=12, branching=6), 100
CONTEXT = [3, 1, 4]
SAMPLED = SamplingParams(temperature=0.7)


class Watched:
    """A step's policy, and everything it was given and answered."""

    def __init__(self, policy: StepPolicy) -> None:
        self._policy, self.width = policy, policy.width
        self.offers: list[list[DraftCandidates]] = []
        self.born: list[list[NewNode]] = []
        self.counts: list[list[int]] = []
        self.chosen: list[list[int]] = []

    def read(self, born: Sequence[NewNode]) -> list[int]:
        self.born.append(list(born))
        self.chosen.append(self._policy.read(born))
        return self.chosen[-1]

    def children(self, offers: Sequence[DraftCandidates]) -> list[int]:
        self.offers.append(list(offers))
        self.counts.append(self._policy.children(offers))
        return self.counts[-1]


def grown(model: TableModel, watched: Watched, noise_seed: int) -> list[int]:
    """A tree's tokens, with draws that depend on the seed."""
    generator = torch.Generator().manual_seed(noise_seed)

    def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = draft_probs(logits, SAMPLED)
        noise = torch.rand(probs.shape, generator=generator).log().neg()
        return ordered_draws(probs, noise, count), probs

    cache = model.new_cache()
    model.extend(torch.tensor(CONTEXT[:-1]), cache)
    return grow_adaptive(DraftModel(model), watched, CONTEXT[-1:], cache, choose).token_ids


@given(model=st.integers(0, 500), one=st.integers(0, 500), two=st.integers(0, 500))
@settings(max_examples=40, deadline=None)
def test_no_node_is_decided_on_by_what_is_drawn_there(model: int, one: int, two: int) -> None:
    """Whatever the draws, a level's decisions are those of its path; all drawn nodes are there."""
    table = TableModel(9, model, scale=3.0)
    runs = []
    for seed in (one, two):
        policy = AdaptivePolicy(CostModel(), greedy=False)
        watched = Watched(policy.step(WIDE, ROOM, LookupPath()))
        tokens = grown(table, watched, seed)
        runs.append(watched)
        assert len(tokens) == 1 + sum(map(sum, watched.counts))
        assert all(offer.probs == () for level in watched.offers for offer in level)
    first, second = runs
    assert first.offers[:1] == second.offers[:1]
    assert first.counts[:1] == second.counts[:1]
    # and where two runs drew alike so far, they decide alike
    for level in range(min(len(first.born), len(second.born))):
        if first.born[: level + 1] != second.born[: level + 1]:
            break
        assert first.chosen[level] == second.chosen[level]
        assert first.counts[level : level + 1] == second.counts[level : level + 1]


@given(
    seed=st.integers(0, 1000),
    greedy=st.booleans(),
    nodes=st.integers(1, 20),
    depth=st.integers(0, 6),
    branching=st.integers(1, 6),
    rows=st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_a_tree_keeps_within_its_limits(
    seed: int, greedy: bool, nodes: int, depth: int, branching: int, rows: int
) -> None:
    table = TableModel(9, seed, scale=5.0)
    free = StepCosts(lambda n: 1.0 + 1e-6 * n, lambda n: 1e-6 * n, 0.0, 1.0)
    policy = AdaptivePolicy(CostModel(free), greedy)
    bounds = AdaptiveTree(nodes, depth, branching)
    watched = Watched(policy.step(bounds, rows, LookupPath()))
    tokens = grown(table, watched, seed)
    born = [each for level in watched.born for each in level]
    depths = {0: 0}
    for each in born[1:]:
        depths[each.node] = depths[each.parent] + 1
    assert len(tokens) <= nodes
    assert max(depths.values()) <= depth
    assert max(each.rank for each in born) <= branching
    assert sum(map(len, watched.chosen)) <= rows
    if min(nodes - 1, depth, rows) > 0:
        assert len(tokens) > 1  # with rows for next to nothing, all that may be drawn is


def decide(policy: AdaptivePolicy, known: LookupPath, prob: float) -> tuple[int, StepPolicy]:
    """Children of the root where every child has this probability; -1 if it is not drafted."""
    step = policy.step(WIDE, ROOM, known)
    if not step.read([NewNode(0, -1, 0, 7, 1.0)]):
        return -1, step
    (count,) = step.children([DraftCandidates(0, prob, (prob,) * 4, 4)])
    return count, step


def test_an_unsure_draft_costs_next_to_nothing_and_is_asked_again_in_time() -> None:
    policy = AdaptivePolicy(CostModel(), greedy=True)
    decisions = [decide(policy, LookupPath(), 0.005)[0] for _ in range(200)]
    assert decisions[0] == 0  # asked, and nothing it says is worth a row
    tail = decisions[100:]
    assert tail.count(-1) >= 0.9 * len(tail)
    asked = [at for at, count in enumerate(decisions) if count >= 0]
    assert max(right - left for left, right in itertools.pairwise(asked)) == IDLE_STEPS + 1


def test_a_sure_draft_goes_deep_and_a_less_sure_one_less_so() -> None:
    def depth(prob: float) -> int:
        step = AdaptivePolicy(CostModel(), greedy=True).step(WIDE, ROOM, LookupPath())
        node, chosen = 0, step.read([NewNode(0, -1, 0, 7, 1.0)])
        while chosen:
            (count,) = step.children([DraftCandidates(node, prob, (prob, 0.0, 0.0, 0.0), 4)])
            if not count:
                break
            chosen = step.read([NewNode(node + 1, node, 1, 7, prob)])
            node += 1
        return node

    depths = [depth(prob) for prob in (0.05, 0.5, 0.8, 0.95)]
    assert depths == sorted(depths)
    assert depths[0] <= 1
    assert depths[-1] >= 6


def test_what_is_known_to_follow_makes_drafting_beside_it_pay_less() -> None:
    sure = LookupPath((5, 6, 7), (0.98, 0.96, 0.95))
    assert decide(AdaptivePolicy(CostModel(), greedy=True), sure, 0.9)[0] == -1
    doubtful = LookupPath((5,), (0.1,))
    assert decide(AdaptivePolicy(CostModel(), greedy=True), doubtful, 0.9)[0] > 0


def test_a_drawn_node_on_the_known_path_takes_no_row_of_its_own() -> None:
    known = LookupPath((5, 6), (0.3, 0.2))
    for token, rows in ((5, 3), (4, 4)):
        _, step = decide(AdaptivePolicy(CostModel(), greedy=True), known, 0.9)
        before = step._rows
        step.read([NewNode(1, 0, 1, token, 0.9)])
        assert step._rows == before - (rows == 3)


COSTS = st.lists(st.floats(0.0, 0.5), min_size=12, max_size=12)


@given(steps=COSTS, noise=st.lists(st.floats(-0.1, 0.1), min_size=12, max_size=12))
@settings(deadline=None)
def test_prices_never_fall_with_rows_and_add_up_to_no_more_than_was_measured(
    steps: list[float], noise: list[float]
) -> None:
    times = [1.0, *itertools.accumulate(steps, initial=1.0)][1:]
    times = [max(time + extra, 0.1) for time, extra in zip(times, [0.0, *noise], strict=True)]

    def target(rows: int) -> float:
        return times[min(rows, len(times)) - 1]

    economy = CostModel(StepCosts(target, lambda rows: 0.1 * rows, 0.0, times[0]))
    prices = [economy.row_price(rows) / economy.rate for rows in range(2, len(times) + 1)]
    assert all(price >= 0 for price in prices)
    assert all(low <= high + 1e-9 for low, high in itertools.pairwise(prices))
    for rows in range(2, len(times) + 1):
        paid = math.fsum(prices[: rows - 1]) * times[0]
        assert paid <= target(rows) - min(times) + 1e-9


@given(
    probs=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=7),
    slopes=st.lists(st.floats(0.001, 0.4), min_size=7, max_size=7),
)
@settings(deadline=None)
def test_buying_rows_at_the_best_rate_gives_the_best_rate(
    probs: list[float], slopes: list[float]
) -> None:
    """The marginal rule is optimal: no other number of rows yields more tokens per time."""
    probs, slopes = sorted(probs, reverse=True), sorted(slopes)

    def rate(count: int) -> float:
        return (1.0 + math.fsum(probs[:count])) / (1.0 + math.fsum(slopes[:count]))

    best = max(rate(count) for count in range(len(probs) + 1))
    bought = 0
    while bought < len(probs) and probs[bought] >= best * slopes[bought]:
        bought += 1
    assert rate(bought) == pytest.approx(best)


def test_the_rate_follows_tokens_per_modelled_time_and_never_falls_below_plain() -> None:
    costs = StepCosts(lambda rows: 9.0 + rows, lambda rows: 2.0, 1.0, 10.0)
    economy = CostModel(costs)
    for _ in range(1000):
        economy.record(4, 6, (1, 1))
    assert economy.rate == pytest.approx(4 / 2.0)  # 15 + 4 + 1 ms are two plain steps
    for _ in range(1000):
        economy.record(1, 6, (1, 1))
    assert economy.rate == 1.0


@given(
    truth=st.lists(st.floats(0.0, 1.0), min_size=len(EDGES) + 1, max_size=len(EDGES) + 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_confidence_converges_to_what_happens(truth: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    table = AcceptanceEstimator(stated)
    middles = [sum(pair) / 2 for pair in itertools.pairwise((0.0, *EDGES, 1.0))]
    for middle, rate in zip(middles, truth, strict=True):
        for hit in (torch.rand(800, generator=generator) < rate).tolist():
            table.record(1, 1, middle, hit)
        assert table.estimate(1, 1, middle) == pytest.approx(rate, abs=0.15)
    assert table.estimate(1, 2, 0.5) == 0.5  # another rank has learnt nothing
    assert table.estimate(2, 1, 0.5) == 0.5  # nor has another depth


@given(prob=st.floats(0.0, 1.0))
def test_beliefs_of_sampling_are_probabilities_that_sum_to_less_than_one(prob: float) -> None:
    shares = [overlapping(rank, prob) for rank in range(1, 9)]
    assert all(share >= 0 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1
