"""Rotary embedding against transformers' own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.layers import RotaryEmbedding, rotate

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"rope_type": "default", "rope_theta": 10000.0},
    "another base": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama 3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 256,
    },
}


def configs(kind: str) -> tuple[LlamaConfig, ModelConfig]:
    theirs = LlamaConfig(
        vocab_size=32,
        hidden_size=128,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters=KINDS[kind],
    )
    return theirs, ModelConfig.from_hf(theirs.to_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_rotated_heads_are_transformers_own(kind: str) -> None:
    theirs, ours = configs(kind)
    x = torch.randn(2048, 2, 64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(2048)
    cos, sin = RotaryEmbedding(ours, CPU, torch.float32)(positions)
    their_cos, their_sin = LlamaRotaryEmbedding(theirs)(x, positions[None])
    heads = x.transpose(0, 1)[None]
    expected, _ = apply_rotary_pos_emb(heads, heads, their_cos, their_sin)
    actual = rotate(x, cos, sin)
    # yarn stretches frequencies of a radian per position, whose rounding counts 2,048 times
    near = 1e-3 if kind == "yarn" else 1e-4
    torch.testing.assert_close(actual, expected[0].transpose(0, 1), atol=near, rtol=1e-4)


def test_the_kinds_differ_from_each_other() -> None:
    positions = torch.arange(2048)
    tables = [RotaryEmbedding(configs(kind)[1], CPU, torch.float32)(positions)[0] for kind in KINDS]
    for at, one in enumerate(tables):
        assert not any(torch.allclose(one, other, atol=1e-3) for other in tables[at + 1 :])


@given(
    kind=st.sampled_from(sorted(KINDS)),
    first=st.integers(0, 1000),
    second=st.integers(0, 1000),
    shift=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_scores_depend_on_the_distance_only(kind: str, first: int, second: int, shift: int) -> None:
    rotary = RotaryEmbedding(configs(kind)[1], CPU, torch.float32)
    x, y = torch.randn(2, 1, 1, 64, generator=torch.Generator().manual_seed(1))

    def rotated(value: torch.Tensor, position: int) -> torch.Tensor:
        return rotate(value, *rotary(torch.tensor([position]))).flatten()

    near = rotated(x, first) @ rotated(y, second)
    far = rotated(x, first + shift) @ rotated(y, second + shift)
    torch.testing.assert_close(near, far, atol=2e-3, rtol=1e-3)
    stretched = x.norm() * configs(kind)[1].rope_magnitude
    torch.testing.assert_close(rotated(x, first).norm(), stretched)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(data=st.data(), rows=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_a_row_is_the_same_to_the_last_bit_whatever_rows_it_is_computed_with(
    kind: str, dtype: torch.dtype, data: st.DataObject, rows: int
) -> None:
    config = replace(configs(kind)[1], context_window=1 << 22)
    near = torch.arange(2048)
    far = torch.tensor(data.draw(st.lists(st.integers(0, (1 << 22) - 1), min_size=rows)))
    for positions, picked in ((near, torch.randint(2048, (rows,))), (far, torch.arange(len(far)))):
        rotary = RotaryEmbedding(config, CPU, dtype)
        cos, sin = rotary(positions)
        assert torch.equal(rotary(positions[picked])[0], cos[picked])
        for row in picked[:5].tolist():
            one_cos, one_sin = rotary(positions[row : row + 1])
            assert torch.equal(one_cos[0], cos[row])
            assert torch.equal(one_sin[0], sin[row])
            half = cos.shape[-1] // 2
            assert torch.equal(one_sin[0, :, :half], -one_sin[0, :, half:])


def test_memory_follows_the_positions_that_are_read() -> None:
    rotary = RotaryEmbedding(
        replace(configs("plain")[1], context_window=1 << 40), CPU, torch.float32
    )
    cos, sin = rotary(torch.tensor([(1 << 22) - 1, 0]))
    assert cos.shape == sin.shape == (2, 1, 64)
    assert torch.equal(cos[1], torch.ones(1, 64))
