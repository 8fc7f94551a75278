"""Weights stored as int8 rows with one scale each: a quarter of float32 on disk.

A matrix row r is stored as `round(r / scale)` with `scale = max|r| / 127`, so an element is off by
at most half a scale. Owns the arithmetic and the names in the file: the matrix keeps its own, its
scales are called `<name>_scale`. It is a storage format only; the model computes in the dtype it is
given.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import Weights

FORMAT = "int8-rows"
SCALE_SUFFIX = "_scale"
LARGEST = 127


def pack_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix.

    Args:
        weight: `[rows, columns]`, any floating dtype.

    Returns:
        int8 `[rows, columns]` and float32 scales `[rows, 1]`; an all-zero row has scale 1.
    """
    exact = weight.to(torch.float32, copy=True)
    scale = exact.abs().amax(dim=1, keepdim=True) / LARGEST
    scale[scale == 0] = 1.0
    rows = exact.div_(scale).round_().clamp_(-LARGEST, LARGEST).to(torch.int8)
    return rows, scale


def unpack_rows(rows: Tensor, scale: Tensor) -> Tensor:
    """The float32 matrix that `pack_rows` stored, up to half a scale per element."""
    return rows.float().mul_(scale)


def pack_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every floating matrix as int8 rows with scales; vectors and index tensors as they are."""
    packed: dict[str, Tensor] = {}
    for name in weights:
        tensor = weights[name]
        if tensor.dim() == 2 and tensor.is_floating_point():
            packed[name], packed[name + SCALE_SUFFIX] = pack_rows(tensor)
        else:
            packed[name] = tensor.contiguous()
    return packed


class UnpackedWeights(Weights):
    """Weights of a file in this format, dequantised one by one as they are asked for.

    Raises:
        ModelLoadError: a matrix has no scales, or scales of another shape.
    """

    def __init__(self, stored: Weights) -> None:
        self._stored = stored
        self.origin, self.files = stored.origin, stored.files
        scales = {name + SCALE_SUFFIX for name in stored if len(stored.shape(name)) == 2}
        self._names = [name for name in stored if name not in scales]
        for name in self._names:
            shape, scale = stored.shape(name), name + SCALE_SUFFIX
            if len(shape) == 2 and (scale not in stored or stored.shape(scale) != (shape[0], 1)):
                raise ModelLoadError(
                    f"{self.origin}: {name} needs {scale} of shape [{shape[0]}, 1] ({FORMAT})"
                )

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._stored[name]
        return (
            unpack_rows(tensor, self._stored[name + SCALE_SUFFIX]) if tensor.dim() == 2 else tensor
        )

    def packed(self, name: str) -> tuple[Tensor, Tensor]:
        """A matrix as it is stored: int8 `[rows, columns]` and float32 scales `[rows, 1]`."""
        return self._stored[name], self._stored[name + SCALE_SUFFIX]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._stored.shape(name)
