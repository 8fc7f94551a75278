"""Tensors read by position equal the library's, in every number format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import SafetensorsWeights, Weights
from sequoia_core.model.offload import files as offload_files
from sequoia_core.model.offload.files import TensorFiles

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int8,
]  # fmt: skip
SHAPES = {"matrix": (7, 5), "row": (1, 3), "vector": (4,)}


def tensors(dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) * 100 for name, shape in SHAPES.items()}
    return {name: tensor.to(dtype) for name, tensor in drawn.items()}


def opened(directory: Path, *parts: dict[str, Tensor]) -> SafetensorsWeights:
    paths = []
    for number, part in enumerate(parts):
        paths.append(directory / f"part-{number}.safetensors")
        save_file(part, paths[-1], metadata={"format": "pt"})
    return SafetensorsWeights(paths)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_tensor_is_what_the_library_reads(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = opened(tmp_path, tensors(dtype))
    files = TensorFiles(weights)
    assert set(files) == set(weights)
    assert len(files) == len(weights)
    for name in weights:
        assert files.shape(name) == weights.shape(name)
        assert files[name].dtype is dtype
        assert torch.equal(files[name], weights[name])
    files.close()


def test_shards_are_read_each_from_its_own_file(tmp_path: Path) -> None:
    first, second = tensors(torch.float32), tensors(torch.float16, seed=1)
    renamed = {f"other {name}": tensor for name, tensor in second.items()}
    files = TensorFiles(opened(tmp_path, first, renamed))
    for name, tensor in {**first, **renamed}.items():
        assert torch.equal(files[name], tensor)
    files.close()


@pytest.mark.parametrize("at_once", [1, 4, 34, 35, 1 << 20])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_another_number_format_is_converted_piece_by_piece(
    wanted: torch.dtype, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload_files, "CONVERTED_AT_ONCE", at_once)
    stored = tensors(torch.float64)
    files = TensorFiles(opened(tmp_path, stored))
    for name, tensor in stored.items():
        into = torch.full(tensor.shape, torch.nan, dtype=wanted)
        files.read(name, into)
        assert torch.equal(into, tensor.to(wanted))
    files.close()


def test_what_is_no_safetensors_file_is_refused_in_one_line() -> None:
    with pytest.raises(ModelLoadError, match=r"^model\.bin: .* leave --offload out$") as caught:
        TensorFiles(Weights(tensors(torch.float32), "model.bin"))
    assert "\n" not in str(caught.value)


def test_an_unknown_number_format_is_named(tmp_path: Path) -> None:
    weights = opened(tmp_path, tensors(torch.float32))
    path = tmp_path / "part-0.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"F04"'))
    with pytest.raises(ModelLoadError, match=r"part-0.*: \w+ is stored as F04"):
        TensorFiles(weights)


def test_a_file_that_shrinks_is_named_when_it_is_read(tmp_path: Path) -> None:
    files = TensorFiles(opened(tmp_path, tensors(torch.float32)))
    path = tmp_path / "part-0.safetensors"
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    with path.open("r+b") as file:
        file.truncate(header)
    with pytest.raises(ModelLoadError, match=r"part-0\.safetensors: it has become shorter"):
        files["matrix"]
    files.close()


def test_a_replaced_file_is_still_read_as_it_was_opened(tmp_path: Path) -> None:
    """As a hub's update replaces files: by renaming new ones over them."""
    first = tensors(torch.float32)
    files = TensorFiles(opened(tmp_path, first))
    save_file(tensors(torch.float32, seed=1), tmp_path / "new")
    (tmp_path / "new").rename(tmp_path / "part-0.safetensors")
    assert torch.equal(files["matrix"], first["matrix"])
    files.close()


def test_closed_files_are_closed(tmp_path: Path) -> None:
    files = TensorFiles(opened(tmp_path, tensors(torch.float32)))
    files.close()
    with pytest.raises(ModelLoadError, match="Bad file descriptor"):
        files["matrix"]


def test_an_unreadable_header_is_named(tmp_path: Path) -> None:
    weights = opened(tmp_path, tensors(torch.float32))
    path = tmp_path / "part-0.safetensors"
    broken = json.dumps({"matrix": 1}).encode()[:-1]
    path.write_bytes(len(broken).to_bytes(8, "little") + broken)
    with pytest.raises(ModelLoadError, match=r"part-0\.safetensors: unreadable"):
        TensorFiles(weights)
