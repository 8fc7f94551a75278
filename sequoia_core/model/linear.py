"""Matrix products with the weights laid out for the device they run on.

Owns the choice between PyTorch's own linear and oneDNN's prepacked one; knows nothing of what the
products mean. Prepacking is chosen for bfloat16 on CPUs, where it measured faster at every row
count (see docs/decisions).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Linear(Protocol):
    """x @ weight.T, optionally with what follows it fused."""

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        ...

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        ...


class DenseLinear:
    """PyTorch's own product; any device and dtype."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return functional.linear(x, self._weight)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return residual + functional.linear(x, self._weight)


class PackedLinear:
    """oneDNN's product with the weight reordered once into its blocked layout; CPU bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
        return product

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, None, "add"
        )
        return total


PACK_ROWS = 16
"""Row count the blocked layout is chosen for; trees of 8 to 32 nodes are the common case."""


def pack(weight: Tensor) -> Linear:
    """The fastest linear for this weight's device and dtype."""
    on_cpu = weight.device.type == "cpu"
    if on_cpu and weight.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return PackedLinear(weight)
    return DenseLinear(weight)
