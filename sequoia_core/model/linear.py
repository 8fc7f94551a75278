"""Matrix products with the weights laid out for the device they run on.

Owns which kernel computes a product, by the weight's number format and the number of rows; knows
nothing of what the products mean. The choices were measured, see docs/decisions 0002, 0008, 0012.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.config import Kernels, WeightFormat
from sequoia_core.model.four_bit import GROUP, LEVELS, ROWS_AT_ONCE, Codes, find_codes
from sequoia_core.model.int8_rows import pack_rows, unpack_rows

FOR_DRAFTS = Kernels(WeightFormat.INT8)
"""A draft's distribution may be any, as long as it is the one drawn from."""

FOR_SMALL_DRAFTS = Kernels(WeightFormat.INT8, one_copy=True)
"""Of a draft of a layer or so, reading a prompt costs little whatever the kernel."""


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


INT8_WIDTH = 16
"""Values that the int8 kernel reads at a time.

It does not stop at the end of a row, so rows of another width are filled up with zeros.
"""


class Int8Linear:
    """PyTorch's product with int8 rows, one scale each; CPU bfloat16."""

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        self._padding = (0, -values.shape[1] % INT8_WIDTH)
        self._values, self._scales = functional.pad(values, self._padding), scales.flatten()

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        if self._padding[1]:
            x = functional.pad(x, self._padding)
        return torch._weight_int8pack_mm(x, self._values, self._scales)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return self(x).add_(residual)


FOUR_BIT_OUT = 16
"""The 4-bit kernel computes so many columns of the product at a time and takes no other number."""


class FourBitLinear:
    """PyTorch's product with 4-bit codes, a step and a middle per group; CPU bfloat16.

    The number of rows of the weight is a multiple of `FOUR_BIT_OUT`.
    """

    def __init__(self, codes: Codes) -> None:
        pack_codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu
        self._codes = pack_codes(codes.codes, 1)  # the 1 is a tile size that CPUs ignore
        middles = codes.lows + LEVELS // 2 * codes.steps
        self._levels = torch.stack((codes.steps, middles), -1).transpose(0, 1).bfloat16()
        self._levels = self._levels.contiguous()  # [in / GROUP, out, 2]

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        product: Tensor = multiply(x, self._codes, GROUP, self._levels)
        return product

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return self(x).add_(residual)


class ByRows:
    """One kernel for few rows, where reading the weights is the cost, another for many.

    Args:
        few: for few rows.
        many: for more.
        most_few: rows up to which `few` is used; may be set anew once both were timed.
        inputs: columns of what is multiplied.
    """

    def __init__(self, few: Linear, many: Linear, most_few: int, inputs: int) -> None:
        self.few, self.many, self.most_few, self.inputs = few, many, most_few, inputs

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return (self.few if x.shape[0] <= self.most_few else self.many)(x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return (self.few if x.shape[0] <= self.most_few else self.many).add(x, residual)


class BiasedLinear:
    """x @ weight.T + bias.

    Args:
        product: x @ weight.T.
        bias: [out].
    """

    def __init__(self, product: Linear, bias: Tensor) -> None:
        self.product = product
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        return self.product(x) + self._bias

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T + bias."""
        return self.product.add(x, residual) + self._bias


class InBlocks:
    """A product whose rows do not depend, to the last bit, on how many there are.

    Libraries choose their order of summation by the number of rows, so every block is filled up to
    the same number. PyTorch's own int8 and 4-bit kernels always keep one order and need no blocks.

    Args:
        linear: computes a block.
        rows: of a block.
    """

    def __init__(self, linear: Linear, rows: int) -> None:
        self._linear, self._rows = linear, rows

    def __call__(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out]."""
        blocks = functional.pad(x, (0, 0, 0, -x.shape[0] % self._rows))
        products = [self._linear(block) for block in torch.split(blocks, self._rows)]
        return torch.cat(products)[: x.shape[0]]

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """[n, in], [n, out] -> residual + x @ weight.T."""
        return self(x).add_(residual)


PACK_ROWS = 16
"""Row count the blocked layout is chosen for; trees of 8 to 32 nodes are the common case."""

FOUR_BIT_ROWS = 8
INT8_ROWS = 6
"""Most rows for which those weights measured faster than bfloat16 ones (docs/decisions/0012).

They hold until a machine has been measured; see `sequoia_core.measure.kernels`.
"""

BLOCK_ROWS = 8
"""Rows of a block where their number must not matter."""

PLAIN_BLOCK_ROWS = 32
"""Likewise of plain weights: an offloaded model's, where computing one block hides behind reading
the layer, and a second one does not (docs/decisions/0020)."""


def pack(weight: Tensor, kernels: Kernels) -> Linear:
    """The fastest linear that is allowed for this weight's device and dtype.

    Args:
        weight: [out, in].
        kernels: what is allowed.
    """
    plain = kernels.weights is WeightFormat.PLAIN
    if has_packed_kernels(weight.dtype, weight.device) and not plain:
        return _packed(weight, kernels)
    dense = DenseLinear(weight)
    rows = PLAIN_BLOCK_ROWS if plain else BLOCK_ROWS
    return InBlocks(dense, rows) if kernels.row_invariant else dense


def has_packed_kernels(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether there are kernels for packed weights of any format: CPUs, in bfloat16."""
    on_cpu = device.type == "cpu" and dtype is torch.bfloat16
    return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(weight: Tensor, kernels: Kernels) -> Linear:
    few: Linear
    if kernels.weights is WeightFormat.INT8:
        few, weight = _in_int8(weight)
        most = INT8_ROWS
    elif kernels.weights is WeightFormat.AUTO and (codes := _codes(weight)) is not None:
        few, most = FourBitLinear(codes), FOUR_BIT_ROWS
    else:
        packed = PackedLinear(weight)
        return InBlocks(packed, BLOCK_ROWS) if kernels.row_invariant else packed
    one = kernels.row_invariant or kernels.one_copy
    return few if one else ByRows(few, PackedLinear(weight), most, weight.shape[1])


def _codes(weight: Tensor) -> Codes | None:
    """The codes of a matrix that the 4-bit kernel can multiply, or None."""
    return None if weight.shape[0] % FOUR_BIT_OUT else find_codes(weight)


def _in_int8(weight: Tensor) -> tuple[Int8Linear, Tensor]:
    """A matrix as int8 rows, and those rows dequantised, so that many rows read the same model."""
    packed = [pack_rows(rows) for rows in torch.split(weight, ROWS_AT_ONCE)]
    parts = [(values, scales.to(weight.dtype)) for values, scales in packed]
    rounded = torch.cat([unpack_rows(*part).to(weight.dtype) for part in parts])
    values, scales = (torch.cat(each) for each in zip(*parts, strict=True))
    return Int8Linear(values, scales), rounded
