"""Matrices rounded by torchao and bitsandbytes are near the original, as small as planned."""

from typing import Any

import pytest
import torch

from sequoia_core.config import Quantize
from sequoia_core.errors import ParameterError
from sequoia_core.model import quantised
from sequoia_core.model.layers import Product
from sequoia_core.model.quantised import missing_library, quantised_products, rounded_bytes

CPU = torch.device("cpu")
WEIGHTS = {
    name: torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows))
    for name, rows in (("a", 64), ("b", 32))
}
INPUT = torch.randn(9, 192, generator=torch.Generator().manual_seed(1))
NEAR = {Quantize.INT8: 0.01, Quantize.NF4: 0.1}  # relative error of a product


def rounded(kind: Quantize, dtype: torch.dtype = torch.float32) -> Product:
    if name := missing_library(kind):
        pytest.skip(f"{name} is not installed")
    made = quantised_products(WEIGHTS, kind, dtype)(["a", "b"], CPU)
    assert made is not None
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", NEAR)
def test_a_product_is_near_that_of_the_stacked_matrices(kind: Quantize, dtype: torch.dtype) -> None:
    wanted = INPUT @ torch.cat(list(WEIGHTS.values())).T
    found = rounded(kind, dtype)(INPUT.to(dtype)).float()
    error = float((found - wanted).norm() / wanted.norm())
    assert 1e-4 < error < NEAR[kind]


@pytest.mark.parametrize("kind", NEAR)
def test_the_bytes_are_the_planned_ones(kind: Quantize) -> None:
    product: Any = rounded(kind)
    if kind is Quantize.INT8:
        weight = product.weight
        parts = [weight.qdata, weight.scale, weight.zero_point]
    else:
        cells = dict(zip(product.__code__.co_freevars, product.__closure__, strict=True))
        parts = [cells["packed"].cell_contents, cells["state"].cell_contents.absmax]
    assert sum(part.nbytes for part in parts) == rounded_bytes(kind, (96, 192), 4)


def test_a_matrix_that_fills_no_groups_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "_PRODUCTS", {Quantize.INT4: lambda _: pytest.fail})
    make = quantised_products(WEIGHTS, Quantize.INT4, torch.bfloat16)
    assert make(["a"], CPU) is None
    assert rounded_bytes(Quantize.INT4, (64, 192), 2) == 64 * 192 * 2


def test_a_library_that_does_not_load_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> None:
        raise RuntimeError("no\nsuch kernel")

    monkeypatch.setattr(quantised, "import_module", broken)
    with pytest.raises(ParameterError, match=r"bitsandbytes does not load here \(no such kernel\)"):
        quantised_products(WEIGHTS, Quantize.NF4, torch.float32)
