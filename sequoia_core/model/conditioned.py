"""A draft that reads the target's hidden states beside the tokens.

After EAGLE (arXiv 2401.15077) and EAGLE-3 (arXiv 2503.01840). A row's input is its token's
embedding and a hidden state of the token before it: the target's, at several layers, where the
target has read that token; in a tree, whose tokens the target has not read yet, the draft's own
output at the row's parent. Owns where a row finds that state.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.linear import DenseLinear
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.weights import INPUT_SCALE, INPUT_SHIFT, OWN_INPUT, TARGET_INPUT


class ConditionedCache(LayeredKVCache):
    """A draft's cache that lies beside the target's and remembers the draft's own outputs.

    Args:
        config: of the draft.
        device: of the buffers.
        dtype: likewise.
        target: the target's cache of the same conversation, ahead of this one whenever the draft is
            run; None reads zeros, which will do for timing.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        target: LayeredKVCache | None,
    ) -> None:
        super().__init__(config, device, dtype, feature_slots=1)
        self._target = target

    def states_before(self, rows: int, slots: int) -> Tensor:
        """The target's hidden states of the tokens before each of the next rows of the text.

        Args:
            rows: how many come after the cached ones.
            slots: hidden states per token.

        Returns:
            [rows, slots, hidden]; zeros before the first token.
        """
        first = self.length
        if self._target is None:
            return self._features.new_zeros((rows, slots, self._features.shape[-1]))
        states = self._target.features(max(first - 1, 0), first - 1 + rows)
        return states if first else functional.pad(states, (0, 0, 0, 0, 1, 0))

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """As ever, but only the first of the rows, a tree's root, is kept.

        The rows below it were made from the draft's own outputs; now that the target has read their
        tokens, they are read again with what it thinks of them.
        """
        super().keep(committed, rows[:1])


class ConditionedLlama(Llama):
    """A draft conditioned on the target's hidden states; otherwise as `Llama`.

    Args:
        config: with `feature_layers`.
        weights: likewise, with those of its inputs.
        device: where to compute.
        dtype: of weights, activations and cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        outputs = (config.num_layers - 1,)
        super().__init__(config, weights, device, dtype, outputs)
        self._target_input = DenseLinear(weights[TARGET_INPUT].to(device, dtype))
        # float32: a hidden state's few large dimensions have means many times their spread
        self._shift = weights[INPUT_SHIFT].to(device, torch.float32).view(-1, config.hidden_size)
        self._scale = weights[INPUT_SCALE].to(device, torch.float32).view(-1, config.hidden_size)
        self._own_input = DenseLinear(weights[OWN_INPUT].to(device, dtype))

    def new_cache(self, beside: KVCache | None = None) -> ConditionedCache:
        """An empty cache for one conversation beside the target's."""
        assert beside is None or isinstance(beside, LayeredKVCache)
        return ConditionedCache(self.config, self._device, self.dtype, beside)

    def _embedded(self, token_ids: Tensor, parents: Tensor | None, cache: LayeredKVCache) -> Tensor:
        assert isinstance(cache, ConditionedCache)
        embedded = functional.embedding(token_ids, self.embedding)[:, None]  # [n, 1, hidden]
        if parents is None:
            states = cache.states_before(len(token_ids), len(self.config.feature_layers))
            inputs = (torch.cat((embedded, states), 1) - self._shift) * self._scale
            return self._target_input(inputs.to(self.dtype).flatten(1))  # from [n, F + 1, hidden]
        own = self._norm(cache.features_of_parents(parents))
        evened = ((embedded - self._shift[:1]) * self._scale[:1]).to(self.dtype)
        return self._own_input(torch.cat((evened, own), 1).flatten(1))
