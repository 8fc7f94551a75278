"""A draft that reads the target's hidden states together with the tokens.

After EAGLE-3 (arXiv 2503.01840). A row's input is its token's embedding and hidden states of the
token before it: the target's, or in a tree, the draft's own output at the row's parent.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.layers import dense
from sequoia_core.model.llama import Llama
from sequoia_core.model.tensor_names import INPUT_SCALE, INPUT_SHIFT, OWN_INPUT, TARGET_INPUT


class ConditionedCache(LayeredKVCache):
    """A draft's cache that holds the draft's own outputs and reads the target's cache."""

    target: LayeredKVCache | None = None  # None reads zeros, which is enough for timing

    @property
    def lease_numbers(self) -> tuple[int, ...]:
        return super().lease_numbers + (self.target.lease_numbers if self.target else ())

    def settle(self) -> None:
        super().settle()
        if self.target is not None:
            self.target.settle()

    def states_before(self, rows: int, layers: int) -> Tensor:
        """The target's states of the tokens before the next rows [rows, layers, hidden].

        Zeros before the first token.
        """
        first = self.length
        if self.target is None:
            own = self.lease.features
            return own.new_zeros((rows, layers, own.shape[-1]))
        states = self.target.features(max(first - 1, 0), first - 1 + rows)
        return states if first else functional.pad(states, (0, 0, 0, 0, 1, 0))

    def states_before_slots(self, slots: Tensor, layers: int) -> Tensor:
        """The same before rows at slots, int64 [n]; any before the scratch row."""
        if self.target is None:
            return self.states_before(len(slots), layers)
        last = self.target.lease.capacity
        states = self.target.features_at((slots - 1).clamp_(0, last))
        return states.masked_fill_((slots == 0)[:, None, None], 0.0)

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the committed tokens and the first of the rows, a tree's root.

        The rows below it were computed from the draft's own outputs; they are read again with the
        hidden states of the target, which has read their tokens by now.
        """
        super().keep(committed, rows[:1])


class ConditionedLlama(Llama):
    """A draft conditioned on the target's hidden states, for a `config` with `feature_layers`."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(config, weights, device, dtype, feature_layers=(config.num_layers - 1,))
        self._target_input = dense(weights[TARGET_INPUT].to(device, dtype))
        self._own_input = dense(weights[OWN_INPUT].to(device, dtype))
        # float32: a hidden state's few large dimensions have means many times their spread
        self._shift, self._scale = (
            weights[name].to(device, torch.float32).view(-1, config.hidden_size)
            for name in (INPUT_SHIFT, INPUT_SCALE)
        )

    def new_cache(self, target_cache: KVCache | None = None) -> ConditionedCache:
        assert target_cache is None or isinstance(target_cache, LayeredKVCache)
        cache = ConditionedCache(
            self.config, self.device, self.dtype, feature_slots=1, pool=self._lease_pool
        )
        cache.target = target_cache
        return cache

    def _first_input(
        self,
        token_ids: Tensor,
        parents: Tensor | None,
        cache: LayeredKVCache,
        slots: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(cache, ConditionedCache)
        embedded = self.embed(token_ids)[:, None]  # [n, 1, hidden]
        if parents is None:
            layers = len(self.config.feature_layers)
            if slots is None:
                states = cache.states_before(len(token_ids), layers)
            else:
                states = cache.states_before_slots(slots, layers)
            inputs = (torch.cat((embedded, states), 1) - self._shift) * self._scale
            return self._target_input(inputs.to(self.dtype).flatten(1))  # from [n, F + 1, hidden]
        own = self._norm(cache.features_at(parents))
        normalized = ((embedded - self._shift[:1]) * self._scale[:1]).to(self.dtype)
        return self._own_input(torch.cat((normalized, own), 1).flatten(1))
