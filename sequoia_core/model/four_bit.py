"""Finding the 4-bit codes of weights that were stored with them.

A file with 4-bit weights (GGUF's Q4_1) holds, for every 32 neighbours of a row, 16 evenly spaced
levels. Dequantised, the levels are still there, only rounded; so the codes can be read off the
weights again, wherever they come from, and matrices that never had any are told apart. Owns that
arithmetic; knows no file format and no kernel.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
"""Weights of a row that share their levels."""
LEVELS = 16
OFF_LEVEL = 2.0**-7
"""Farthest that rounding to bfloat16 moves a weight from its level, as a part of the group's
largest. In a group without levels some weight is several times as far from the nearest of 16."""

ROWS_AT_ONCE = 1024
"""Bounds the memory that the search needs beside the matrix."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A matrix as levels: weight = low + code * step.

    Attributes:
        codes: int32 `[out, in]`, 0 to 15.
        steps: float32 `[out, in / GROUP]`, distance between levels.
        lows: float32 `[out, in / GROUP]`, the level of code 0.
    """

    codes: Tensor
    steps: Tensor
    lows: Tensor

    def weight(self) -> Tensor:
        """The matrix, float32 `[out, in]`."""
        groups = self.codes.view(self.codes.shape[0], -1, GROUP)
        return torch.addcmul(self.lows[..., None], groups, self.steps[..., None]).flatten(1)


def find_codes(weight: Tensor) -> Codes | None:
    """The codes of a matrix `[out, in]`, or None where it has no levels."""
    if weight.shape[1] % GROUP:
        return None
    found: list[Codes] = []
    for rows in torch.split(weight, ROWS_AT_ONCE):
        codes = _codes_of_rows(rows)
        if codes is None:
            return None
        found.append(codes)
    return Codes(
        torch.cat([each.codes for each in found]),
        torch.cat([each.steps for each in found]),
        torch.cat([each.lows for each in found]),
    )


def _codes_of_rows(weight: Tensor) -> Codes | None:
    """Levels spanned by a group's smallest and largest weight, then fitted to all by least squares.

    The fit averages out what rounding did to the two.
    """
    groups = weight.float().reshape(weight.shape[0], -1, GROUP)  # [out, in / GROUP, GROUP]
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = ((high - low) / (LEVELS - 1)).clamp(min=torch.finfo(torch.float32).tiny)
    codes = ((groups - low) / step).round()
    centred = codes - codes.mean(-1, keepdim=True)
    spread = centred.square().sum(-1, keepdim=True).clamp(min=1.0)  # all equal: step 0 will do
    step = (centred * groups).sum(-1, keepdim=True) / spread
    low = groups.mean(-1, keepdim=True) - step * codes.mean(-1, keepdim=True)
    off = (torch.addcmul(low, codes, step) - groups).abs().amax(-1)
    if bool((off > OFF_LEVEL * groups.abs().amax(-1)).any()):
        return None
    return Codes(codes.int().flatten(1), step.squeeze(-1), low.squeeze(-1))
