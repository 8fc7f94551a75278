"""Matrices of a safetensors file in GGML's blocks: 32 columns of a row share a float16 scale.

They are uint8 [rows, bytes of a row], byte for byte what a GGUF file holds.
"""

from collections.abc import Mapping

import gguf
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import StoredMatrix, Weights

BLOCK = 32  # columns of a block

FORMATS = {"q4_0": GGMLQuantizationType.Q4_0, "q8_0": GGMLQuantizationType.Q8_0}
"""By the name in `config.json`; 4.5 and 8.5 bits per value, scales included."""


def pack_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Matrices of floating-point numbers in `FORMATS[name]`, if their columns fill its blocks."""
    packed: dict[str, Tensor] = {}
    for each, tensor in weights.items():
        if tensor.dim() == 2 and tensor.is_floating_point() and tensor.shape[1] % BLOCK == 0:
            blocks = gguf.quantize(tensor.contiguous().float().numpy(), FORMATS[name])
            packed[each] = torch.from_numpy(blocks)
        else:
            packed[each] = tensor.contiguous()
    return packed


def rounded(matrix: Tensor, name: str) -> Tensor:
    """A float32 matrix [rows, columns] after packing to `FORMATS[name]`; the gradient is 1."""
    blocks = matrix.detach().view(matrix.shape[0], -1, BLOCK)
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    if name == "q4_0":  # the code of the largest magnitude is -8
        scale = torch.where(high > -low, high, low) / -8.0
        codes = blocks * _inverse(scale) + 8.5
        codes = codes.floor_().clamp_(0.0, 15.0).sub_(8.0)
    else:
        scale = torch.maximum(high, -low) / 127.0
        codes = blocks * _inverse(scale)
        codes = codes.add_(codes.sign(), alpha=0.5).trunc_()  # halves away from zero
    stored = codes.mul_(scale.half().float()).view_as(matrix)
    return matrix + (stored - matrix.detach())


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0.0, 0.0, 1.0 / scale)


class BlockWeights(Weights):
    """Weights of a file in `FORMATS[name]`, dequantised to float32 when asked for."""

    def __init__(self, file: Weights, name: str) -> None:
        super().__init__(file, file.origin, file.files)
        self._file, self._format = file, FORMATS[name]
        columns, size = gguf.GGML_QUANT_SIZES[self._format]
        self._shapes: dict[str, tuple[int, int]] = {}  # of the matrices in blocks
        for each in file.matrices():
            if not file.is_floating(each):
                rows, width = file.shape(each)
                if not width or width % size or file.dtype(each) is not torch.uint8:
                    raise ModelLoadError(
                        f"{self.origin}: {each} is no matrix in blocks of {size} bytes ({name})"
                    )
                self._shapes[each] = rows, width // size * columns

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._file[name]
        if name not in self._shapes:
            return tensor
        return torch.from_numpy(gguf.dequantize(tensor.numpy(), self._format))

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name) or self._file.shape(name)

    def dtype(self, name: str) -> torch.dtype | None:
        return None if name in self._shapes else self._file.dtype(name)

    def stored(self, name: str) -> StoredMatrix:
        if name not in self._shapes:
            return self._file.stored(name)
        return StoredMatrix(int(self._format), self._shapes[name], lambda: self._file[name].numpy())
