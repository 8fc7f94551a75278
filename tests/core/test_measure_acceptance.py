"""Counted acceptance rates are the ones that enumeration gives for known distributions."""

import math
import random
from collections.abc import Sequence

import pytest
import torch

from sequoia_core.config import SamplingParams
from sequoia_core.draft import DraftModel
from sequoia_core.measure.acceptance import AcceptanceCount
from sequoia_core.speculator import Sampler
from tests.core.models import TableModel
from tests.core.test_lossless_sampling import ordered_tuples

VOCAB, WIDTH, PROMPT = 5, 3, 4
CPU = torch.device("cpu")


def rates_at(p: Sequence[float], q: Sequence[float], support: Sequence[int]) -> list[float]:
    """Probability that Algorithm 2 accepts the k-th child, over every possible draw."""
    rates = [0.0] * WIDTH
    for tokens, probability in ordered_tuples(q, support, WIDTH):
        left, draft, reach = list(p), list(q), probability
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
    counter = AcceptanceCount(WIDTH)
    counter.count(
        target, draft, (ids, PROMPT), Sampler.of(SamplingParams(temperature, seed=9), CPU)
    )
    tables = {}
    for last in range(VOCAB):
        q = torch.zeros(VOCAB)
        q[support] = (guesser.logits_after([last]) / temperature).softmax(-1)
        p = (target.logits_after([last]) / temperature).softmax(-1)
        tables[last] = rates_at(p.tolist(), q.tolist(), support)
    assert counter.positions == len(ids) - PROMPT
    for rank, rate in enumerate(counter.rates):
        expected = math.fsum(tables[last][rank] for last in ids[PROMPT - 1 : -1])
        expected /= counter.positions
        assert abs(rate - expected) < 4.5 * math.sqrt(expected * (1 - expected) / counter.positions)


def test_greedy_rates_are_counted_exactly() -> None:
    target, guesser = (TableModel(VOCAB, seed, order=2, window=4096) for seed in (3, 4))
    ids = text(400)
    counter = AcceptanceCount(WIDTH)
    sampler = Sampler.of(SamplingParams(temperature=0.0), CPU)
    counter.count(target, DraftModel(guesser), (ids, PROMPT), sampler)
    accepted = [0] * WIDTH
    for at in range(PROMPT, len(ids)):
        wanted = int(target.logits_after(ids[:at]).argmax())
        best = guesser.logits_after(ids[:at]).topk(WIDTH).indices.tolist()
        if wanted in best:
            accepted[best.index(wanted)] += 1
    assert counter.rates == tuple(count / (len(ids) - PROMPT) for count in accepted)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_draft_that_is_the_target_is_always_right(temperature: float) -> None:
    model = TableModel(VOCAB, 3)
    counter = AcceptanceCount(WIDTH)
    sampler = Sampler.of(SamplingParams(temperature, seed=1), CPU)
    counter.count(model, DraftModel(TableModel(VOCAB, 3)), (text(200), PROMPT), sampler)
    assert counter.rates == (1.0, 0.0, 0.0)


def test_several_texts_add_up_and_none_gives_no_rates() -> None:
    counter = AcceptanceCount(WIDTH)
    assert counter.rates == ()
    target, draft = TableModel(VOCAB, 3), DraftModel(TableModel(VOCAB, 4))
    sampler = Sampler.of(SamplingParams(temperature=0.0), CPU)
    alone: list[AcceptanceCount] = []
    for length in (20, 50):
        counter.count(target, draft, (text(length), PROMPT), sampler)
        single = AcceptanceCount(WIDTH)
        single.count(target, draft, (text(length), PROMPT), sampler)
        alone.append(single)
    assert counter.positions == sum(each.positions for each in alone) == 70 - 2 * PROMPT
    rates: tuple[float, ...] = counter.rates
    for rank, rate in enumerate(rates):
        total = sum(each.rates[rank] * each.positions for each in alone)
        assert rate == pytest.approx(total / counter.positions)
