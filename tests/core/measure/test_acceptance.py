"""Measured acceptance rates are the ones that enumeration gives for known distributions."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from sequoia_core.config import SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.measure.acceptance import (
    ONE_PASS,
    Acceptance,
    Text,
    acceptance_by_rank,
    answer_logits,
    rank_probs,
)
from sequoia_core.speculate import verify
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.scored_tree import score
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import TableModel
from tests.core.speculate.test_lossless_sampling import ordered_tuples

VOCAB, WIDTH, PROMPT = 5, 3, 4
CPU = torch.device("cpu")


def rates_of(
    tokens: Sequence[int], p: Sequence[float], q: Sequence[float], support: Sequence[int]
) -> list[float]:
    """Probability that Algorithm 2 accepts the k-th of these children, in the paper's own words."""
    rates, left, draft, reach = [0.0] * len(tokens), list(p), list(q), 1.0
    for rank, token in enumerate(tokens):
        accept = min(1.0, left[token] / draft[token]) if draft[token] > 0 else 0.0
        rates[rank] += reach * accept
        reach *= 1.0 - accept
        residual = [max(a - b, 0.0) for a, b in zip(left, draft, strict=True)]
        if math.fsum(residual) > 1e-12:
            left = [each / math.fsum(residual) for each in residual]
        draft[token] = 0.0
        mass = math.fsum(draft)
        untried = [each for each in support if each not in tokens[: rank + 1]]
        draft = (
            [each / mass for each in draft]
            if mass > 0
            else [1 / len(untried) if each in untried else 0.0 for each in range(VOCAB)]
        )
    return rates


def rates_at(p: Sequence[float], q: Sequence[float], support: Sequence[int]) -> list[float]:
    """The same over every possible draw."""
    rates = [0.0] * WIDTH
    for tokens, probability in ordered_tuples(q, support, WIDTH):
        for rank, rate in enumerate(rates_of(tokens, p, q, support)):
            rates[rank] += probability * rate
    return rates


P, Q = [0.05, 0.3, 0.15, 0.2, 0.3], [0.4, 0.1, 0.15, 0.3, 0.05]
LAWS = {
    "mixed": (P, Q, range(VOCAB)),
    "trimmed": (P, [0.5, 0.0, 0.2, 0.3, 0.0], (0, 2, 3)),
    "short of tokens": (P, [0.0, 0.7, 0.0, 0.3, 0.0], range(VOCAB)),
    "equal": (P, P, range(VOCAB)),
    "apart": ([0.0, 0.0, 0.5, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0, 0.0], range(VOCAB)),
}


def found_for(law: str) -> tuple[list[tuple[tuple[int, ...], float]], torch.Tensor]:
    """Every draw with its probability, and what `rank_probs` gives for all of them at once."""
    p, q, support = LAWS[law]
    draws = ordered_tuples(q, support, WIDTH)
    columns = torch.tensor([[list(support).index(token) for token in each] for each, _ in draws])
    vocab_ids = torch.tensor(support) if len(support) < VOCAB else None
    draft = torch.tensor(q)[list(support)].expand(len(draws), -1)
    return draws, rank_probs(torch.tensor(p).expand(len(draws), -1), draft, columns, vocab_ids)


@pytest.mark.parametrize("law", LAWS)
def test_summed_probabilities_are_those_of_the_algorithm(law: str) -> None:
    draws, found = found_for(law)
    for (tokens, _), row in zip(draws, found.tolist(), strict=True):
        assert row == pytest.approx(rates_of(tokens, *LAWS[law]), abs=1e-6)
    mean = sum(probability * row for (_, probability), row in zip(draws, found, strict=True))
    assert isinstance(mean, torch.Tensor)
    assert mean.tolist() == pytest.approx(rates_at(*LAWS[law]), abs=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_they_are_what_the_decoding_rule_accepts_by(
    monkeypatch: pytest.MonkeyPatch, law: str
) -> None:
    """The rule is made to reject every child, so that it tells each one's chance."""

    def reject(size: int, **_: object) -> torch.Tensor:
        return torch.full((size,), math.inf, dtype=torch.float64)

    p, q, support = LAWS[law]
    draws, found = found_for(law)
    monkeypatch.setattr(torch, "rand", reject)
    monkeypatch.setattr(verify, "_bonus", lambda residual, uniform: 0)
    for (tokens, _), row in zip(draws, found.tolist(), strict=True):
        columns = torch.tensor([0, *(list(support).index(token) for token in tokens)])
        tree = TokenTree(
            growmap=GrowMap.k_ary([WIDTH]),
            nodes=DeviceNodes(
                torch.tensor([0, *tokens]),
                columns,
                torch.tensor([1.0, *(q[token] for token in tokens)]),
            ),
            draft_probs=torch.tensor(q)[None, list(support)],
            inner_rows={0: 0},
            vocab_ids=torch.tensor(support) if len(support) < VOCAB else None,
        )
        logits = torch.tensor(p).log().clamp(min=-1e30).expand(WIDTH + 1, -1)
        scored = score(tree, logits, SamplingParams(temperature=1.0))
        reach, expected = 1.0, []
        for trial in verify.sequoia(scored, torch.Generator()).attempts.values():
            expected.append(reach * trial.accept_prob)
            reach *= 1.0 - trial.accept_prob
        assert row == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("law", ["mixed", "trimmed"])
def test_a_sum_of_probabilities_varies_less_than_a_count(law: str) -> None:
    draws, found = found_for(law)
    counted, summed = [], []
    for rank, rate in enumerate(rates_at(*LAWS[law])):
        square = math.fsum(
            probability * float(row[rank]) ** 2
            for (_, probability), row in zip(draws, found, strict=True)
        )
        counted.append(rate * (1 - rate))
        summed.append(square - rate**2)
        assert summed[-1] <= counted[-1] + 1e-6
    assert sum(summed) < 0.9 * sum(counted)


def judged(target: TableModel, draft: DraftModel, text: Text, sampler: Sampler) -> Acceptance:
    return acceptance_by_rank(answer_logits(target, draft, text), draft, sampler, WIDTH)


def text(length: int) -> list[int]:
    rng = random.Random(5)
    return [rng.randrange(VOCAB) for _ in range(length)]


@pytest.mark.parametrize("trimmed", [False, True])
def test_sampled_rates_equal_enumeration(trimmed: bool) -> None:
    support = [0, 2, 3, 4] if trimmed else list(range(VOCAB))
    target = TableModel(VOCAB, 21, order=1, window=4096)
    guesser = TableModel(len(support), 22, order=1, window=4096)
    draft = DraftModel(guesser, torch.tensor(support) if trimmed else None)
    ids, temperature = text(2500), 0.8
    sampler = Sampler.of(SamplingParams(temperature, seed=9), CPU)
    found = judged(target, draft, (ids, PROMPT), sampler)
    tables = {}
    for last in range(VOCAB):
        q = torch.zeros(VOCAB)
        q[support] = (guesser.logits_after([last]) / temperature).softmax(-1)
        p = (target.logits_after([last]) / temperature).softmax(-1)
        tables[last] = rates_at(p.tolist(), q.tolist(), support)
    assert len(found) == len(ids) - PROMPT
    for rank, rate in enumerate(found.mean(0)):
        expected = math.fsum(tables[last][rank] for last in ids[PROMPT - 1 : -1]) / len(found)
        assert abs(rate - expected) < 4.5 * math.sqrt(expected * (1 - expected) / len(found))


def test_greedy_rates_are_counted_exactly() -> None:
    target, guesser = (TableModel(VOCAB, seed, order=2, window=4096) for seed in (3, 4))
    ids = text(400)
    sampler = Sampler.of(SamplingParams(temperature=0.0), CPU)
    found = judged(target, DraftModel(guesser), (ids, PROMPT), sampler)
    accepted = [0] * WIDTH
    for at in range(PROMPT, len(ids)):
        wanted = int(target.logits_after(ids[:at]).argmax())
        best = guesser.logits_after(ids[:at]).topk(WIDTH).indices.tolist()
        if wanted in best:
            accepted[best.index(wanted)] += 1
    assert found.sum(0).tolist() == accepted


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_that_is_the_target_is_always_right(temperature: float) -> None:
    model = TableModel(VOCAB, 3)
    sampler = Sampler.of(SamplingParams(temperature, seed=1), CPU)
    found = judged(model, DraftModel(TableModel(VOCAB, 3)), (text(200), PROMPT), sampler)
    assert found.tolist() == [[1.0, 0.0, 0.0]] * (200 - PROMPT)


@pytest.mark.parametrize("length", [ONE_PASS, ONE_PASS + 1])
def test_a_text_is_judged_the_same_in_one_pass_and_in_two(length: int) -> None:
    target, guesser = (TableModel(VOCAB, seed, order=2, window=4096) for seed in (3, 4))
    ids, sampler = text(length), Sampler.of(SamplingParams(temperature=0.0), CPU)
    whole = judged(target, DraftModel(guesser), (ids, PROMPT), sampler)
    assert target.forwards == 1
    parts = [
        judged(target, DraftModel(guesser), (ids[: at + 100], at), sampler)
        for at in range(PROMPT, length, 100)
    ]
    assert whole.tolist() == np.concatenate(parts).tolist()
    assert len(whole) == length - PROMPT
