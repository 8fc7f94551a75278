"""Products are what they say, with a residual and a bias added once."""

import pytest
import torch
from torch import Tensor

from sequoia_core.model.linear import BiasedLinear, DenseLinear

IN, OUT = 64, 96


def operands(rows: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, weight, residual = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((rows, IN), (OUT, IN), (rows, OUT))
    )
    return x, weight, residual


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_product_is_the_product(rows: int, dtype: torch.dtype, most: float) -> None:
    x, weight, residual = operands(rows, 1, dtype)
    linear = DenseLinear(weight)
    exact = x.double() @ weight.double().T
    total = exact + residual.double()
    assert float((linear(x).double() - exact).norm() / exact.norm()) < most
    assert float((linear.add(x, residual).double() - total).norm() / total.norm()) < most


def test_a_bias_is_added_once() -> None:
    x, weight, residual = operands(3, 0, torch.float32)
    linear = BiasedLinear(DenseLinear(weight), torch.arange(OUT).float())
    expected = x @ weight.T + torch.arange(OUT)
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear.add(x, residual), expected + residual)
