"""Every layout of a weight computes the same product, up to what its number format can hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.model.linear import (
    INT8_ROWS,
    DenseLinear,
    Linear,
    PackedLinear,
    SkinnyInt8Linear,
    pack,
)

BF16_SUPPORTED = torch.ops.mkldnn._is_mkldnn_bf16_supported()


def operands(rows: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, weight, residual = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((rows, 64), (96, 64), (rows, 96))
    )
    return x, weight, residual


def error(linear: Linear, x: Tensor, weight: Tensor, residual: Tensor) -> float:
    """Largest difference from float64, in units of the product's own spread (8 = sqrt(64))."""
    exact = x.double() @ weight.double().T
    plain = (linear(x).double() - exact).abs().max()
    added = (linear.add(x, residual).double() - exact - residual.double()).abs().max()
    return max(float(plain), float(added)) / 8


@given(rows=st.integers(1, 2 * INT8_ROWS), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_layout_computes_the_product(rows: int, seed: int) -> None:
    x, weight, residual = operands(rows, seed, torch.float32)
    assert error(DenseLinear(weight), x, weight, residual) < 1e-5
    x, weight, residual = (each.bfloat16() for each in (x, weight, residual))
    layouts: list[Linear] = [DenseLinear(weight)]
    if BF16_SUPPORTED:
        layouts += [PackedLinear(weight), SkinnyInt8Linear(weight)]
    assert max(error(layout, x, weight, residual) for layout in layouts) < 0.05


def test_int8_is_for_few_rows_and_only_where_it_was_allowed() -> None:
    x, weight, _ = operands(INT8_ROWS + 1, 3, torch.bfloat16)
    if not BF16_SUPPORTED:
        assert isinstance(pack(weight, skinny_int8=True), DenseLinear)
        return
    target, draft = pack(weight), pack(weight, skinny_int8=True)
    assert not torch.equal(draft(x[:1]), target(x[:1]))
    assert torch.equal(draft(x), target(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_number_formats_use_the_plain_product(dtype: torch.dtype) -> None:
    _, weight, _ = operands(1, 0, dtype)
    assert isinstance(pack(weight, skinny_int8=True), DenseLinear)
