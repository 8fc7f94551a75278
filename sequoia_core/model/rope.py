"""Rotary position embedding: frequencies, llama3 scaling and the rotation itself.

Source: Su et al., arXiv 2104.09864, in Llama's rotate-half layout; the llama3 scaling follows
Meta's published inference code. Knows nothing of attention.
"""

import math

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotary pair, float32 `[D / 2]`, scaling included."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**half
    if config.rope_scaling is not None:
        frequencies = _llama3_scaled(frequencies, config.rope_scaling)
    return frequencies


def rotary_tables(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of every position of the context window.

    The sine of a dimension's first half is negated, so that rotating is
    `x * cos + roll(x, D / 2) * sin`.

    Returns:
        two tensors `[context_window, 1, D]`.
    """
    frequencies = inverse_frequencies(config)
    positions = torch.arange(config.context_window, dtype=torch.float32) / config.rope_factor
    angles = positions[:, None] * frequencies[None, :]  # [context_window, D / 2]
    cos, sin = angles.cos(), angles.sin()
    cosines = torch.cat((cos, cos), dim=-1)[:, None, :]
    sines = torch.cat((-sin, sin), dim=-1)[:, None, :]
    return cosines.to(device, dtype), sines.to(device, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head of each row to its position.

    Args:
        x: `[n, heads, D]`.
        cos: rows of `rotary_tables` at the rows' positions, `[n, 1, D]` or a head's own.
        sin: likewise.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def with_still_heads(cos: Tensor, sin: Tensor, moving: int, still: int) -> tuple[Tensor, Tensor]:
    """Tables that turn the first heads of a row and leave those after them as they are.

    Args:
        cos: `[n, 1, D]`.
        sin: likewise.
        moving: heads to turn.
        still: heads to leave.

    Returns:
        two tensors `[n, moving + still, D]`.
    """
    shape = (cos.shape[0], still, cos.shape[2])
    turned_cos, turned_sin = (each.expand(-1, moving, -1) for each in (cos, sin))
    cosines = torch.cat((turned_cos, cos.new_ones(shape)), dim=1)
    return cosines, torch.cat((turned_sin, sin.new_zeros(shape)), dim=1)


def _llama3_scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Divide low frequencies by the factor, keep high ones, and blend in between."""
    turns = scaling.original_context_window * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0.0, 1.0)  # 1: as trained, 0: fully stretched
    return frequencies * keep + frequencies / scaling.factor * (1.0 - keep)
