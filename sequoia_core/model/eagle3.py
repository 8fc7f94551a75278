"""The forward of a published EAGLE-3 draft (arXiv 2503.01840).

Its one layer reads a token's embedding and a feature of the token before it, side by side. The
feature is made of the target's hidden states by `fc`; in a tree it is the draft's own output at the
row's parent. Before the first token there is none, so these drafts are trained without a row of it:
here that row sees itself alone, and no other row sees it.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.model import tensor_names as names
from sequoia_core.model.attention import attend
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.layers import RmsNorm, dense, rotate
from sequoia_core.model.llama import Angles, Attend, Layer, Watch


class Eagle3Llama(ConditionedLlama):
    """A draft of a `config` with `eagle3`."""

    unseen_rows = 1

    @override
    def _take_inputs(self, weights: Mapping[str, Tensor]) -> None:
        eagle3, slots = self.config.eagle3, self.config.feature_count
        assert eagle3 is not None
        self._eagle3 = eagle3
        self._states = slots, eagle3.target_hidden_size

        def vector(name: str) -> Tensor:
            return weights[name].to(self.device, self.dtype)

        def norm(name: str) -> RmsNorm:
            return RmsNorm(vector(name), self.config.rms_norm_eps)

        self._fuse = dense(vector(names.FEATURES))  # F width -> hidden
        self._fuse_bias = vector(names.FEATURES_BIAS) if eagle3.fc_bias else None
        self._state_norms = [norm(names.feature_norm(n)) for n in range(slots * eagle3.fc_norm)]
        self._joint_norm = norm(names.ALL_FEATURES_NORM) if eagle3.norm_before_fc else None
        self._feature_norm = norm(names.layer_name(0, names.HIDDEN_NORM))

    @override
    def _after_target(self, embedded: Tensor, states: Tensor) -> Tensor:
        states = states.to(self.dtype)  # the native library keeps them in float32
        if norms := self._state_norms:
            parts = zip(norms, states.unbind(1), strict=True)
            states = torch.stack([norm(part) for norm, part in parts], 1)
        joined = states.flatten(1)  # [n, F width]
        if self._joint_norm is not None:
            joined = self._joint_norm(joined)
        feature = self._fuse(joined)
        if self._fuse_bias is not None:
            feature = feature + self._fuse_bias
        return self._after_own(embedded, feature)

    @override
    def _after_own(self, embedded: Tensor, own: Tensor) -> Tensor:
        return torch.cat((embedded, own), 1)  # [n, 2 hidden]

    @override
    def _through(
        self,
        layers: Iterable[tuple[int, Layer]],
        hidden: Tensor,
        angles: Angles,
        attend: Attend,
        watch: Watch,
    ) -> Tensor:
        ((index, layer),) = layers
        embedded, feature = hidden.chunk(2, dim=-1)
        normed = self._feature_norm(feature)
        read = torch.cat((layer.normed("attention", embedded), normed), 1)
        heads = self._heads(layer, layer.query_key_value(read))
        heads = rotate(heads, *angles[self.config.rotation(index)])
        residual = normed if self._eagle3.norm_before_residual else feature
        hidden = residual + layer.attention_out(attend(index, *self._split(heads)))
        hidden = self._after_mlp(layer, hidden)
        watch(index, self._norm(hidden) if self._eagle3.norm_output else hidden)
        return hidden

    @override
    def _on_cache(
        self,
        biases: Sequence[Tensor | None],
        cache: LayeredKVCache,
        span: int,
        slots: Tensor | None = None,
    ) -> tuple[Attend, Watch]:
        attend_all, watch = super()._on_cache(biases, cache, span, slots)
        if slots is None and cache.length == 0:  # the bias hides the first row
            return attend_all, watch

        def attend_later(index: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            keys, values = cache.write(index, keys_values, span, slots)
            bias = biases[index]
            if bias is not None and bias.shape[1] == span:
                bias = bias[:, 1:]
            later = keys[:, :, 1:], values[:, :, 1:]
            return attend(queries, *later, bias, self._groups, self.attention.masked)

        return attend_later, watch

    @override
    def _attention_bias(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache, device: torch.device
    ) -> Tensor | None:
        if cache.length == 0 and rows > 1:
            if mask is None:
                mask = torch.ones((rows, rows), device=device, dtype=torch.bool).tril()
            assert mask.shape == (rows, rows)
            mask = mask.clone()
            mask[1:, 0] = False
        return super()._attention_bias(mask, rows, cache, device)
