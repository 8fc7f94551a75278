"""Shaped distributions against plain implementations; draws against the distribution function."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import LOWEST_TEMPERATURE, SamplingParams
from sequoia_core.errors import NumberError
from sequoia_core.speculate import sampling
from sequoia_core.speculate.sampling import (
    draft_probs,
    draw,
    exponential_noise,
    full_probs,
    nucleus_probs,
    ordered_draws,
    shaped_probs,
    top_k_probs,
)

LOGITS = st.lists(st.floats(-8, 8, width=32) | st.sampled_from([0.0, 1.0]), min_size=2, max_size=24)


def plain_nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Sort, add up, stop once the mass is there."""
    kept, mass = torch.zeros_like(probs), 0.0
    for token in sorted(range(len(probs)), key=lambda at: -float(probs[at])):
        if mass >= top_p:
            break
        kept[token] = probs[token]
        mass += float(probs[token])
    return kept / kept.sum()


def uniforms(shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float64)


def shaped(logits: Tensor, params: SamplingParams) -> Tensor:
    return shaped_probs(logits, params)


@given(logits=LOGITS, top_p=st.floats(0.05, 0.95))
@settings(max_examples=150, deadline=None)
def test_the_nucleus_is_that_of_a_plain_sort(logits: list[float], top_p: float) -> None:
    probs = torch.tensor(logits).softmax(-1)
    ordered = probs.sort(descending=True).values.double().cumsum(0)
    if (ordered - top_p).abs().min() < 1e-5:
        reject()  # the sum's rounding decides which of two neighbouring sets it is
    nucleus, complete = nucleus_probs(probs[None], top_p, len(probs))
    expected = plain_nucleus(probs, top_p)
    assert complete.all()
    assert int((nucleus > 0).sum()) == int((expected > 0).sum())
    torch.testing.assert_close(  # equal tokens may stand in for each other
        nucleus[0].sort().values, expected.sort().values, atol=1e-6, rtol=1e-5
    )
    inside, outside = probs[nucleus[0] > 0], probs[nucleus[0] == 0]
    assert not len(outside) or float(inside.min()) >= float(outside.max())


@given(candidates=st.integers(1, 30), top_p=st.floats(0.05, 0.95), seed=st.integers(0, 100))
@settings(deadline=None)
def test_too_few_candidates_are_noticed(candidates: int, top_p: float, seed: int) -> None:
    probs = torch.rand(3, 24, generator=torch.Generator().manual_seed(seed)).softmax(-1)
    nucleus, complete = nucleus_probs(probs, top_p, candidates)
    for row in range(3):
        mass = float(probs[row].topk(min(candidates, 24)).values.sum())
        if abs(mass - top_p) > 1e-5:
            assert bool(complete[row]) == (mass >= top_p or candidates >= 24)
        assert int((nucleus[row] > 0).sum()) <= candidates
    torch.testing.assert_close(nucleus.sum(-1), torch.ones(3))


def test_a_nucleus_wider_than_the_candidates_is_still_exact_for_the_target() -> None:
    width = sampling.NUCLEUS_CANDIDATES
    logits = torch.randn(2, 6 * width, generator=torch.Generator().manual_seed(0)) * 0.01
    logits[1, 7] = 30.0  # one row needs the sort, the other does not
    params = SamplingParams(temperature=1.0, top_p=0.9)
    probs = logits.softmax(-1)
    target = shaped(logits, params)
    assert int((target[0] > 0).sum()) > 5 * width
    for row in range(2):
        expected = plain_nucleus(probs[row], 0.9)
        torch.testing.assert_close(target[row], expected, atol=1e-7, rtol=1e-3)
    drafted = draft_probs(logits, params)
    assert int((drafted[0] > sampling.UNCUT / 10).sum()) == width
    torch.testing.assert_close(drafted.sum(-1), torch.ones(2))


@pytest.mark.parametrize(
    "params", [SamplingParams(0.5, top_p=0.3), SamplingParams(0.5, top_k=1)], ids=["top-p", "top-k"]
)
def test_a_cut_draft_goes_on_in_its_own_order(params: SamplingParams) -> None:
    """One token is left; all others keep their proportions, or every child after it is wasted."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -1.0]])
    whole, drafted = (logits / 0.5).softmax(-1)[0], draft_probs(logits, params)[0]
    assert float(drafted[0]) > 1 - sampling.UNCUT
    torch.testing.assert_close(drafted[1:] / drafted[1], whole[1:] / whole[1])
    torch.testing.assert_close(drafted.sum(), torch.tensor(1.0))


@given(logits=LOGITS, top_k=st.integers(0, 30))
@settings(deadline=None)
def test_top_k_keeps_the_most_probable_and_exactly_so_many(logits: list[float], top_k: int) -> None:
    probs = torch.tensor(logits).softmax(-1)
    kept = top_k_probs(probs[None], top_k)[0]
    count = top_k if 0 < top_k < len(probs) else len(probs)
    assert int((kept > 0).sum()) == count
    assert float(kept.sum()) == pytest.approx(1.0, abs=1e-5)
    inside, outside = probs[kept > 0], probs[kept == 0]
    assert not len(outside) or float(inside.min()) >= float(outside.max())
    ratios = inside / kept[kept > 0]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_ties_do_not_let_more_than_k_through(top_k: int) -> None:
    kept = shaped(torch.zeros(1, 5), SamplingParams(temperature=1.0, top_k=top_k))
    assert int((kept > 0).sum()) == top_k


@given(logits=LOGITS, top_p=st.sampled_from([0.3, 1.0]), top_k=st.sampled_from([0, 2]))
@settings(deadline=None)
def test_temperature_zero_is_the_argmax(logits: list[float], top_p: float, top_k: int) -> None:
    row = torch.tensor([logits])
    probs = shaped(row, SamplingParams(temperature=0.0, top_p=top_p, top_k=top_k))
    assert sorted(probs[0].tolist())[-2:] == [0.0, 1.0]
    assert row[0, int(probs.argmax())] == row.max()


@given(logits=LOGITS, temperature=st.floats(0.1, 10))
@settings(deadline=None)
def test_without_cuts_draft_and_target_are_shaped_alike(
    logits: list[float], temperature: float
) -> None:
    row, params = torch.tensor([logits]), SamplingParams(temperature=temperature)
    assert torch.equal(shaped(row, params), draft_probs(row, params))
    expected = (row.double() / temperature).softmax(-1)
    torch.testing.assert_close(shaped(row, params).double(), expected, atol=1e-6, rtol=1e-4)


@given(weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0]), min_size=1, max_size=12).filter(sum))
def test_a_draw_inverts_the_distribution_function(weights: list[float]) -> None:
    probs = torch.tensor(weights) / sum(weights)
    total = float(probs.double().sum())
    edge = 0.0
    for token, mass in enumerate(probs.double().tolist()):
        if mass:
            assert draw(probs, (edge + mass / 2) / total) == token
            assert draw(probs, min((edge + mass * 1e-6) / total, 1 - 2**-53)) == token
        edge += mass
    assert probs[draw(probs, 0.0)] > 0
    assert probs[draw(probs, 1 - 2**-53)] > 0


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.2, 1.0]), min_size=2, max_size=9).filter(sum),
    seed=st.integers(0, 1000),
)
def test_draws_differ_and_tokens_without_mass_come_last(weights: list[float], seed: int) -> None:
    probs = (torch.tensor(weights) / sum(weights))[None]
    noise = exponential_noise(uniforms(probs.shape, seed))
    drawn = ordered_draws(probs, noise, len(weights))[0].tolist()
    assert sorted(drawn) == list(range(len(weights)))
    has_mass = [weights[token] > 0 for token in drawn]
    assert has_mass == sorted(has_mass, reverse=True)


def test_the_noise_is_unit_exponential() -> None:
    noise = exponential_noise(uniforms((1000, 100), 3)).flatten().double()
    assert (noise > 0).all()
    assert abs(float(noise.mean()) - 1.0) < 5 / 100_000**0.5
    for quantile in (0.001, 0.1, 0.5, 0.9, 0.999):
        below = float((noise < -torch.tensor(1 - quantile).log()).double().mean())
        assert abs(below - quantile) < 5 * (quantile * (1 - quantile) / 100_000) ** 0.5


def test_small_noise_is_not_on_a_grid() -> None:
    """What wins a race over a large vocabulary must be finer than float32's uniform numbers."""
    noise = exponential_noise(uniforms((1_000_000,), 5))
    smallest = noise.sort().values[:50].double() * 2**24
    assert ((smallest - smallest.round()).abs() > 0.01).sum() > 40


def test_what_is_no_number_is_an_error_and_no_token() -> None:
    with pytest.raises(NumberError, match="float32"):
        draw(torch.tensor([0.5, float("nan"), 0.5]), 0.3)


@given(logits=LOGITS, temperature=st.sampled_from([LOWEST_TEMPERATURE, 0.05, 1.0, 100.0]))
def test_every_allowed_temperature_gives_probabilities(
    logits: list[float], temperature: float
) -> None:
    probs = full_probs(torch.tensor([logits]) * 100, temperature)
    assert torch.isfinite(probs).all()
    assert float(probs.sum()) == pytest.approx(1.0)
