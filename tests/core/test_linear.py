"""Every layout of a weight computes the same product, up to what its number format can hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import Kernels, WeightFormat
from sequoia_core.model.linear import (
    BLOCK_ROWS,
    FOR_DRAFTS,
    FOR_SMALL_DRAFTS,
    FOUR_BIT_ROWS,
    INT8_ROWS,
    BiasedLinear,
    DenseLinear,
    InBlocks,
    Linear,
    pack,
)
from sequoia_core.model.llama import Llama
from tests.core.coded import coded
from tests.core.models import random_weights, tiny_config

BF16_SUPPORTED = torch.ops.mkldnn._is_mkldnn_bf16_supported()
KERNELS = [Kernels(weights, exact) for weights in WeightFormat for exact in (False, True)]
IN, OUT = 64, 96


def operands(rows: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, weight, residual = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((rows, IN), (OUT, IN), (rows, OUT))
    )
    return x, weight, residual


def coded_weight(seed: int) -> Tensor:
    """A bfloat16 matrix that was stored as 4-bit codes."""
    return coded(operands(1, seed, torch.float32)[1])


def error(linear: Linear, x: Tensor, weight: Tensor, residual: Tensor) -> float:
    """Difference from float64, root of the mean square, as a part of what was to be computed."""
    exact = x.double() @ weight.double().T
    total = exact + residual.double()
    plain = (linear(x).double() - exact).norm() / exact.norm()
    added = (linear.add(x, residual).double() - total).norm() / total.norm()
    return max(float(plain), float(added))


@given(rows=st.integers(1, 2 * BLOCK_ROWS), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_layout_computes_the_product(rows: int, seed: int) -> None:
    x, weight, residual = operands(rows, seed, torch.float32)
    for kernels in KERNELS:
        assert error(pack(weight, kernels), x, weight, residual) < 1e-6
    x, residual = x.bfloat16(), residual.bfloat16()
    for stored in (weight.bfloat16(), coded_weight(seed)):
        for kernels in KERNELS:
            assert error(pack(stored, kernels), x, stored, residual) < 0.02


@pytest.mark.parametrize("kernels", [each for each in KERNELS if each.row_invariant])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.integers(1, 2 * BLOCK_ROWS + 3), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_a_row_invariant_product_does_not_see_the_rows_beside(
    kernels: Kernels, dtype: torch.dtype, rows: int, seed: int
) -> None:
    x, weight, residual = operands(rows, seed, dtype)
    linear = pack(coded_weight(seed) if seed % 2 and dtype is torch.bfloat16 else weight, kernels)
    product, total = linear(x), linear.add(x, residual)
    for row in range(rows):
        one = slice(row, row + 1)
        assert torch.equal(linear(x[one]), product[one])
        assert torch.equal(linear.add(x[one], residual[one]), total[one])


class LastDigitsByRows:
    """A product whose rows change with their number, as a library's may."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self._weight.T + 1e-6 * len(x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + self(x)


def test_a_kernel_that_sees_the_rows_beside_is_given_full_blocks() -> None:
    x, weight, residual = operands(21, 0, torch.float32)
    fickle = LastDigitsByRows(weight)
    assert not torch.equal(fickle(x[:1]), fickle(x)[:1])
    linear = InBlocks(fickle, BLOCK_ROWS)
    assert torch.equal(linear(x[:1]), linear(x)[:1])
    assert torch.equal(linear.add(x[20:], residual[20:]), linear.add(x, residual)[20:])


@pytest.mark.skipif(not BF16_SUPPORTED, reason="this CPU does not multiply bfloat16")
def test_few_rows_read_fewer_bytes_and_many_rows_bfloat16() -> None:
    x, weight, _ = operands(FOUR_BIT_ROWS + 1, 3, torch.bfloat16)
    full, auto, int8 = (
        pack(coded_weight(3), Kernels(weights))
        for weights in (WeightFormat.FULL, WeightFormat.AUTO, WeightFormat.INT8)
    )
    assert torch.equal(auto(x), full(x))
    assert not torch.equal(auto(x[:FOUR_BIT_ROWS]), full(x[:FOUR_BIT_ROWS]))
    assert not torch.equal(int8(x[:1]), full(x[:1]))
    uncoded = pack(weight, Kernels(WeightFormat.AUTO))
    assert torch.equal(uncoded(x[:1]), pack(weight, Kernels(WeightFormat.FULL))(x[:1]))


@pytest.mark.skipif(not BF16_SUPPORTED, reason="this CPU does not multiply bfloat16")
def test_int8_is_one_model_whatever_the_rows() -> None:
    """Few and many rows read the same rounded weights, so they differ by rounding x W only."""
    x, weight, _ = operands(INT8_ROWS + 1, 3, torch.bfloat16)
    linear = pack(weight, Kernels(WeightFormat.INT8))
    many, few = linear(x)[:1], linear(x[:1])
    full = pack(weight, Kernels(WeightFormat.FULL))(x[:1])
    assert float((many - few).abs().mean()) < 0.5 * float((full - few).abs().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_number_formats_use_the_plain_product(dtype: torch.dtype) -> None:
    _, weight, _ = operands(1, 0, dtype)
    for weights in WeightFormat:
        assert isinstance(pack(weight, Kernels(weights)), DenseLinear)


def in_poisoned_memory(tensor: Tensor) -> Tensor:
    """The same numbers, with the largest ones there are right before and behind them."""
    poison = 127 if tensor.dtype is torch.int8 else 1e30
    memory = torch.full((tensor.numel() + 256,), poison, dtype=tensor.dtype)
    view = memory[128 : 128 + tensor.numel()].view(tensor.shape)
    return view.copy_(tensor)


def error_in_poisoned_memory(weight: Tensor, rows: int, kernels: Kernels) -> float:
    """Largest difference from float64 as a part of the sum of the sizes of what is added up."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, weight.shape[1], generator=generator).bfloat16()
    residual = torch.randn(rows, weight.shape[0], generator=generator).bfloat16()
    linear = pack(in_poisoned_memory(weight), kernels)
    exact, size = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    plain = (linear(in_poisoned_memory(x)).double() - exact).abs() / size
    total = linear.add(in_poisoned_memory(x), in_poisoned_memory(residual)).double()
    added = (total - exact - residual.double()).abs() / (size + residual.double().abs())
    return max(float(plain.max()), float(added.max()))


@pytest.mark.skipif(not BF16_SUPPORTED, reason="this CPU does not multiply bfloat16")
@pytest.mark.parametrize("kernels", [*KERNELS, FOR_DRAFTS, FOR_SMALL_DRAFTS], ids=str)
@pytest.mark.parametrize("first", [1, 21, 41, 61])
def test_what_lies_behind_a_row_is_not_read_whatever_its_width(
    kernels: Kernels, first: int
) -> None:
    generator = torch.Generator().manual_seed(first)
    for width in [*range(first, first + 20), 100 + first, 172 + first]:
        out = 1 + width * 7 % 37
        weight = torch.randn(out, width, generator=generator).bfloat16()
        for rows in (1, 2, 5):
            assert error_in_poisoned_memory(weight, rows, kernels) < 0.02, (width, out, rows)


@pytest.mark.skipif(not BF16_SUPPORTED, reason="this CPU does not multiply bfloat16")
@pytest.mark.parametrize("exact", [False, True])
def test_any_number_of_coded_rows_is_multiplied(exact: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for out in range(1, 81):
        weight = coded(torch.randn(out, 64, generator=generator)).bfloat16()
        for rows in (1, 3):
            kernels = Kernels(WeightFormat.AUTO, exact)
            assert error_in_poisoned_memory(weight, rows, kernels) < 0.02, (out, rows)


@pytest.mark.skipif(not BF16_SUPPORTED, reason="this CPU does not multiply bfloat16")
@pytest.mark.parametrize("kernels", [Kernels(WeightFormat.INT8), FOR_DRAFTS], ids=str)
@pytest.mark.parametrize(("hidden", "inner"), [(36, 50), (64, 172), (20, 184)])
def test_a_model_of_odd_widths_is_computed_in_int8(
    hidden: int, inner: int, kernels: Kernels
) -> None:
    config = tiny_config(
        hidden_size=hidden, intermediate_size=inner, num_heads=3, num_kv_heads=1, head_dim=12
    )
    weights = random_weights(config, seed=0, scale=0.1)
    cpu, ids = torch.device("cpu"), torch.arange(5)
    exact, odd = (
        Llama(config, weights, cpu, torch.float32),
        Llama(config, weights, cpu, torch.bfloat16, kernels),
    )
    expected, found = (each.forward(ids, ids, None, each.new_cache()) for each in (exact, odd))
    assert float((found - expected).norm() / expected.norm()) < 0.05
    again = odd.forward(ids, ids, None, odd.new_cache())
    assert torch.equal(found, again)


def test_a_bias_is_added_once() -> None:
    x, weight, residual = operands(3, 0, torch.float32)
    linear = BiasedLinear(DenseLinear(weight), torch.arange(OUT).float())
    expected = x @ weight.T + torch.arange(OUT)
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear.add(x, residual), expected + residual)
