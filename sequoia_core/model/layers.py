"""The operations of a Llama's layers: norms, products and rotary positions."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.config import ModelConfig

Product = Callable[[Tensor], Tensor]  # x @ weight.T [+ bias]: [n, in] -> [n, out]


MakeProduct = Callable[[Sequence[str], torch.device], Product | None]
"""Makes the product with named matrices, one above the other, on a device; None: as `dense`."""


def dense(weight: Tensor) -> Product:
    """PyTorch's own product with a weight [out, in]; any device and dtype."""
    return partial(functional.linear, weight=weight)


class RmsNorm:
    """RMS norm (arXiv 1910.07467), rounded once: x / sqrt(mean(x^2) + eps) * weight.

    With `add_one` it is multiplied by 1 + weight in float32, as in Gemma.
    """

    def __init__(self, weight: Tensor, eps: float, add_one: bool = False) -> None:
        width = weight.shape[0]
        if add_one:
            weight = weight.float() + 1.0
        self._weight, self._eps = weight, eps
        # PyTorch has no fused kernel for CPUs but eight small ones; by the length of a row, which
        # is sqrt(width) times the root of its mean square, it takes four
        self._by_length = weight.device.type == "cpu"
        self._long_weight = weight.float() * math.sqrt(width)
        self._least = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        if not self._by_length:
            rows = x.to(self._weight.dtype)
            found = functional.rms_norm(rows, self._weight.shape, self._weight, self._eps)
            return found.to(x.dtype)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.mul(x / length.hypot(self._least), self._long_weight, out=torch.empty_like(x))


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Radians per position of each rotary pair, float32 [rotary_dim / 2], with any scaling.

    In llama3 scaling low frequencies are divided by its factor, high ones kept, others blended, as
    in Meta's code.
    """
    width = config.rotary_dim or config.head_dim
    half = torch.arange(0, width, 2, dtype=torch.float32) / width
    divisors = torch.tensor(config.rope_divisors) if config.rope_divisors else 1.0
    frequencies = 1.0 / (divisors * config.rope_theta**half)
    if (scaling := config.rope_scaling) is None:
        return frequencies
    periods = scaling.original_context_window * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = ((periods - low) / (high - low)).clamp(0.0, 1.0)  # 1: as trained, 0: fully stretched
    return frequencies * keep + frequencies / scaling.factor * (1.0 - keep)


class RotaryEmbedding:
    """Rotary position embedding (arXiv 2104.09864) in Llama's rotate-half layout.

    Cosines and sines are computed in float32 when asked for: a table of a context window of a
    million tokens would take gigabytes.
    """

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        frequencies = inverse_frequencies(config)
        # sin(-x) is -sin(x) to the last bit, so the sign of the first half costs nothing
        self._frequencies = torch.cat((-frequencies, frequencies)).to(device)
        self._factor, self._dtype = config.rope_factor, dtype
        self._magnitude = config.rope_magnitude

    def __call__(self, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines `[n, 1, D]` of positions, int64 [n]; or of `rotary_dim` columns.

        The sine of a dimension's first half is negated, so that rotating is
        `x * cos + roll(x, D / 2) * sin`.
        """
        positions = position_ids[:, None, None].to(torch.float32)
        if self._factor != 1.0:
            positions = positions / self._factor
        angles = positions * self._frequencies  # [n, 1, D]
        cos, sin = angles.cos(), angles.sin()
        if self._magnitude != 1.0:
            cos, sin = cos * self._magnitude, sin * self._magnitude
        return cos.to(self._dtype), sin.to(self._dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each head `[n, heads, D]` by cosines and sines `[n, 1, D]` or `[n, heads, D]`.

    Where they have fewer columns, the other dimensions stay as they are.
    """
    if (width := cos.shape[-1]) < x.shape[-1]:
        return torch.cat((rotate(x[..., :width], cos, sin), x[..., width:]), -1)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def with_unrotated_heads(
    cos: Tensor, sin: Tensor, rotated: int, unrotated: int
) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[n, 1, D]` -> `[n, heads, D]`, which rotate only a row's first heads."""
    others = (0, 0, 0, unrotated)
    cosines = functional.pad(cos.expand(-1, rotated, -1), others, value=1.0)
    return cosines, functional.pad(sin.expand(-1, rotated, -1), others)
