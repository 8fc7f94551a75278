"""The native forward against the float32 one, for every format and odd shapes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.gguf import GgufWeights
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import NativeLlama
from tests.core.model.native.gguf_blocks import (
    FORMATS,
    QUANTIZED,
    as_stored,
    gguf_weights,
    random_blocks,
)
from tests.core.models import fresh_logits, random_weights, tiny_config

CPU = torch.device("cpu")


def reference_logits(config: ModelConfig, weights: object, ids: Tensor) -> Tensor:
    model = Llama(config, weights, CPU, torch.float32)  # type: ignore[arg-type]
    return fresh_logits(model, ids)


def uneven_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With other numbers than ones in the norms."""
    return {
        name: torch.linspace(0.5, 1.5, len(each)) if name.endswith("norm.weight") else each
        for name, each in weights.items()
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"head_dim": 24, "hidden_size": 40, "intermediate_size": 56},
        {"head_dim": 10, "num_heads": 3, "num_kv_heads": 1, "hidden_size": 30},
        {"head_dim": 64, "num_heads": 2, "num_kv_heads": 2, "hidden_size": 33},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 12},
        {"rope_factor": 4.0},
        {"qk_norm": "head", "head_dim": 12},
        {"qk_norm": "whole", "head_dim": 12},
        {"qk_norm": "whole", "num_kv_heads": 1},
        {"norm_outputs": True, "hidden_size": 40},
        {"norm_inputs": False, "norm_outputs": True, "residual_multiplier": 0.3},
        {"sliding_window": 9, "sliding_layers": (1,)},
        {"sliding_window": 1, "sliding_layers": (0, 1), "num_kv_heads": 4},
        {"norms_add_one": True, "scaled_embedding": True, "activation": "gelu_tanh"},
        {
            "local_rope_theta": 100.0,
            "sliding_window": 20,
            "sliding_layers": (1,),
            "rope_factor": 4.0,
        },
        {"attention_softcap": 2.0, "logit_softcap": 3.0, "logits_divisor": 2.0},
        {"attention_softcap": 1e6, "logit_softcap": 1e4},
        {"fused": True, "head_dim": 12},
        {"rotary_dim": 6, "rope_divisors": (1.0, 1.5, 4.0), "rope_magnitude": 1.2},
        {"unrotated_layers": (1,)},
        {"unrotated_layers": (0, 1)},
        {"embedding_multiplier": 3.3, "residual_multiplier": 0.4, "hidden_size": 40},
        {"attention_scale": 0.2, "logits_divisor": 0.7},
        {"vocab_size": 37, "head_vocab_size": 37, "intermediate_size": 17},
    ],
    ids=lambda changes: " ".join(f"{key}={value}" for key, value in changes.items()) or "plain",
)
def test_float32_checkpoints_of_any_shape_give_the_float32_logits(
    changes: dict[str, object], pool: Pool, instruction_set: str
) -> None:
    config = tiny_config(**changes)
    weights = uneven_norms(random_weights(config, seed=3))
    ids = torch.randint(config.vocab_size, (70,), generator=torch.Generator().manual_seed(1))
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    wanted = reference_logits(config, weights, ids)
    torch.testing.assert_close(fresh_logits(model, ids), wanted, rtol=1e-4, atol=1e-4)


def test_keys_far_outside_of_a_window_are_not_read(pool: Pool, instruction_set: str) -> None:
    """Of pages too that some rows of a prompt see, and others do not."""
    config = tiny_config(sliding_window=40, sliding_layers=(0, 1), context_window=700)
    weights = random_weights(config, seed=3)
    ids = torch.arange(600) % config.vocab_size
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    wanted = reference_logits(config, weights, ids)
    torch.testing.assert_close(fresh_logits(model, ids), wanted, rtol=1e-4, atol=1e-4)


def test_float16_checkpoints_are_read_as_they_lie(pool: Pool, instruction_set: str) -> None:
    config = tiny_config()
    weights = {name: tensor.half() for name, tensor in random_weights(config, seed=4).items()}
    ids = torch.arange(20) % config.vocab_size
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    wanted = reference_logits(config, weights, ids)
    # keys and values are float16
    torch.testing.assert_close(fresh_logits(model, ids), wanted, rtol=1e-2, atol=1e-2)


def round_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference rounds the inputs of its products to bfloat16, as the native forward does."""
    exact = functional.linear
    monkeypatch.setattr(functional, "linear", lambda x, weight: exact(x.bfloat16().float(), weight))


def test_bfloat16_checkpoints_are_computed_with_bfloat16_inputs(
    pool: Pool, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config()
    weights = {name: tensor.bfloat16() for name, tensor in random_weights(config, seed=4).items()}
    ids = torch.arange(20) % config.vocab_size
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    round_inputs(monkeypatch)
    wanted = reference_logits(config, weights, ids)
    # keys and values are float16, so some inputs are rounded the other way
    assert (fresh_logits(model, ids) - wanted).norm() / wanted.norm() < 1e-2


def test_inputs_of_bfloat16_matrices_are_rounded_to_nearest_even(
    pool: Pool, instruction_set: str
) -> None:
    config = tiny_config(hidden_size=48, tie_word_embeddings=False, rms_norm_eps=1e-30)
    weights = random_weights(config, seed=6)
    for name in weights:  # layers that add nothing leave the embedding in the residual stream
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = torch.zeros_like(weights[name])
    head = weights["lm_head.weight"] = weights["lm_head.weight"].bfloat16()
    # ties, which go to the even neighbour, and a number just above one
    steps = torch.tensor([1.0, 1 + 2**-8, 1 + 2**-7, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-16])
    norm = weights["model.norm.weight"] = steps.repeat(10)[:48] * torch.tensor([1.0, -2.0] * 24)
    weights["model.embed_tokens.weight"] = torch.ones(config.vocab_size, 48)
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    wanted = norm.bfloat16().float() @ head.float().T
    assert (norm @ head.float().T - wanted).abs().max() > 1e-2
    torch.testing.assert_close(
        fresh_logits(model, torch.arange(3))[0], wanted, rtol=1e-6, atol=1e-5
    )


def blocks_model(name: str, **changes: object) -> tuple[ModelConfig, GgufWeights]:
    """A model of one layer whose matrices are all stored in one format."""
    sizes: dict[str, object] = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "head_dim": 64,
    } | changes
    config = tiny_config(num_heads=4, num_kv_heads=2, num_layers=1, **sizes)
    exact = random_weights(config, seed=5)
    stored = {}
    for seed, (key, tensor) in enumerate(exact.items()):
        matrix = tensor.dim() == 2
        stored[key] = random_blocks(name, tensor.shape, seed) if matrix else as_stored(tensor)
    return config, gguf_weights(stored, {"q_proj": 4, "k_proj": 2})


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_of_a_gguf_file_give_nearly_the_float32_logits(
    name: str, pool: Pool, instruction_set: str
) -> None:
    config, weights = blocks_model(name)
    ids = torch.arange(25) % config.vocab_size
    model = NativeLlama(config, weights, pool, instruction_set=instruction_set)
    wanted = reference_logits(config, weights, ids)
    error = (fresh_logits(model, ids) - wanted).norm() / wanted.norm()
    # inputs have 8 bits, also those of bfloat16; a scale misread gives an error near one
    assert error < (2e-2 if name in QUANTIZED else 1e-2 if name == "BF16" else 2e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_what_families_have_is_computed_with_blocks_too(name: str, instruction_set: str) -> None:
    config, weights = blocks_model(
        name,
        qk_norm="head",
        norm_outputs=True,
        norms_add_one=True,
        activation="gelu_tanh",
        scaled_embedding=True,
        attention_softcap=20.0,
        logit_softcap=30.0,
        sliding_window=9,
        sliding_layers=(0,),
        rotary_dim=32,
    )
    ids = torch.arange(25) % config.vocab_size
    model = NativeLlama(config, weights, Pool(2), instruction_set=instruction_set)
    wanted = reference_logits(config, weights, ids)
    error = (fresh_logits(model, ids) - wanted).norm() / wanted.norm()
    assert error < (2e-2 if name in QUANTIZED else 1e-2 if name == "BF16" else 2e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_an_embedding_in_blocks_is_read_exactly(
    name: str, pool: Pool, instruction_set: str
) -> None:
    config, weights = blocks_model(name)
    zeroed = dict(weights.items())
    for key in zeroed:  # layers that add nothing leave the embedding in the residual stream
        if key.endswith(("o_proj.weight", "down_proj.weight")):
            zeroed[key] = torch.zeros_like(zeroed[key])
    stored = dict(weights._entries)
    for key in stored:
        if key.endswith(("o_proj.weight", "down_proj.weight")):
            stored[key] = as_stored(zeroed[key])
    head = torch.eye(config.vocab_size, config.hidden_size)
    stored["lm_head.weight"] = as_stored(head)
    stored["model.norm.weight"] = as_stored(torch.ones(config.hidden_size))
    ids = torch.arange(config.vocab_size)
    model = NativeLlama(
        config,
        gguf_weights(stored, {"q_proj": 4, "k_proj": 2}),
        pool,
        instruction_set=instruction_set,
    )
    embedded = weights["model.embed_tokens.weight"]
    normed = torch.nn.functional.rms_norm(embedded, (config.hidden_size,), eps=config.rms_norm_eps)
    torch.testing.assert_close(fresh_logits(model, ids), normed @ head.T, rtol=1e-5, atol=1e-6)
