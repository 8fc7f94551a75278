"""The forward pass of a Llama over any number of rows, on CPU or CUDA by the same code.

What other families have of their own are values of `ModelConfig`.

Nothing here waits for the device: no value is read back between the inputs and the logits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model import tensor_names as names
from sequoia_core.model.attention import AttentionChoice, Scores, attend, within_window
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Stage, moved
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache, LeasePool
from sequoia_core.model.layers import (
    MakeProduct,
    Product,
    RmsNorm,
    RotaryEmbedding,
    dense,
    rotate,
    with_unrotated_heads,
)
from sequoia_core.model.loading.memory_plan import PREFILL_ROWS

if TYPE_CHECKING:
    from sequoia_core.model.recorded import RecordedForward

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}

Attend = Callable[[int, Tensor, Tensor], Tensor]
"""Layer index, rotated queries [1, K, G n, D], new keys and values [2, K, n, D] -> [n, H D]."""

Angles = Mapping[str, tuple[Tensor, Tensor]]
"""By kind of rotation, see `ModelConfig.rotation`: cosines and sines [n, H + 2 K, D]."""

Watch = Callable[[int, Tensor], None]  # receives every layer's index and output [n, hidden]


@dataclass(frozen=True, slots=True)
class Layer:
    query_key_value: Product  # hidden -> (H + 2 K) D
    attention_out: Product  # H D -> hidden
    gate_up: Product  # hidden -> 2 intermediate
    down: Product  # intermediate -> hidden
    norms: Mapping[str, RmsNorm]  # those that it has, as named by `layer_norms`

    def normed(self, name: str, x: Tensor) -> Tensor:
        norm = self.norms.get(name)
        return x if norm is None else norm(x)


class Llama:
    prompt_rows = PREFILL_ROWS  # a constant, since other numbers round differently
    unseen_rows = 0  # of a text's first tokens, which no later row sees
    recorded: "RecordedForward | None" = None  # forwards are recorded where there is one
    attention = AttentionChoice()

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],  # Hugging Face's names, any dtype
        device: torch.device,  # of inputs and logits
        dtype: torch.dtype,  # of weights, activations and cache; logits are float32
        feature_layers: Sequence[int] = (),  # whose outputs a cache keeps, for a draft to read
        stages: Sequence[Stage] = (),  # of devices of one type; by default `device` computes all
        make_product: MakeProduct | None = None,  # of matrices that are held in another format
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self.vocab_size, self.context_window = config.head_vocab_size, config.context_window
        self._stages = tuple(stages) or (Stage(device, range(config.num_layers), 0),)
        self._layer_devices = [stage.device for stage in self._stages for _ in stage.layers]
        # a copy from a GPU to the host would be read before it has arrived
        assert len({stage.device.type for stage in self._stages}) == 1
        self._groups = config.num_heads // config.num_kv_heads  # G
        self._make_product = make_product
        self.feature_slots = {layer: slot for slot, layer in enumerate(feature_layers)}

        def get(name: str, place: torch.device = device) -> Tensor:
            return weights[name].to(place, dtype)

        self.embedding = get(names.EMBEDDING)
        # a tied head is the embedding itself, which then lies on the device once
        self._head = dense(self.embedding if config.tie_word_embeddings else get(names.HEAD))
        self._layers = [
            self._layer(index, partial(get, place=place))
            for index, place in enumerate(self._layer_devices)
        ]
        self._norm = RmsNorm(get(names.FINAL_NORM), config.rms_norm_eps, config.norms_add_one)
        self._rotaries = {
            (stage.device, kind): RotaryEmbedding(config.rotating(kind), stage.device, dtype)
            for stage in self._stages
            for kind in {config.rotation(layer) for layer in stage.layers} - {""}
        }
        self.scores = Scores(config.attention_scale, config.attention_softcap)
        self._activation = ACTIVATIONS[config.activation]
        scale = config.hidden_size**0.5 if config.scaled_embedding else 1.0
        # Gemma rounds this factor, and no other
        self._embedding_scale = (
            float(torch.tensor(scale, dtype=dtype)) * config.embedding_multiplier
        )

    def _layer(self, index: int, get: Callable[[str], Tensor]) -> Layer:
        kinds = names.products(self.config)

        def product(kind: str) -> Product:
            modules = [names.layer_name(index, module) for module in kinds[kind]]
            unbiased = self._product(index, kind, modules, get)
            if not self.config.has_bias(modules[0]):
                return unbiased
            bias = torch.cat([get(f"{name}.bias") for name in modules])
            return lambda x: unbiased(x) + bias

        def norm(name: str) -> RmsNorm:
            weight, config = get(names.layer_name(index, name)), self.config
            return RmsNorm(weight, config.rms_norm_eps, config.norms_add_one)

        products = {kind: product(kind) for kind in kinds}
        roles = names.layer_norms(self.config).items()
        return Layer(**products, norms={role: norm(name) for role, (name, _) in roles})

    def _product(
        self, layer: int, _kind: str, modules: Sequence[str], get: Callable[[str], Tensor]
    ) -> Product:
        """The product with the matrices of these modules, one above the other."""
        matrices = [f"{module}.weight" for module in modules]
        if self._make_product is not None:
            made = self._make_product(matrices, self._layer_devices[layer])
            if made is not None:
                return made
        parts = [get(name) for name in matrices]
        return dense(parts[0] if len(parts) == 1 else torch.cat(parts))

    def new_cache(self, target_cache: KVCache | None = None) -> LayeredKVCache:  # noqa: ARG002
        slots, pool = len(self.feature_slots), self._lease_pool
        return LayeredKVCache(
            self.config, self.device, self.dtype, slots, self._layer_devices, pool
        )

    @property
    def _lease_pool(self) -> LeasePool | None:
        return self.recorded.pool if self.recorded else None

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(cache, LayeredKVCache)
        if self.recorded is not None:
            logits = self.recorded.forward(self, token_ids, position_ids, mask, cache, parents)
            if logits is not None:
                return logits
        return self.forward_eagerly(token_ids, position_ids, mask, cache, parents)

    def forward_eagerly(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: LayeredKVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        """See `LanguageModel.forward`; each kernel is launched by itself."""
        return self.logits(self._hidden(token_ids, position_ids, mask, cache, parents))

    @torch.inference_mode()
    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        assert isinstance(cache, LayeredKVCache)
        if self.recorded is not None:
            self.recorded.forget_dropped()
        cache.reserve(token_ids.shape[0])
        for chunk in torch.split(token_ids, PREFILL_ROWS):
            first = cache.length
            position_ids = torch.arange(first, first + chunk.shape[0], device=self.device)
            self._hidden(chunk, position_ids, None, cache)

    def rows_at(
        self,
        token_ids: Tensor,  # int64 [R]
        position_ids: Tensor,  # int64 [R]
        slots: Tensor,  # int64 [R]
        bias: Tensor,  # of `bias_at`
        cache: LayeredKVCache,
        parents: Tensor | None = None,  # int64 [R], slots
        whole: int = 0,  # of `bias_at`
    ) -> Tensor:
        """The last layer's output [R, hidden] of rows that are written to slots of the cache.

        What is computed depends on shapes and on values on the device alone, not on the length of
        the cache, so that it can be recorded. The cache needs room for the slots; rows that only
        fill up the shape go to its scratch row. On one device.
        """
        first_input = self._first_input(token_ids, parents, cache, slots)
        biases = self._of_layers(bias, range(self.config.num_layers))
        span = whole + bias.shape[1]
        return self._over_cache(first_input, position_ids, biases, cache, span, slots)

    def bordered(self, mask: Tensor) -> Tensor:
        """A mask bool [R, k] for `bias_at`: additive [G R, 1 + k + 1], between visible and not."""
        whole = functional.pad(functional.pad(mask, (1, 0), value=True), (0, 1))
        bias = torch.zeros(whole.shape, device=mask.device, dtype=self.dtype)
        return bias.masked_fill_(~whole, float("-inf")).repeat(self._groups, 1)

    def bias_at(self, bordered: Tensor, first: Tensor, span: int, whole: int = 0) -> Tensor:
        """Additive mask [G R, span - whole] whose middle part begins at the slot `first`, int64 [].

        Tokens before are visible to all rows, tokens after it to none. The first `whole` tokens
        are left out: they are visible.
        """
        columns = torch.arange(whole + 1, span + 1, device=bordered.device) - first
        return bordered.index_select(1, columns.clamp_(0, bordered.shape[1] - 1))

    def embed(self, token_ids: Tensor) -> Tensor:
        embedded = functional.embedding(token_ids, self.embedding)
        return embedded if self._embedding_scale == 1.0 else embedded * self._embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Last layer's output [n, hidden] -> float32 [n, V]."""
        logits = self._head(self._norm(hidden)).float()
        if self.config.logits_divisor != 1.0:
            logits = logits / self.config.logits_divisor
        if (softcap := self.config.logit_softcap) is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return logits

    def run_layers(
        self, hidden: Tensor, position_ids: Tensor, attend: Attend, watch: Watch
    ) -> Tensor:
        """The first layer's input [n, hidden] -> the last one's output [n, hidden]."""
        for stage in self._stages:
            angles = self._angles(position_ids, stage.device)
            hidden = moved(hidden, stage.device)
            hidden = self._through(self._layers_of(stage), hidden, angles, attend, watch)
        return moved(hidden, self.device)

    def _angles(self, position_ids: Tensor, device: torch.device) -> Angles:
        """Of positions int64 [n]; values are not rotated."""
        values, rotated = self.config.num_kv_heads, self.config.num_heads + self.config.num_kv_heads
        positions = moved(position_ids, device)
        return {
            kind: with_unrotated_heads(*rotary(positions), rotated, values)
            for (place, kind), rotary in self._rotaries.items()
            if place == device
        }

    def _layers_of(self, stage: Stage) -> Iterable[tuple[int, Layer]]:
        """Numbered; the weights of each are in place until the next is asked for."""
        return ((index, self._layers[index]) for index in stage.layers)

    def _through(
        self,
        layers: Iterable[tuple[int, Layer]],
        hidden: Tensor,
        angles: Angles,
        attend: Attend,
        watch: Watch,
    ) -> Tensor:
        """The output of consecutive layers of a stage, [n, hidden]."""
        for index, layer in layers:
            projected = layer.query_key_value(layer.normed("attention", hidden))
            heads = self._heads(layer, projected)  # [n, H + 2 K, D]
            if (cos_sin := angles.get(self.config.rotation(index))) is not None:
                heads = rotate(heads, *cos_sin)
            attended = attend(index, *self._split(heads))
            out = layer.normed("attention_out", layer.attention_out(attended))
            hidden = self._after_mlp(layer, self._added(hidden, out))
            watch(index, hidden)
        return hidden

    def _after_mlp(self, layer: Layer, hidden: Tensor) -> Tensor:
        gate, up = layer.gate_up(layer.normed("mlp", hidden)).chunk(2, dim=-1)
        out = layer.normed("mlp_out", layer.down(self._activation(gate) * up))
        return self._added(hidden, out)

    def _added(self, hidden: Tensor, out: Tensor) -> Tensor:
        """What attention or MLP of a layer has read, with its output, [n, hidden]."""
        factor = self.config.residual_multiplier
        return hidden + (out if factor == 1.0 else out * factor)

    def _hidden(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: LayeredKVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        rows = token_ids.shape[0]
        cache.reserve(rows)
        biases, span = self._biases(mask, rows, cache)
        parent_slots = None if parents is None else parents + cache.length
        first_input = self._first_input(token_ids, parent_slots, cache)
        hidden = self._over_cache(first_input, position_ids, biases, cache, span)
        cache.advance(rows)
        return hidden

    def _biases(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache
    ) -> tuple[list[Tensor | None], int]:
        """The next rows' additive mask in each layer, and the tokens that attention spans."""
        biases: list[Tensor | None] = []
        for stage in self._stages:
            bias = self._attention_bias(mask, rows, cache, stage.device)
            biases += self._of_layers(bias, stage.layers)
        # without a mask only the keys of the text itself may be read
        return biases, cache.length + rows if biases[0] is None else cache.span(rows)

    def _of_layers(self, bias: Tensor | None, layers: Sequence[int]) -> list[Tensor | None]:
        """An additive mask [G n, at most span] as each of the layers sees it."""
        window = self.config.sliding_window
        if bias is None or window is None or bias.shape[1] <= window:
            return [bias] * len(layers)
        near = within_window(bias[: bias.shape[0] // self._groups], window)
        near, sliding = near.repeat(self._groups, 1), self.config.sliding_layers
        return [near if layer in sliding else bias for layer in layers]

    def _over_cache(
        self,
        first_input: Tensor,
        position_ids: Tensor,
        biases: Sequence[Tensor | None],
        cache: LayeredKVCache,
        span: int,
        slots: Tensor | None = None,
    ) -> Tensor:
        """All layers, over rows that are written to the cache; see `LayeredKVCache.write`."""
        return self.run_layers(
            first_input, position_ids, *self._on_cache(biases, cache, span, slots)
        )

    def _on_cache(
        self,
        biases: Sequence[Tensor | None],
        cache: LayeredKVCache,
        span: int,
        slots: Tensor | None = None,
    ) -> tuple[Attend, Watch]:
        def attend_cached(index: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            keys, values = cache.write(index, keys_values, span, slots)
            bias, masked = biases[index], self.attention.masked
            return attend(queries, keys, values, bias, self._groups, masked, self.scores)

        def watch(index: int, hidden: Tensor) -> None:
            if (slot := self.feature_slots.get(index)) is not None:
                cache.write_features(slot, hidden, slots)

        return attend_cached, watch

    def _first_input(
        self,
        token_ids: Tensor,
        parents: Tensor | None,  # noqa: ARG002
        cache: LayeredKVCache,  # noqa: ARG002
        slots: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """[n, hidden]. Parents are slots; rows without slots are written after the cached ones."""
        return self.embed(token_ids)

    def _heads(self, layer: Layer, projected: Tensor) -> Tensor:
        """[n, (H + 2 K) D] -> queries, keys and values [n, H + 2 K, D], with their norms."""
        config = self.config
        rows, dim = projected.shape[0], config.head_dim
        if not config.qk_norm:
            return projected.view(rows, -1, dim)
        width = config.num_kv_heads * dim
        parts = torch.split(projected, [config.num_heads * dim, width, width], -1)
        shape = (rows, -1, dim) if config.qk_norm == "head" else (rows, -1)
        queries, keys, values = (part.reshape(shape) for part in parts)
        normed = layer.normed("query", queries), layer.normed("key", keys), values
        return torch.cat([part.reshape(rows, -1, dim) for part in normed], 1)

    def _split(self, heads: Tensor) -> tuple[Tensor, Tensor]:
        """[n, H + 2 K, D] -> queries [1, K, G n, D] and keys and values [2, K, n, D]."""
        rows, _, dim = heads.shape
        kv_heads = self.config.num_kv_heads
        queries = heads[:, : self.config.num_heads].view(rows, kv_heads, -1, dim)
        queries = queries.permute(1, 2, 0, 3).reshape(1, kv_heads, -1, dim)
        keys_values = heads[:, self.config.num_heads :].view(rows, 2, kv_heads, dim)
        return queries, keys_values.permute(1, 2, 0, 3)

    def _attention_bias(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache, device: torch.device
    ) -> Tensor | None:
        """Additive mask on a device as `attend` takes it, of the last keys of the span.

        None for a kernel without one, over S + n keys: on CUDA the fastest. On a CPU the rows of a
        prompt keep the masked kernel.
        """
        length, span = cache.length, cache.span(rows)
        if mask is None:
            causal = length == 0 and device.type == "cuda" and self.scores.softcap is None
            window = self.config.sliding_window or span
            if (rows == 1 or causal) and length + rows <= window:
                return None
            mask = torch.ones((rows, rows), device=device, dtype=torch.bool).tril()
        stop = length + rows
        first = stop - mask.shape[1]
        assert mask.shape[0] == rows, (mask.shape, rows)
        assert first >= 0, (mask.shape, rows, length)
        whole = self.attention.whole(first)
        assert not whole or self.config.sliding_window is None  # a window counts all visible keys
        bias = torch.zeros((rows, span - whole), device=device, dtype=self.dtype)
        bias[:, first - whole : stop - whole].masked_fill_(~moved(mask, device), float("-inf"))
        if span > stop:
            bias[:, stop - whole :].fill_(float("-inf"))
        return bias.repeat(self._groups, 1)
