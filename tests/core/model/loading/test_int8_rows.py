"""Int8 rows lose at most half a scale, and a file of them reads like any other."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.int8_rows import (
    Int8RowWeights,
    pack_rows,
    pack_weights,
    unpack_rows,
)
from sequoia_core.model.loading.weights import LoadedWeights, SafetensorsWeights


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    columns=st.integers(1, 17),
    exponent=st.integers(-12, 12),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_every_element_is_within_half_a_scale(
    seed: int, rows: int, columns: int, exponent: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = (torch.randn(rows, columns, generator=generator) * 10.0**exponent).to(dtype)
    stored, scale = pack_rows(weight)
    assert stored.dtype is torch.int8
    error = (unpack_rows(stored, scale) - weight.float()).abs()
    # float32 rounding of the quotient and of the product is all that may come on top
    slack = weight.float().abs().amax(dim=1, keepdim=True) * 2**-22
    assert bool((error <= scale / 2 + slack).all())


def test_each_rows_largest_element_and_zero_rows_survive() -> None:
    weight = torch.tensor([[3.0, -127.0, 0.0], [0.0, 0.0, 0.0], [1e-6, 0.0, -5e-7]])
    stored, scale = pack_rows(weight)
    unpacked = unpack_rows(stored, scale)
    assert stored.abs().amax(dim=1).tolist() == [127, 0, 127]
    assert torch.equal(unpacked[1], weight[1])
    assert torch.allclose(unpacked[:, 1], weight[:, 1])


def test_packing_what_was_unpacked_changes_nothing() -> None:
    stored, scale = pack_rows(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)))
    again, scale_again = pack_rows(unpack_rows(stored, scale))
    assert torch.equal(stored, again)
    assert torch.allclose(scale, scale_again)


def test_a_packed_file_gives_back_names_shapes_and_values(tmp_path: Path) -> None:
    tensors = {
        "layer.weight": torch.randn(6, 4),
        "norm.weight": torch.randn(4, dtype=torch.bfloat16),
        "ids": torch.arange(6, dtype=torch.int32),
    }
    save_file(pack_weights(tensors), tmp_path / "model.safetensors")
    weights = Int8RowWeights(SafetensorsWeights([tmp_path / "model.safetensors"]))
    assert sorted(weights) == sorted(tensors)
    assert len(weights) == len(tensors)
    assert {name: weights.shape(name) for name in weights} == {
        name: tuple(tensor.shape) for name, tensor in tensors.items()
    }
    assert torch.equal(weights["norm.weight"], tensors["norm.weight"])
    assert torch.equal(weights["ids"], tensors["ids"])
    expected = unpack_rows(*pack_rows(tensors["layer.weight"]))
    assert torch.equal(weights["layer.weight"], expected)


@pytest.mark.parametrize("scales", [None, torch.ones(5, 1), torch.ones(6)])
def test_a_matrix_without_fitting_scales_is_refused(scales: torch.Tensor | None) -> None:
    tensors = {"layer.weight": torch.zeros(6, 4, dtype=torch.int8)}
    if scales is not None:
        tensors["layer.weight_scale"] = scales
    with pytest.raises(ModelLoadError, match=r"somewhere: layer\.weight needs layer\.weight_scale"):
        Int8RowWeights(LoadedWeights(tensors, "somewhere"))
