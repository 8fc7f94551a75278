"""Dividing a model's layers among several devices, which compute one after the other.

Hidden states, position ids and masks are copied from one device to the next. Embedding, last norm
and output head are on the first device: a row's hidden state comes back to it, which is several
times narrower than its logits. This makes room for larger models, not speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.weight_shapes import layer_values, weight_values


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers of a model on one device.

    `values` counts the numbers of the weights there; on the first device with those in no layer.
    """

    device: torch.device
    layers: range
    values: int


def even_stages(
    config: ModelConfig, devices: Sequence[torch.device], other_values: int = 0
) -> tuple[Stage, ...]:
    """Divide a model among devices so that the fullest, and then the next, holds least.

    Every device but the first holds a layer at least; the first holds what is in no layer, and
    `other_values` numbers of other models.

    Raises:
        ParameterError: there are fewer layers than devices.
    """
    count, others = config.num_layers, len(devices) - 1
    if count < len(devices):
        raise ParameterError(
            f"the target has {count} layers, too few for the {len(devices)} devices named; "
            "name fewer of them"
        )
    layer = layer_values(config)
    outside = weight_values(config) - count * layer

    def shares_of(first: int) -> list[int]:
        return [first, *((count - first + at) // others for at in reversed(range(others)))]

    def fullest_first(first: int) -> list[int]:
        on_first, *on_others = (layer * share for share in shares_of(first))
        return sorted([other_values + outside + on_first, *on_others], reverse=True)

    least = 0 if others else count
    shares = shares_of(min(range(least, count - others + 1), key=fullest_first))
    starts = accumulate(shares, initial=0)
    return tuple(
        Stage(device, range(start, start + share), layer * share + (0 if at else outside))
        for at, (device, start, share) in enumerate(zip(devices, starts, shares, strict=False))
    )


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host does not wait for the copy."""
    return x if x.device == device else x.to(device, non_blocking=True)
