"""The Llama forward pass over any number of rows, on CPU or CUDA by the same code.

Owns weights and the arithmetic between token ids and logits. It knows nothing of trees, prompts or
sampling: a tree reaches it as position ids and a mask. Shapes: `n` new rows, `S` cached tokens, `V`
vocabulary, `H` query heads, `K` KV heads, `G = H / K`, `D` head dim.

Nothing here waits for the device: no value is read back between the inputs and the logits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.attention import additive, mix, mix_from_start
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.linear import BiasedLinear, DenseLinear, Linear
from sequoia_core.model.loading.memory_plan import PREFILL_ROWS
from sequoia_core.model.norm import RmsNorm
from sequoia_core.model.offload.layer_stream import LayerRing
from sequoia_core.model.rope import RotaryEmbedding, rotate, with_still_heads

Attend = Callable[[int, Tensor, Tensor], Tensor]
"""Layer index, rotated queries [1, K, G n, D], new keys and values [2, K, n, D] -> [n, H D]."""

PRODUCTS = {
    "query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention_out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""A layer's products and their matrices; those that read the same input become one product."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block's weights, laid out for the device."""

    attention_norm: RmsNorm
    query_key_value: Linear  # hidden -> (H + 2 K) D
    attention_out: Linear  # H D -> hidden
    mlp_norm: RmsNorm
    gate_up: Linear  # hidden -> 2 intermediate
    down: Linear  # intermediate -> hidden


class Llama:
    """A Llama-family model; see `protocols.LanguageModel`.

    Args:
        config: the model's shape.
        weights: tensors under Hugging Face's Llama names, any dtype; `lm_head.weight` may be
            missing when the embedding is tied.
        device: where to compute.
        dtype: of weights, activations and cache. Logits are float32.
        feature_layers: layers whose outputs a cache keeps, for a draft that reads them.

    Attributes:
        ring: hands out the layers of an offloaded model; None where they are resident.
        feature_slots: the layers whose outputs are kept, each with its place among them, in
            order; empty where none is.
    """

    ring: LayerRing | None = None

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        feature_layers: Sequence[int] = (),
    ) -> None:
        def get(name: str, kind: str = "weight") -> Tensor:
            return weights[f"{name}.{kind}"].to(self._place(name), dtype)

        def linear(*names: str) -> Linear:
            product = self._product(names, get)
            if not config.has_bias(names[0]):
                return product
            return BiasedLinear(product, torch.cat([get(name, "bias") for name in names]))

        def norm(name: str) -> RmsNorm:
            return RmsNorm(get(name), config.rms_norm_eps)

        self.config = config
        self.dtype = dtype
        self._device = device
        self.feature_slots = {layer: slot for slot, layer in enumerate(feature_layers)}
        self.embedding = get("model.embed_tokens")
        # a tied head is the embedding itself, which then lies on the device once
        tied = config.tie_word_embeddings
        self._head: Linear = DenseLinear(self.embedding) if tied else linear("lm_head")
        self._layers = [
            _layer(norm, linear, f"model.layers.{index}") for index in range(config.num_layers)
        ]
        self._norm = norm("model.norm")
        self._rotary = RotaryEmbedding(config, device, dtype)

    @property
    def vocab_size(self) -> int:
        """Columns of the logits: `V`, or fewer for a draft with a trimmed head."""
        return self.config.head_vocab_size

    @property
    def context_window(self) -> int:
        """Most tokens the model can attend over."""
        return self.config.context_window

    @property
    def prompt_rows(self) -> int:
        """Rows of a prompt that are read at once, always as many: other rows round otherwise."""
        return PREFILL_ROWS

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return self._device

    def new_cache(self, beside: KVCache | None = None) -> LayeredKVCache:  # noqa: ARG002
        """An empty cache for one conversation; nothing is read from another model's cache."""
        return LayeredKVCache(self.config, self._device, self.dtype, len(self.feature_slots))

    @torch.inference_mode()
    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        """Logits of n new rows; see `protocols.LanguageModel.forward`.

        Args:
            token_ids: int64 [n].
            position_ids: int64 [n].
            mask: bool [n, S + n], True where a row may attend; None is causal.
            cache: from this model's `new_cache`, holding S tokens.
            parents: int64 [n], see `LanguageModel.forward`.

        Returns:
            float32 [n, V].

        Raises:
            ContextFullError: S + n exceeds the context window.
        """
        assert isinstance(cache, LayeredKVCache)
        hidden = self._hidden(token_ids, position_ids, mask, cache, parents)
        return self.logits(hidden)

    @torch.inference_mode()
    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Append n tokens after the S cached ones without computing logits.

        Raises:
            ContextFullError: S + n exceeds the context window; the cache is unchanged.
        """
        assert isinstance(cache, LayeredKVCache)
        cache.reserve(token_ids.shape[0])
        for chunk in torch.split(token_ids, PREFILL_ROWS):
            first = cache.length
            position_ids = torch.arange(first, first + chunk.shape[0], device=self._device)
            self._hidden(chunk, position_ids, None, cache)

    def through_layers(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        attend: Attend,
        watch: Callable[[int, Tensor], None],
    ) -> Tensor:
        """The layers with an attention of the caller's choice, who also keeps keys and values.

        Args:
            token_ids: int64 [n].
            position_ids: int64 [n].
            attend: see `Attend`.
            watch: told every layer's index and output [n, hidden].

        Returns:
            the last layer's output [n, hidden], for `logits`.
        """
        hidden = functional.embedding(token_ids, self.embedding)  # [n, hidden]
        return self._through_layers(hidden, position_ids, attend, watch)

    def _through_layers(
        self,
        hidden: Tensor,
        position_ids: Tensor,
        attend: Attend,
        watch: Callable[[int, Tensor], None],
    ) -> Tensor:
        turns = self._rotary(position_ids)
        return self._through(enumerate(self._in_turn()), hidden, turns, attend, watch)

    def _through(
        self,
        layers: Iterable[tuple[int, Layer]],
        hidden: Tensor,
        turns: tuple[Tensor, Tensor],
        attend: Attend,
        watch: Callable[[int, Tensor], None],
    ) -> Tensor:
        """Numbered layers of one device; `turns` are the rows' of `RotaryEmbedding`."""
        still = self.config.num_kv_heads  # values are not rotated
        cos, sin = with_still_heads(*turns, self.config.num_heads + still, still)
        for index, layer in layers:
            projected = layer.query_key_value(layer.attention_norm(hidden))
            queries, keys_values = self._heads(projected, cos, sin)
            attended = attend(index, queries, keys_values)
            hidden = layer.attention_out.add(attended, hidden)
            gate, up = layer.gate_up(layer.mlp_norm(hidden)).chunk(2, dim=-1)
            hidden = layer.down.add(functional.silu(gate) * up, hidden)
            watch(index, hidden)
        return hidden

    def _in_turn(self) -> Iterable[Layer]:
        """The layers, each with its weights in place while it is the one at hand."""
        return self._layers

    def _place(self, name: str) -> torch.device:  # noqa: ARG002
        """Where the tensor of this name lies while the model computes."""
        return self._device

    def _product(self, names: Sequence[str], get: Callable[[str], Tensor]) -> Linear:
        """The product with the matrices of these names, one above the other."""
        parts = [get(name) for name in names]
        return DenseLinear(parts[0] if len(parts) == 1 else torch.cat(parts))

    def logits(self, hidden: Tensor) -> Tensor:
        """Last layer's output [n, hidden] -> float32 [n, V]."""
        logits: Tensor = self._head(self._norm(hidden))
        return logits.float()

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
        biases = self._biases(mask, rows, cache)
        # without a mask only the keys of the text itself may be read
        span = cache.length + rows if biases[0] is None else cache.span(rows)

        def attend(index: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            keys, values = cache.write(index, keys_values, span)
            return self._attend(queries, keys, values, biases[index])

        def watch(index: int, hidden: Tensor) -> None:
            if (slot := self.feature_slots.get(index)) is not None:
                cache.write_features(slot, hidden)

        embedded = self._embedded(token_ids, parents, cache)
        hidden = self._through_layers(embedded, position_ids, attend, watch)
        cache.advance(rows)
        return hidden

    def _embedded(
        self,
        token_ids: Tensor,
        parents: Tensor | None,  # noqa: ARG002
        cache: LayeredKVCache,  # noqa: ARG002
    ) -> Tensor:
        """What the first layer reads, [n, hidden]."""
        return functional.embedding(token_ids, self.embedding)

    def _heads(self, projected: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """[n, (H + 2 K) D] -> rotated queries [1, K, G n, D] and keys and values [2, K, n, D]."""
        config = self.config
        rows, kv_heads, dim = projected.shape[0], config.num_kv_heads, config.head_dim
        turned = rotate(projected.view(rows, -1, dim), cos, sin)  # [n, H + 2 K, D]
        queries = turned[:, : config.num_heads].view(rows, kv_heads, -1, dim)
        queries = queries.permute(1, 2, 0, 3).reshape(1, kv_heads, -1, dim)
        keys_values = turned[:, config.num_heads :].view(rows, 2, kv_heads, dim)
        return queries, keys_values.permute(1, 2, 0, 3)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """[1, K, G n, D] against [1, K, span, D] -> [n, H D]."""
        kv_heads, dim = self.config.num_kv_heads, self.config.head_dim
        groups = self.config.num_heads // kv_heads
        if bias is None and queries.shape[2] > groups:
            mixed = mix_from_start(queries, keys, values)
        else:
            mixed = mix(queries, keys, values, bias)
        mixed = mixed.view(kv_heads, groups, -1, dim).permute(2, 0, 1, 3)  # [n, K, G, D]
        return mixed.reshape(mixed.shape[0], -1)

    def _biases(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache
    ) -> Sequence[Tensor | None]:
        """The additive mask of every layer, where it computes."""
        return [self._attention_bias(mask, rows, cache, self._device)] * self.config.num_layers

    def _attention_bias(
        self, mask: Tensor | None, rows: int, cache: LayeredKVCache, device: torch.device
    ) -> Tensor | None:
        """Additive mask [G n, span]; None where a kernel without one reads the S + n keys alone.

        Kernels without a mask are the fastest there are: on CUDA only they divide a long context
        among the multiprocessors. On a CPU the rows of a prompt keep the masked kernel.
        """
        length, span = cache.length, cache.span(rows)
        if mask is None:
            if rows == 1 or (length == 0 and device.type == "cuda"):
                return None
            visible = torch.arange(length, length + rows, device=device)
            mask = torch.arange(span, device=device)[None, :] <= visible[:, None]
        else:
            assert mask.shape == (rows, length + rows), (mask.shape, rows, length)
            mask = functional.pad(mask, (0, span - length - rows))
        groups = self.config.num_heads // self.config.num_kv_heads
        return additive(mask, groups, self.dtype)


def _layer(norm: Callable[[str], RmsNorm], linear: Callable[..., Linear], prefix: str) -> Layer:
    return Layer(
        attention_norm=norm(f"{prefix}.input_layernorm"),
        mlp_norm=norm(f"{prefix}.post_attention_layernorm"),
        **{
            kind: linear(*(f"{prefix}.{name}" for name in names))
            for kind, names in PRODUCTS.items()
        },
    )
