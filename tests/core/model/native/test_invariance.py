"""A row's logits have the same bytes with any other rows and any way of reading its context."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.errors import ContextFullError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.native.library import Pool, instruction_sets
from sequoia_core.model.native.llama import NativeCache, NativeLlama
from tests.core.model.native.gguf_blocks import as_stored, gguf_weights, random_blocks
from tests.core.models import fresh_logits, one_by_one, random_weights, tiny_config

MIXED = ("Q4_1", "Q8_0", "Q6_K", "Q4_0", "Q5_K", "F16", "Q4_K", "BF16")
"""Formats of the matrices in turn, as files called Q4_K_M mix them."""

CASES = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def mixed_config(**changes: object) -> ModelConfig:
    return tiny_config(
        **{
            "hidden_size": 256,
            "intermediate_size": 256,
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_dim": 48,
            "context_window": 700,
        }
        | changes
    )


def mixed_model(
    pool: Pool, instruction_set: str, feature_layers: Sequence[int] = (), **changes: object
) -> NativeLlama:
    config = mixed_config(**changes)
    stored = {}
    for index, (name, tensor) in enumerate(random_weights(config, seed=7).items()):
        kind = MIXED[index % len(MIXED)]
        fits = tensor.dim() == 2 and tensor.shape[1] % 256 == 0
        stored[name] = random_blocks(kind, tensor.shape, index) if fits else as_stored(tensor)
    weights = gguf_weights(stored, {"q_proj": 6, "k_proj": 2})
    return NativeLlama(
        config, weights, pool, feature_layers=feature_layers, instruction_set=instruction_set
    )


ONE, TWO = (Pool(1), Pool(2)) if instruction_sets() else (None, None)
MODELS = {
    (name, pool.threads): mixed_model(pool, name)
    for name in instruction_sets()
    for pool in (ONE, TWO)
    if pool
}


OWN: dict[str, dict[str, Any]] = {
    "norms": {
        "qk_norm": "whole",
        "norm_inputs": False,
        "norm_outputs": True,
        "norms_add_one": True,
        "residual_multiplier": 0.5,
    },
    "a window": {
        "sliding_window": 9,
        "sliding_layers": (1,),
        "local_rope_theta": 100.0,
        "qk_norm": "head",
        "norm_outputs": True,
        "activation": "gelu_tanh",
    },
    "caps": {
        "attention_softcap": 3.0,
        "logit_softcap": 20.0,
        "logits_divisor": 0.7,
        "rotary_dim": 32,
        "unrotated_layers": (0,),
        "sliding_window": 200,
        "sliding_layers": (0, 1),
    },
}
"""What families have beyond a Llama."""
FAMILIES = {
    (name, TWO.threads): mixed_model(TWO, instruction_sets()[0], **changes)
    for name, changes in OWN.items()
    if TWO
}


def tree_mask(parents: Sequence[int], length: int) -> Tensor:
    """bool [n, length + n] of nodes whose parents come before them; -1 is the last token read."""
    mask = torch.zeros(len(parents), length + len(parents), dtype=torch.bool)
    mask[:, :length] = True
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node, length:] = mask[parent, length:]
        mask[node, length + node] = True
    return mask


def read(model: NativeLlama, ids: Tensor, chunks: Sequence[int]) -> NativeCache:
    cache = model.new_cache()
    sizes = [*chunks, max(len(ids) - sum(chunks), 0)]
    for chunk in torch.split(ids, sizes):
        if len(chunk):
            model.extend(chunk, cache)
    return cache


@st.composite
def trees(draw: st.DrawFn) -> list[int]:
    size = draw(st.integers(1, 40))
    return [
        draw(st.integers(max(-1, node - draw(st.sampled_from([1, 4, 40]))), node - 1))
        for node in range(size)
    ]


@pytest.mark.parametrize("which", MODELS | FAMILIES, ids=str)
@given(
    parents=trees(),
    length=st.sampled_from([1, 2, 15, 16, 17, 63, 64, 100, 255, 256, 257, 300]),
    chunks=st.lists(st.integers(1, 40), max_size=4),
    seed=st.integers(0, 99),
    data=st.data(),
)
@CASES
def test_nodes_of_a_tree_equal_plain_decoding_bit_for_bit(
    which: tuple[str, int],
    parents: list[int],
    length: int,
    chunks: list[int],
    seed: int,
    data: st.DataObject,
) -> None:
    model = (MODELS | FAMILIES)[which]
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(61, (length,), generator=generator)
    ids = torch.randint(61, (len(parents),), generator=generator)
    while sum(chunks) > length:
        chunks.pop()
    tree_cache, plain_cache = read(model, text, chunks), read(model, text, [])
    mask = tree_mask(parents, length)
    depths = mask[:, length:].sum(1) - 1
    about = data.draw(st.integers(0, length))  # the tokens before them are visible anyway
    logits = model.forward(ids, depths + length, mask[:, about:], tree_cache)
    leaf = data.draw(st.integers(0, len(parents) - 1))
    path = mask[leaf, length:].nonzero().flatten().tolist()
    plain = one_by_one(model, ids[path].tolist(), plain_cache)
    assert torch.equal(logits[path], plain)
    # what is kept of the tree is as good as text that was read
    tree_cache.keep(length, [length + node for node in path])
    more = torch.randint(61, (5,), generator=generator)
    places = torch.arange(tree_cache.length, tree_cache.length + 5)
    after = model.forward(more, places, None, tree_cache)
    assert torch.equal(after, one_by_one(model, more.tolist(), plain_cache))


@pytest.mark.parametrize("name", instruction_sets())
def test_the_number_of_threads_changes_no_bit(name: str) -> None:
    ids = torch.arange(300) % 61
    one, two = (fresh_logits(model, ids) for model in (MODELS[name, 1], MODELS[name, 2]))
    assert torch.equal(one, two)


@pytest.mark.parametrize("which", MODELS, ids=str)
def test_a_truncated_cache_goes_on_as_if_nothing_had_followed(which: tuple[str, int]) -> None:
    model = MODELS[which]
    ids = torch.arange(600) % 61
    cache, fresh = read(model, ids, []), read(model, ids[:270], [])
    cache.truncate(270)
    assert cache.length == 270
    assert torch.equal(one_by_one(model, [3, 1, 4], cache), one_by_one(model, [3, 1, 4], fresh))


def test_pages_that_a_truncated_cache_does_not_need_are_freed() -> None:
    model = next(iter(MODELS.values()))
    cache = read(model, torch.arange(700) % 61, [])
    full = cache.nbytes
    cache.truncate(3)
    assert cache.nbytes <= 2 * full // 3


def test_a_full_window_is_refused_and_the_cache_is_unchanged() -> None:
    model = next(iter(MODELS.values()))
    cache = read(model, torch.arange(699) % 61, [])
    with pytest.raises(ContextFullError, match="701 tokens do not fit"):
        model.forward(torch.tensor([1, 2]), torch.tensor([699, 700]), None, cache)
    with pytest.raises(ContextFullError):
        model.extend(torch.arange(2), cache)
    assert cache.length == 699
