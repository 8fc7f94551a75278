"""Vectors measured by decoding and by passes estimate what enumeration gives, and say how well."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.data.passages import Passage
from sequoia_core.errors import ParameterError
from sequoia_core.events import PairDescription
from sequoia_core.measure.acceptance import (
    Acceptance,
    AcceptancePlan,
    AcceptanceVector,
    count_acceptance,
)
from sequoia_core.measure.calibration import PRIOR
from sequoia_core.model.loading.pair import Pair
from sequoia_core.speculate.sampling import UNCUT
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import tiny_tokenizer
from tests.core.measure.test_acceptance import VOCAB, WIDTH, P, Q, rates_at
from tests.core.models import ScriptModel, TableModel


class SameModel(TableModel):
    """Says the same after every text, so that all positions are alike."""

    def __init__(self, probs: Sequence[float], window: int = 4096) -> None:
        super().__init__(len(probs), 0, window=window)
        self._always = torch.tensor(probs).log()

    def logits_after(self, token_ids: Sequence[int]) -> Tensor:
        return self._always


def pair_of(target: TableModel, draft: TableModel) -> Pair:
    models: Any = target, draft
    window = target.context_window
    return Pair(
        target=models[0],
        draft=models[1],
        draft_vocab_ids=None,
        tokenizer=tiny_tokenizer(),
        eos_token_ids=frozenset(),
        description=PairDescription("target", "draft", "cpu", "float32", window),
        fingerprint="",
        acceptance_rates={},
    )


def plan_of(tokens: int, temperature: float = 1.0, **more: Any) -> AcceptancePlan:
    top_p = more.pop("top_p", 1.0)
    return AcceptancePlan(WIDTH, SamplingParams(temperature, top_p, seed=17), tokens=tokens, **more)


PROMPT = Passage((1, 2, 3), 3)
LIKELY = 4.5
"""Standard deviations that an estimate may be off by."""


@pytest.mark.parametrize("static", [False, True])
def test_both_ways_estimate_what_enumeration_gives(static: bool) -> None:
    passages = [PROMPT] * 4
    counts = list(
        count_acceptance(pair_of(SameModel(P), SameModel(Q)), passages, plan_of(800, static=static))
    )
    vector = AcceptanceVector.of(counts)
    for rate, expected in zip(vector.rates, rates_at(P, Q, range(VOCAB)), strict=True):
        deviation = math.sqrt(expected * (1 - expected) / vector.positions)
        assert abs(rate - expected) < LIKELY * deviation
    assert vector.rejected == pytest.approx(1 - math.fsum(vector.rates))
    assert vector.prompts == 4
    if static:
        assert vector.positions == 4 * 800


def test_a_text_is_judged_after_its_prompt_and_nothing_is_decoded() -> None:
    target, draft = (TableModel(VOCAB, seed, order=1) for seed in (1, 2))
    passage = Passage(tuple(at % VOCAB for at in range(30)), 10)
    ((count,),) = count_acceptance(pair_of(target, draft), [passage], plan_of(800, static=True))
    assert len(count) == 20
    assert target.forwards == draft.forwards == 1


@pytest.mark.parametrize("static", [False, True])
def test_the_draft_has_a_nucleus_of_its_own(static: bool) -> None:
    pair, passages = pair_of(SameModel(P), SameModel(Q)), [PROMPT] * 2

    def rates(top_p: float, draft_top_p: float) -> tuple[float, ...]:
        plan = plan_of(400, top_p=top_p, draft_top_p=draft_top_p, static=static)
        return AcceptanceVector.of(list(count_acceptance(pair, passages, plan))).rates

    def expected(p: Sequence[float], q: Sequence[float]) -> Any:
        return pytest.approx(rates_at(p, q, range(VOCAB)), abs=0.08)

    cut_p = [0.0, 0.5, 0.0, 0.0, 0.5]  # the target's nucleus of 0.55
    nucleus = [4 / 7, 0.0, 0.0, 3 / 7, 0.0]  # the draft's of 0.6
    cut_q = [(1 - UNCUT) * kept + UNCUT * q for kept, q in zip(nucleus, Q, strict=True)]
    assert rates(1.0, 1.1) == rates(1.0, 1.0) == expected(P, Q)
    assert rates(1.0, 0.6) == expected(P, cut_q)
    assert rates(0.55, 1.0) == expected(cut_p, Q)
    assert rates(0.55, 0.6) == expected(cut_p, cut_q)


def test_greedy_decoding_counts_the_rank_of_the_targets_choice() -> None:
    target = ScriptModel([3] * 10, vocab_size=VOCAB)
    draft = SameModel([0.4, 0.1, 0.15, 0.3, 0.05])  # token 3 is its second choice
    ((count,),) = count_acceptance(pair_of(target, draft), [PROMPT], plan_of(20, temperature=0.0))
    assert count.tolist() == [[0.0, 1.0, 0.0]] * 10  # each step emits the child and a bonus


@pytest.mark.parametrize("static", [False, True])
def test_a_seed_repeats_a_measurement_and_prompts_differ_in_theirs(static: bool) -> None:
    pair, plan = pair_of(SameModel(P), SameModel(Q)), plan_of(40, static=static)
    first, second = (
        [count.tolist() for (count,) in count_acceptance(pair, [PROMPT] * 2, plan)]
        for _ in range(2)
    )
    assert first == second
    assert first[0] != first[1]


def counted(accepted: Sequence[int], positions: int) -> tuple[Acceptance]:
    """So many positions at the beginning accept each rank."""
    rows = [[float(at < each) for each in accepted] for at in range(positions)]
    return (np.array(rows).reshape(positions, len(accepted)),)


def test_prompts_are_pooled_by_their_positions_and_resampled() -> None:
    counts = [counted([8, 1], 10), counted([30, 0], 90), counted([0, 0], 0)]
    vector = AcceptanceVector.of(counts)
    assert vector.rates == pytest.approx((0.38, 0.01))
    assert vector.rejected == pytest.approx(0.61)
    assert (vector.positions, vector.prompts) == (100, 2)
    assert vector.intervals[0] == pytest.approx((1 / 3, 0.8))
    assert vector.intervals[1] == pytest.approx((0.0, 0.1))


def test_one_prompt_tells_no_spread_and_none_is_refused() -> None:
    assert AcceptanceVector.of([counted([1], 2)]).intervals == ()
    with pytest.raises(ParameterError, match="nothing was judged"):
        AcceptanceVector.of([counted([0], 0)])


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(3)
    held = 0
    for _ in range(100):
        hits = torch.rand(40, 20, generator=generator).lt(0.3).sum(1).tolist()
        ((low, high),) = AcceptanceVector.of([counted([each], 20) for each in hits]).intervals
        held += low <= 0.3 <= high
    assert 85 <= held <= 100


def test_each_depth_has_rates_of_its_own() -> None:
    """A draft that is right after even tokens and wrong after odd ones, and a text that counts."""

    class Counting(ScriptModel):
        def logits_after(self, token_ids: Sequence[int]) -> Tensor:
            logits = torch.zeros(self.vocab_size)
            right = (token_ids[-1] + 1) % self.vocab_size
            logits[right if token_ids[-1] % 2 == 0 else (right + 1) % self.vocab_size] = 40.0
            return logits

    target, draft = ScriptModel(range(8), vocab_size=8), Counting([0], vocab_size=8)
    plan = replace(plan_of(24, temperature=0.0), width=1, depth=3)
    ((first, second, third),) = count_acceptance(
        pair_of(target, draft), [Passage((0, 1, 2), 3)], plan
    )
    # after 2: 3 is right, then the draft says 5; the target adds 4, so each step begins at an even
    assert (first.sum(), second.sum(), len(third)) == (len(first), 0.0, 0)
    assert len(first) == len(second) == 12
    vector = AcceptanceVector.of([(first, second, third)])
    assert vector.rates == (1.0,)
    assert vector.deeper_positions == (12,)
    (below,) = vector.deeper
    assert below[0] == pytest.approx(PRIOR * 0.5 / (12 + PRIOR))  # of 24 positions 12 are right


def test_a_tree_that_counts_has_all_children_where_answers_mostly_go() -> None:
    plan = replace(plan_of(10), width=6, depth=4)
    tree = plan.tree
    assert (tree.size, tree.depth) == (1 + 6 * (1 + 2 + 3 + 4), 4)
    paths = [[tree.ranks[node] for node in path[1:]] for path in tree.paths()]
    inner = [path for node, path in enumerate(paths) if tree.children[node]]
    assert {len(tree.children[node]) for node in range(tree.size)} == {0, 6}
    assert all(path.count(1) >= len(path) - 1 and max(path, default=1) <= 2 for path in inner)
    assert [1, 1, 1] in inner
    assert [2, 1, 1] in inner
    assert [1, 1, 2] in inner
    assert replace(plan, depth=1).tree.parents == GrowMap.k_ary([6]).parents
    assert replace(plan, width=1, depth=3).tree.parents == GrowMap.chain(3).parents


@pytest.mark.parametrize("static", [False, True])
def test_more_children_than_the_draft_has_tokens_are_refused(static: bool) -> None:
    plan = replace(plan_of(10, static=static), width=VOCAB + 1)
    with pytest.raises(ParameterError, match="the draft knows only 5 tokens"):
        list(count_acceptance(pair_of(SameModel(P), SameModel(Q)), [PROMPT], plan))


def test_the_whole_context_window_can_be_used() -> None:
    pair = pair_of(SameModel(P, window=50), SameModel(Q, window=50))
    plan = plan_of(50 - 3 - WIDTH)
    assert plan.text_tokens([PROMPT]) + WIDTH == 50
    ((count,),) = count_acceptance(pair, [PROMPT], plan)
    assert len(count) > 0
    ((count,),) = count_acceptance(pair, [PROMPT], plan_of(47, static=True))
    assert len(count) == 47


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"width": 1024},
        {"draft_top_p": 0.0},
        {"depth": 0},
        {"depth": 65},
        {"width": 200, "depth": 6},
        {"depth": 2, "static": True},
    ],
)
def test_a_plan_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        AcceptancePlan(**changes)
