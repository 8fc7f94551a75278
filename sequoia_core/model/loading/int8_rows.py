"""Weights stored as int8 rows with one scale each: a quarter of float32 on disk.

Row r of a matrix is stored as `round(r / scale)` with `scale = max|r| / 127`, so an element is off
by at most half a scale. Scales are called `<name>_scale`. The model computes in another dtype.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import Weights

FORMAT = "int8-rows"
SCALE_SUFFIX = "_scale"
LARGEST = 127


def pack_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a floating-point matrix `[rows, columns]`.

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
    """Every floating-point matrix as int8 rows with scales; other tensors as they are."""
    packed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.dim() == 2 and tensor.is_floating_point():
            packed[name], packed[name + SCALE_SUFFIX] = pack_rows(tensor)
        else:
            packed[name] = tensor.contiguous()
    return packed


class Int8RowWeights(Weights):
    """Weights of a file in this format, dequantised one by one when asked for.

    Raises:
        ModelLoadError: a matrix has no scales, or scales of another shape.
    """

    def __init__(self, stored: Weights) -> None:
        scales = {name + SCALE_SUFFIX for name in stored.matrices()}
        names = dict.fromkeys(name for name in stored if name not in scales)
        super().__init__(names, stored.origin, stored.files)
        self._stored = stored
        for name in self.matrices():
            rows, scale = self.shape(name)[0], name + SCALE_SUFFIX
            if scale not in stored or stored.shape(scale) != (rows, 1):
                raise ModelLoadError(
                    f"{self.origin}: {name} needs {scale} of shape [{rows}, 1] ({FORMAT})"
                )

    def __getitem__(self, name: str) -> Tensor:
        return unpack_rows(*self.packed(name)) if len(self.shape(name)) == 2 else self._stored[name]

    def packed(self, name: str) -> tuple[Tensor, Tensor]:
        """A matrix as it is stored: int8 `[rows, columns]` and float32 scales `[rows, 1]`."""
        return self._stored[name], self._stored[name + SCALE_SUFFIX]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return self._stored.shape(name)
