"""A draft that reads the target's hidden states together with the tokens.

After EAGLE-3 (arXiv 2503.01840). A row's input is its token's embedding and hidden states of the
token before it: the target's, or in a tree, the draft's own output at the row's parent.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import FeatureCache, KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.layers import dense
from sequoia_core.model.llama import Llama
from sequoia_core.model.tensor_names import INPUT_SCALE, INPUT_SHIFT, OWN_INPUT, TARGET_INPUT


class ConditionedCache(LayeredKVCache):
    """A draft's cache that holds the draft's own outputs and reads the target's cache."""

    target: FeatureCache | None = None  # None reads zeros, which is enough for timing
    states: tuple[int, int]  # layers and width of what is read of a token

    @property
    def lease_numbers(self) -> tuple[int, ...]:
        own, target = super().lease_numbers, self.target
        return own + target.lease_numbers if isinstance(target, LayeredKVCache) else own

    def settle(self) -> None:
        super().settle()
        if isinstance(self.target, LayeredKVCache):
            self.target.settle()

    def states_before(self, rows: int, slots: Tensor | None = None) -> Tensor:
        """The target's states of the tokens before the next rows, [rows, layers, width].

        Zeros before the first token. With slots, int64 [rows], before the rows that go there.
        """
        if self.target is None:
            return self.lease.features.new_zeros((rows, *self.states))
        if slots is not None:  # any before the scratch row
            assert isinstance(self.target, LayeredKVCache)
            last = self.target.lease.capacity
            states = self.target.features_at((slots - 1).clamp_(0, last))
            return states.masked_fill_((slots == 0)[:, None, None], 0.0)
        first = self.length
        states = self.target.features(max(first - 1, 0), first - 1 + rows)
        return states if first else functional.pad(states, (0, 0, 0, 0, 1, 0))

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
        self._take_inputs(weights)

    def _take_inputs(self, weights: Mapping[str, Tensor]) -> None:
        config, device, dtype = self.config, self.device, self.dtype
        self._states = len(config.feature_layers), config.hidden_size
        self._target_input = dense(weights[TARGET_INPUT].to(device, dtype))
        self._own_input = dense(weights[OWN_INPUT].to(device, dtype))
        # float32: a hidden state's few large dimensions have means many times their spread
        self._shift, self._scale = (
            weights[name].to(device, torch.float32).view(-1, config.hidden_size)
            for name in (INPUT_SHIFT, INPUT_SCALE)
        )

    def new_cache(self, target_cache: KVCache | None = None) -> ConditionedCache:
        assert target_cache is None or isinstance(target_cache, FeatureCache)
        cache = ConditionedCache(
            self.config, self.device, self.dtype, feature_slots=1, pool=self._lease_pool
        )
        cache.target, cache.states = target_cache, self._states
        return cache

    def _first_input(
        self,
        token_ids: Tensor,
        parents: Tensor | None,
        cache: LayeredKVCache,
        slots: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(cache, ConditionedCache)
        embedded = self.embed(token_ids)
        if parents is None:
            return self._after_target(embedded, cache.states_before(len(token_ids), slots))
        return self._after_own(embedded, cache.features_at(parents)[:, 0])

    def _after_target(self, embedded: Tensor, states: Tensor) -> Tensor:
        """The input of rows with embeddings [n, hidden] after the target's states [n, F, width]."""
        inputs = (torch.cat((embedded[:, None], states), 1) - self._shift) * self._scale
        return self._target_input(inputs.to(self.dtype).flatten(1))

    def _after_own(self, embedded: Tensor, own: Tensor) -> Tensor:
        """The same of a tree's rows, after the draft's own outputs [n, hidden]."""
        normalized = ((embedded - self._shift[0]) * self._scale[0]).to(self.dtype)
        return self._own_input(torch.cat((normalized, self._norm(own)), 1))
