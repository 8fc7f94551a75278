"""Muon, an optimiser for matrices (Keller Jordan, https://kellerjordan.github.io/posts/muon/).

A step moves a matrix along the orthogonal matrix nearest to its momentum, so that every direction
is learnt at the same rate. PyTorch's own (`torch.optim.Muon`) always multiplies in bfloat16, which
processors without bfloat16 products emulate a hundred times slower.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: singular values end between 0.7 and 1.2, after few rounds."""
_ROUNDS = 5
_MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Steps along orthogonal matrices, with the `original` adjustment of `torch.optim.Muon`."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": _MOMENTUM}
        super().__init__(params, defaults)
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                gradient, state = matrix.grad, self.state[matrix]
                if gradient is None:
                    continue
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(gradient)
                state["momentum"].lerp_(gradient, 1.0 - group["momentum"])
                ahead = gradient.lerp(state["momentum"], group["momentum"])
                rows, columns = matrix.shape
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
                matrix.add_(orthogonal(ahead, self._dtype), alpha=-rate)


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly U V' of the singular value decomposition U S V' of [m, n], in `dtype`."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
