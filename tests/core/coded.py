"""Weights as a file with 4-bit codes leaves them, once dequantised to bfloat16."""

from torch import Tensor

from sequoia_core.model.four_bit import GROUP, LEVELS


def coded(weight: Tensor) -> Tensor:
    """Each group of a matrix moved to 16 levels from its smallest to its largest weight."""
    groups = weight.float().reshape(weight.shape[0], -1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = (high - low) / (LEVELS - 1)
    return (((groups - low) / step).round() * step + low).flatten(1).bfloat16()
