"""A Llama whose layers lie on several devices, one run of them after the other.

Owns which layer lies where, and what is copied from one device to the next: hidden states, position
ids and masks. Embedding, last norm and output head stay on the first device, so that what comes
back to it is a row's hidden state and not its logits, which are several times as wide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Attend, Llama
from sequoia_core.model.loading.weights import expected_shapes

LAYER = "model.layers."


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of a model's layers on one device.

    Attributes:
        device: where they lie and compute.
        layers: their indices.
        values: weights that lie there, in numbers: the layers', and on the first device what is no
            layer's.
    """

    device: torch.device
    layers: range
    values: int


def even_stages(
    config: ModelConfig, devices: Sequence[torch.device], beside: int = 0
) -> tuple[Stage, ...]:
    """Spread a model over devices so that the fullest, and then the next, holds least.

    Every device but the first holds a layer at least; the first holds what is no layer's.

    Args:
        config: the model's shape.
        devices: in the order of their layers.
        beside: values of other models that the first device holds.

    Raises:
        ParameterError: there are fewer layers than devices.
    """
    count, others = config.num_layers, len(devices) - 1
    if count < len(devices):
        raise ParameterError(
            f"the target has {count} layers, too few for the {len(devices)} devices named; "
            "name fewer of them"
        )
    layer, rest = _layer_and_other_values(config)

    def shares_of(first: int) -> list[int]:
        return [first, *((count - first + at) // others for at in reversed(range(others)))]

    def fullest_first(first: int) -> list[int]:
        on_first, *on_others = (layer * share for share in shares_of(first))
        return sorted([beside + rest + on_first, *on_others], reverse=True)

    least = 0 if others else count
    shares = shares_of(min(range(least, count - others + 1), key=fullest_first))
    starts = accumulate(shares, initial=0)
    return tuple(
        Stage(device, range(start, start + share), layer * share + (0 if at else rest))
        for at, (device, start, share) in enumerate(zip(devices, starts, shares, strict=False))
    )


class PipelinedKVCache(LayeredKVCache):
    """A cache whose layers lie where the model's do; features are on the first device.

    It is itself the cache of the first run of layers and passes every verb on to those of the
    others, so that all hold the same tokens.

    Args:
        config: shape of the model.
        stages: where which layers lie.
        dtype: of the buffers.
        feature_slots: hidden states held per token.
    """

    def __init__(
        self,
        config: ModelConfig,
        stages: Sequence[Stage],
        dtype: torch.dtype,
        feature_slots: int = 0,
    ) -> None:
        # a first device without layers still has a buffer, of one that is never written
        first, *later = (
            (replace(config, num_layers=max(len(stage.layers), 1)), stage.device)
            for stage in stages
        )
        super().__init__(*first, dtype, feature_slots)
        self._later = [LayeredKVCache(*each, dtype) for each in later]
        self._own = len(stages[0].layers)
        later_stages = zip(self._later, stages[1:], strict=True)
        self._elsewhere = [
            (each, at) for each, stage in later_stages for at in range(len(stage.layers))
        ]

    def reserve(self, rows: int) -> None:
        """Make room in every run's buffer; see `LayeredKVCache.reserve`."""
        super().reserve(rows)
        for each in self._later:
            each.reserve(rows)

    def release(self) -> None:
        """Return memory of every run's buffers; see `LayeredKVCache.release`."""
        super().release()
        for each in self._later:
            each.release()

    def write(
        self, layer: int, keys_values: Tensor, span: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Write to the layer's own device; see `LayeredKVCache.write`."""
        if layer < self._own:
            return super().write(layer, keys_values, span)
        cache, at = self._elsewhere[layer - self._own]
        return cache.write(at, keys_values, span)

    def write_features(self, slot: int, hidden: Tensor) -> None:
        """Bring hidden states to the first device; see `LayeredKVCache.write_features`."""
        super().write_features(slot, moved(hidden, self._features.device))

    def advance(self, rows: int) -> None:
        """Count rows in every run; see `LayeredKVCache.advance`."""
        super().advance(rows)
        for each in self._later:
            each.advance(rows)

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the same rows in every run; see `LayeredKVCache.keep`."""
        super().keep(committed, rows)
        for each in self._later:
            each.keep(committed, rows)

    def truncate(self, length: int) -> None:
        """Forget the same tokens in every run; see `LayeredKVCache.truncate`."""
        super().truncate(length)
        for each in self._later:
            each.truncate(length)


class PipelinedLlama(Llama):
    """A `Llama` on several devices, whose inputs and logits lie on the first; otherwise the same.

    The devices compute one after the other: room is won, not speed.

    Args:
        config: the model's shape.
        weights: as in `Llama`.
        stages: from `even_stages`, all on devices of one type.
        dtype: of weights, activations and cache.
        feature_layers: as in `Llama`.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        stages: Sequence[Stage],
        dtype: torch.dtype,
        feature_layers: Sequence[int] = (),
    ) -> None:
        # a copy to the host that nothing waits for would be read before it has arrived
        assert len({stage.device.type for stage in stages}) == 1
        self._stages = tuple(stages)
        self._places = [stage.device for stage in stages for _ in stage.layers]
        super().__init__(config, weights, stages[0].device, dtype, feature_layers)
        self._rotaries = [self._rotary.to(stage.device) for stage in stages]

    def new_cache(self, beside: KVCache | None = None) -> PipelinedKVCache:  # noqa: ARG002
        """An empty cache for one conversation, a part of it on each device."""
        slots = len(self.feature_slots)
        return PipelinedKVCache(self.config, self._stages, self.dtype, slots)

    def _place(self, name: str) -> torch.device:
        if not name.startswith(LAYER):
            return self._device
        return self._places[int(name.removeprefix(LAYER).partition(".")[0])]

    def _through_layers(
        self,
        hidden: Tensor,
        position_ids: Tensor,
        attend: Attend,
        watch: Callable[[int, Tensor], None],
    ) -> Tensor:
        for stage, rotary in zip(self._stages, self._rotaries, strict=True):
            there = moved(position_ids, stage.device)
            layers = ((index, self._layers[index]) for index in stage.layers)
            placed = moved(hidden, stage.device)
            hidden = self._through(layers, placed, rotary(there), attend, watch)
        return moved(hidden, self._device)

    def _biases(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache
    ) -> Sequence[Tensor | None]:
        return list(self._biases_in_turn(mask, rows, cache))

    def _biases_in_turn(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache
    ) -> Iterator[Tensor | None]:
        for stage in self._stages:
            there = None if mask is None else moved(mask, stage.device)
            bias = self._attention_bias(there, rows, cache, stage.device)
            yield from [bias] * len(stage.layers)


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Nothing waits for the copy but what is computed from it there."""
    return x.to(device, non_blocking=True)


def _layer_and_other_values(config: ModelConfig) -> tuple[int, int]:
    """Numbers that one layer's weights consist of, and those that are in no layer."""
    sizes = {name: prod(shape) for name, shape in expected_shapes(config).items()}
    layer = sum(size for name, size in sizes.items() if name.startswith(f"{LAYER}0."))
    return layer, sum(sizes.values()) - layer * config.num_layers
