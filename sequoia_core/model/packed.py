"""Matrices of 4 or 8 bits per number, as AWQ, GPTQ and compressed-tensors mean them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.layers import MakeProduct, Product


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """`(code - zero) * scale`, [out, in]; columns of a group share zero and scale.

    Groups are consecutive columns of the codes, all of one size. A product dequantises the matrix
    anew, so that only the codes stay in memory, and multiplies as PyTorch does.
    """

    codes: Tensor  # uint8 [out, in * bits / 8]; of 4 bits, even columns are the low halves of bytes
    zeros: Tensor  # uint8 [out, groups]
    scales: Tensor  # floating-point [out, groups]
    bits: int
    order: Tensor | None = None  # int64 [in], the model's column of each column of the codes

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1] * 8 // self.bits

    @property
    def nbytes(self) -> int:
        parts = (self.codes, self.zeros, self.scales, self.order)
        return sum(part.nbytes for part in parts if part is not None)

    def to(self, device: torch.device) -> "PackedMatrix":
        order = None if self.order is None else self.order.to(device)
        codes, zeros, scales = (part.to(device) for part in (self.codes, self.zeros, self.scales))
        return replace(self, codes=codes, zeros=zeros, scales=scales, order=order)

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix [out, in] with the model's columns."""
        matrix = self._by_groups(dtype)
        return matrix if self.order is None else matrix[:, self.order.argsort()]

    def multiplied(self, x: Tensor) -> Tensor:
        """[n, in] -> [n, out], a `Product`."""
        inputs = x if self.order is None else x.index_select(-1, self.order)
        return functional.linear(inputs, self._by_groups(x.dtype))

    def _by_groups(self, dtype: torch.dtype) -> Tensor:
        """The matrix with the codes' columns; rounded once, since a product is exact in float32."""
        rows, groups = self.scales.shape
        wide = torch.int8 if self.bits == 4 else torch.int16
        codes = unpacked(self.codes, self.bits).view(rows, groups, -1).to(wide)
        centred = codes - self.zeros.to(wide).unsqueeze(-1)
        values = torch.empty(centred.shape, dtype=dtype, device=centred.device)
        torch.mul(centred, self.scales.float().unsqueeze(-1), out=values)
        return values.view(rows, -1)


def packed_products(find: Callable[[str], PackedMatrix | None]) -> MakeProduct:
    """Products with packed matrices; None where one of those named is not packed."""

    def make(names: Sequence[str], device: torch.device) -> Product | None:
        matrices = []
        for name in names:
            if (found := find(name)) is None:
                return None
            matrices.append(found.to(device))
        if len(matrices) == 1:
            return matrices[0].multiplied
        return lambda x: torch.cat([matrix.multiplied(x) for matrix in matrices], -1)

    return make


def unpacked(packed: Tensor, bits: int) -> Tensor:
    """uint8 [n, m * bits / 8] -> [n, m], a number a byte; the lowest bits of a byte come first."""
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def repacked(values: Tensor, bits: int) -> Tensor:
    """The inverse of `unpacked`."""
    if bits == 8:
        return values.contiguous()
    return values[..., 0::2] | values[..., 1::2] << 4
