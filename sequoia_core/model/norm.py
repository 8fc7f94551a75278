"""RMS norm (arXiv 1910.07467) in as few kernels as the device has for it. Knows no layers."""

import math

import torch
from torch import Tensor
from torch.nn import functional


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight, row by row, rounded once at the end.

    Args:
        weight: [hidden].
        eps: keeps a row of zeros from dividing by zero.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        width = weight.shape[0]
        self._weight, self._eps = weight, eps
        # PyTorch has no fused kernel for CPUs but eight small ones; by the length of a row, which
        # is sqrt(width) times the root of its mean square, it takes four
        self._by_length = weight.device.type == "cpu"
        self._long_weight = weight.float() * math.sqrt(width)
        self._least = torch.tensor(math.sqrt(width * eps), device=weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        """[n, hidden] -> [n, hidden]."""
        if not self._by_length:
            return functional.rms_norm(x, self._weight.shape, self._weight, self._eps)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return torch.mul(x / length.hypot(self._least), self._long_weight, out=torch.empty_like(x))
