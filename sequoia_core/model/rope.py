"""Rotary position embedding: frequencies, llama3 scaling and the rotation itself.

Source: Su et al., arXiv 2104.09864, in Llama's rotate-half layout; the llama3 scaling follows
Meta's published inference code. Knows nothing of attention.
"""

import copy
import math

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotary pair, float32 `[D / 2]`, llama3 scaling included."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**half
    if config.rope_scaling is not None:
        frequencies = _llama3_scaled(frequencies, config.rope_scaling)
    return frequencies


class RotaryEmbedding:
    """Cosines and sines of positions, computed when they are asked for.

    A table of the whole context window would take gigabytes where that is a million tokens.

    Args:
        config: of the model.
        device: where positions lie.
        dtype: of the cosines and sines; they are computed in float32.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        frequencies = inverse_frequencies(config)
        # sin(-x) is -sin(x) to the last bit, so the sign of the first half costs nothing
        self._frequencies = torch.cat((-frequencies, frequencies)).to(device)
        self._factor, self._dtype = config.rope_factor, dtype

    def to(self, device: torch.device) -> "RotaryEmbedding":
        """The same for positions on another device."""
        other = copy.copy(self)
        other._frequencies = self._frequencies.to(device, non_blocking=True)
        return other

    def __call__(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of positions.

        The sine of a dimension's first half is negated, so that rotating is
        `x * cos + roll(x, D / 2) * sin`.

        Args:
            position_ids: int64 [n].

        Returns:
            two tensors `[n, 1, D]`.
        """
        positions = position_ids[:, None, None].to(torch.float32)
        if self._factor != 1.0:
            positions = positions / self._factor
        angles = positions * self._frequencies  # [n, 1, D]
        return angles.cos().to(self._dtype), angles.sin().to(self._dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each head of each row to its position.

    Args:
        x: `[n, heads, D]`.
        cos: of `RotaryEmbedding` at the rows' positions, `[n, 1, D]` or a head's own.
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
