"""A Llama whose layers are divided among several devices, which compute one after the other.

Hidden states, position ids and masks are copied from one device to the next. Embedding, last norm
and output head are on the first device: a row's hidden state comes back to it, which is several
times narrower than its logits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Attend, Llama, Watch
from sequoia_core.model.weight_shapes import layer_values, weight_values

LAYER = "model.layers."


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


class PipelinedLlama(Llama):
    """A `Llama` on several devices of one type; inputs and logits are on the first.

    This makes room for larger models, not speed.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        stages: Sequence[Stage],
        dtype: torch.dtype,
        feature_layers: Sequence[int] = (),
    ) -> None:
        # a copy from a GPU to the host would be read before it has arrived
        assert len({stage.device.type for stage in stages}) == 1
        self._stages = tuple(stages)
        self._places = [stage.device for stage in stages for _ in stage.layers]
        super().__init__(config, weights, stages[0].device, dtype, feature_layers)
        self._rotaries = [self._rotary.to(stage.device) for stage in stages]

    def new_cache(self, target_cache: KVCache | None = None) -> LayeredKVCache:  # noqa: ARG002
        """An empty cache for one conversation, divided like the layers."""
        slots = len(self.feature_slots)
        return LayeredKVCache(self.config, self._device, self.dtype, slots, self._places)

    def _place(self, name: str) -> torch.device:
        if not name.startswith(LAYER):
            return self._device
        return self._places[int(name.removeprefix(LAYER).partition(".")[0])]

    def run_layers(
        self, hidden: Tensor, position_ids: Tensor, attend: Attend, watch: Watch
    ) -> Tensor:
        """See `Llama.run_layers`."""
        for stage, rotary in zip(self._stages, self._rotaries, strict=True):
            cos_sin = rotary(moved(position_ids, stage.device))
            layers = ((index, self._layers[index]) for index in stage.layers)
            hidden = self._run(layers, moved(hidden, stage.device), cos_sin, attend, watch)
        return moved(hidden, self._device)

    def _biases(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache
    ) -> Sequence[Tensor | None]:
        def of_stages() -> Iterator[Tensor | None]:
            for stage in self._stages:
                there = None if mask is None else moved(mask, stage.device)
                bias = self._attention_bias(there, rows, cache, stage.device)
                yield from [bias] * len(stage.layers)

        return list(of_stages())


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host does not wait for the copy."""
    return x.to(device, non_blocking=True)
