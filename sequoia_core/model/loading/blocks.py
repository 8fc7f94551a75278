"""Matrices of a safetensors file in GGML's blocks: 32 columns of a row share a float16 scale.

Such a matrix is uint8 [rows, bytes of a row], byte for byte what a GGUF file holds; vectors and
matrices whose columns fill no blocks are stored as they are. The native forward multiplies with
the blocks; PyTorch's reads float32.
"""

from collections.abc import Mapping
from types import MappingProxyType

import gguf
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import Weights

BLOCK = 32
"""Columns of a block."""

FORMATS = MappingProxyType({"q4_0": GGMLQuantizationType.Q4_0, "q8_0": GGMLQuantizationType.Q8_0})
"""By the name in `config.json`; 4.5 and 8.5 bits per value, scales included."""


def pack_weights(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Matrices of floating-point numbers whose columns fill blocks as blocks, others unchanged.

    `name` is one of `FORMATS`; the weights are on the CPU.
    """
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
    """Weights of a file in `FORMATS[name]`, dequantised to float32 one by one when asked for.

    Raises:
        ModelLoadError: a row of a matrix does not consist of whole blocks.
    """

    def __init__(self, stored: Weights, name: str) -> None:
        super().__init__(stored, stored.origin, stored.files)
        self.format = FORMATS[name]
        self._stored = stored
        columns, size = gguf.GGML_QUANT_SIZES[self.format]
        self._shapes: dict[str, tuple[int, int]] = {}  # of the matrices in blocks
        for each in stored.matrices():
            if not stored.is_floating(each):
                rows, width = stored.shape(each)
                if not width or width % size or stored[each].dtype is not torch.uint8:
                    raise ModelLoadError(
                        f"{self.origin}: {each} is no matrix in blocks of {size} bytes ({name})"
                    )
                self._shapes[each] = rows, width // size * columns

    def __getitem__(self, name: str) -> Tensor:
        blocks = self.in_blocks(name)
        if blocks is None:
            return self._stored[name]
        return torch.from_numpy(gguf.dequantize(blocks.numpy(), self.format))

    def in_blocks(self, name: str) -> Tensor | None:
        """A matrix as it is stored, uint8 [rows, bytes of a row]; None if it is not in blocks."""
        return self._stored[name] if name in self._shapes else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._shapes.get(name) or self._stored.shape(name)

    def is_floating(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers, without reading it."""
        return name in self._shapes or self._stored.is_floating(name)
