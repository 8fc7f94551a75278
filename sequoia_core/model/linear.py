"""Matrix products with the weights laid out for the device they run on.

Owns the choice between PyTorch's own linear and oneDNN's prepacked one; knows nothing of what the
products mean. Prepacking is chosen for bfloat16 on CPUs, where it measured faster at every row
count (see docs/decisions).
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.int8_rows import pack_rows


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


class SkinnyInt8Linear:
    """Int8 rows for few rows of x, `PackedLinear` for many; CPU bfloat16.

    Up to `INT8_ROWS` rows a product costs what reading its weights costs, and int8 halves that. The
    weights are rounded to 255 levels per output row: good for a draft, whose distribution may be
    any as long as it is the one drawn from.
    """

    def __init__(self, weight: Tensor) -> None:
        self._many = PackedLinear(weight)
        self._values, scales = pack_rows(weight)
        self._scales = scales.flatten().to(weight.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        if x.shape[0] > INT8_ROWS:
            return self._many(x)
        return torch._weight_int8pack_mm(x, self._values, self._scales)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        if x.shape[0] > INT8_ROWS:
            return self._many.add(x, residual)
        return torch._weight_int8pack_mm(x, self._values, self._scales).add_(residual)


PACK_ROWS = 16
"""Row count the blocked layout is chosen for; trees of 8 to 32 nodes are the common case."""

INT8_ROWS = 8
"""Most rows for which int8 weights measured faster than bfloat16 ones (docs/decisions/0008)."""


def pack(weight: Tensor, skinny_int8: bool = False) -> Linear:
    """The fastest linear for this weight's device and dtype.

    Args:
        weight: [out, in].
        skinny_int8: allow int8 weights for few rows, where that is faster.
    """
    on_cpu = weight.device.type == "cpu"
    if on_cpu and weight.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return SkinnyInt8Linear(weight) if skinny_int8 else PackedLinear(weight)
    return DenseLinear(weight)
