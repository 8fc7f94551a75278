"""Blocks in a safetensors file are GGML's, and training rounds as the file will."""

from pathlib import Path

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.block_safetensors import (
    FORMATS,
    BlockWeights,
    pack_weights,
    rounded,
)
from sequoia_core.model.loading.weights import SafetensorsWeights, Weights


@pytest.mark.parametrize("name", FORMATS)
@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 9),
    blocks=st.integers(1, 3),
    exponent=st.integers(-4, 3),
)
def test_rounding_gives_what_ggml_stores(
    name: str, seed: int, rows: int, blocks: int, exponent: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, 32 * blocks, generator=generator) * 10.0**exponent
    matrix[0, :32] = 0.0
    kind = FORMATS[name]
    wanted = torch.from_numpy(gguf.dequantize(gguf.quantize(matrix.numpy(), kind), kind))
    found = rounded(matrix, name)
    # a value between two codes may go either way, by the last bit of a product
    step = matrix.view(rows, -1, 32).abs().amax(-1, keepdim=True) / (7 if name == "q4_0" else 126)
    apart = (found - wanted).abs().view(rows, -1, 32)
    assert bool((apart <= step).all())
    assert float((apart > 1e-6 * step).float().mean()) < 0.02


@pytest.mark.parametrize("name", FORMATS)
def test_the_gradient_passes_through(name: str) -> None:
    matrix = torch.randn(4, 64, requires_grad=True)
    (rounded(matrix, name) * 3.0).sum().backward()  # type: ignore[no-untyped-call]
    assert matrix.grad is not None
    assert torch.equal(matrix.grad, torch.full((4, 64), 3.0))


@pytest.mark.parametrize("name", FORMATS)
def test_a_packed_file_gives_back_names_shapes_and_values(name: str, tmp_path: Path) -> None:
    tensors = {
        "layer.weight": torch.randn(6, 64, dtype=torch.bfloat16),
        "odd.weight": torch.randn(6, 40),
        "norm.weight": torch.randn(64, dtype=torch.bfloat16),
        "ids": torch.arange(6, dtype=torch.int32),
    }
    save_file(pack_weights(tensors, name), tmp_path / "model.safetensors")
    weights = BlockWeights(SafetensorsWeights([tmp_path / "model.safetensors"]), name)
    assert sorted(weights) == sorted(tensors)
    assert len(weights) == len(tensors)
    for each, tensor in tensors.items():
        assert weights.shape(each) == tensor.shape
        assert weights.is_floating(each) == tensor.is_floating_point()
        if each != "layer.weight":
            assert torch.equal(weights[each], tensor)
    assert weights.stored("odd.weight").file_format == gguf.GGMLQuantizationType.F32
    assert weights.stored("layer.weight").file_format == FORMATS[name]
    blocks = weights.stored("layer.weight").data()
    assert blocks.nbytes == 6 * 2 * (18 if name == "q4_0" else 34)
    stored = gguf.quantize(tensors["layer.weight"].float().numpy(), FORMATS[name])
    assert blocks.tobytes() == stored.tobytes()
    values = gguf.dequantize(stored, FORMATS[name])
    assert torch.equal(weights["layer.weight"], torch.from_numpy(values))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(6, 17, dtype=torch.uint8),
        torch.zeros(6, 0, dtype=torch.uint8),
        torch.zeros(6, 18, dtype=torch.int8),
    ],
)
def test_a_matrix_that_is_not_in_blocks_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(ModelLoadError, match=r"somewhere: layer\.weight is no matrix in blocks"):
        BlockWeights(Weights({"layer.weight": tensor}, "somewhere"), "q4_0")
