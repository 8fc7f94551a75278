"""A row-invariant forward: a tree's logits are plain decoding's, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import Kernels, SamplingParams, WeightFormat
from sequoia_core.growmap import GrowMap
from sequoia_core.model.attention import additive, mix, mix_in_any_order
from sequoia_core.model.llama import Llama
from tests.core.coded import coded
from tests.core.engines import make_engine, tokens_of, tree_of
from tests.core.models import random_weights, tiny_config

SHAPES = {"hidden_size": 64, "intermediate_size": 96, "num_kv_heads": 2, "head_dim": 16}
EXACT = [Kernels(weights, row_invariant=True) for weights in WeightFormat]


def llama(dtype: torch.dtype, kernels: Kernels, seed: int = 5) -> Llama:
    config = tiny_config(**SHAPES)
    weights = {
        name: coded(weight) if "proj" in name else weight
        for name, weight in random_weights(config, seed).items()
    }
    return Llama(config, weights, torch.device("cpu"), dtype, kernels)


MODELS = {
    (dtype, kernels): llama(dtype, kernels)
    for dtype in (torch.float32, torch.bfloat16)
    for kernels in EXACT
}


def tree_logits(model: Llama, growmap: GrowMap, prefix: Tensor, tokens: Tensor) -> Tensor:
    cache = model.new_cache()
    model.extend(prefix, cache)
    seen = torch.ones(growmap.size, len(prefix), dtype=torch.bool)
    mask = torch.cat((seen, growmap.ancestor_mask()), dim=1)
    return model.forward(tokens, torch.tensor(growmap.depths) + len(prefix), mask, cache)


def plain_logits(model: Llama, prefix: Tensor, path: Tensor) -> Tensor:
    """Logits after the path's last token, every token of it read by a forward of its own."""
    cache = model.new_cache()
    model.extend(prefix, cache)
    for token in path:
        logits = model.forward(token[None], torch.tensor([cache.length]), None, cache)
    return logits[0]


@pytest.mark.parametrize("of", MODELS, ids=str)
@given(
    parents=st.lists(st.integers(0, 60), max_size=40),
    length=st.integers(1, 150),
    seed=st.integers(0, 1000),
)
@settings(max_examples=12, deadline=None)
def test_every_branch_reads_bit_for_bit_as_in_plain_decoding(
    of: tuple[torch.dtype, Kernels], parents: list[int], length: int, seed: int
) -> None:
    model, growmap = MODELS[of], tree_of(parents)
    generator = torch.Generator().manual_seed(seed)
    prefix = torch.randint(61, (length,), generator=generator)
    tokens = torch.randint(61, (growmap.size,), generator=generator)
    logits = tree_logits(model, growmap, prefix, tokens)
    for leaf in {0, growmap.size // 2, growmap.size - 1}:
        path = [leaf]
        while path[0]:
            path.insert(0, growmap.parents[path[0]])
        assert torch.equal(logits[leaf], plain_logits(model, prefix, tokens[path]))


@pytest.mark.parametrize("of", MODELS, ids=str)
def test_a_prompt_read_at_once_leaves_what_single_rows_leave(
    of: tuple[torch.dtype, Kernels],
) -> None:
    model, text = MODELS[of], torch.arange(90) % 61
    whole = plain_logits(model, text[:-1], text[-1:])
    assert torch.equal(whole, plain_logits(model, text[:1], text[1:]))


@given(rows=st.integers(1, 9), span=st.integers(1, 80), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_both_attentions_agree(rows: int, span: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(1, 2, 3 * rows, 16, generator=generator)
    keys, values = (torch.randn(1, 2, span, 16, generator=generator) for _ in range(2))
    mask = torch.rand(rows, span, generator=generator) < 0.5
    mask[:, 0] = True
    bias, exact_bias = (additive(mask, 3, dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(
        mix(queries, keys, values, bias), mix_in_any_order(queries, keys, values, exact_bias)
    )
    torch.testing.assert_close(
        mix(queries, keys, values, None), mix_in_any_order(queries, keys, values, None)
    )


@pytest.mark.parametrize("kernels", EXACT, ids=str)
def test_bfloat16_greedy_text_is_plain_decodings(kernels: Kernels) -> None:
    target = llama(torch.bfloat16, kernels)
    draft = llama(torch.bfloat16, Kernels(WeightFormat.INT8), seed=5)
    greedy = SamplingParams(temperature=0.0, max_new_tokens=60)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    plain = tokens_of(list(make_engine(target, None).generate(prompt, greedy)))
    for growmap in (GrowMap.chain(4), GrowMap.k_ary([2, 2, 2]), GrowMap.k_ary([12])):
        engine = make_engine(target, draft, growmap)
        assert tokens_of(list(engine.generate(prompt, greedy))) == plain
