"""Which part of a model each of several processes holds (Megatron's division, arXiv 1909.08053).

Query, key, value, gate and up products are divided by their outputs, so by heads; output and down
products by their inputs, so that what they give must be summed; the head by the vocabulary. All
else is whole everywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.tensor_names import (
    FUSED_PRODUCTS,
    HEAD,
    PRODUCTS,
    expected_shapes,
    weight_values,
)

SUMMED = ("attention_out", "down")
"""Products whose parts are summed over the processes."""

_DIVIDED = {
    f".{module}."
    for table in (PRODUCTS, FUSED_PRODUCTS)
    for each in table.values()
    for module in each
}
_KNOWN = {
    "vocab_size", "head_vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads",
    "num_kv_heads", "head_dim", "rms_norm_eps", "rope_theta", "context_window",
    "tie_word_embeddings", "rope_scaling", "rope_factor", "attention_bias", "mlp_bias", "family",
    "qkv_bias", "norm_inputs", "norm_outputs", "norms_add_one", "activation", "scaled_embedding",
    "embedding_multiplier", "residual_multiplier", "attention_scale", "attention_softcap",
    "logit_softcap", "logits_divisor", "sliding_window", "sliding_layers", "unrotated_layers",
    "fused", "local_rope_theta", "rotary_dim", "rope_divisors", "rope_magnitude", "long_rope",
}  # fmt: skip
"""Entries of a config that do not matter to the division; others must have their default."""

_ALSO = {"qk_norm": "head"}  # of a head, which is whole on a process


@dataclass(frozen=True, slots=True)
class Shard:
    """A process's part of a model."""

    config: ModelConfig  # of the whole
    rank: int
    ranks: int

    @property
    def part(self) -> ModelConfig:
        """The shape of its layers; a KV head is on several processes where there are fewer."""
        config, ranks = self.config, self.ranks
        return replace(
            config,
            num_heads=config.num_heads // ranks,
            num_kv_heads=max(config.num_kv_heads // ranks, 1),
            intermediate_size=config.intermediate_size // ranks,
        )

    @property
    def head_rows(self) -> int:
        """Rows of the output head that each process computes; the last ones may have fewer."""
        return -(-self.config.head_vocab_size // self.ranks)

    @property
    def vocabulary(self) -> range:
        """Its rows of the output head."""
        size, first = self.config.head_vocab_size, self.rank * self.head_rows
        return range(min(first, size), min(first + self.head_rows, size))

    @property
    def values(self) -> int:
        """Numbers of all its weights, where it has as many as any."""
        tied = self.config.tie_word_embeddings
        others = 0 if tied else self.config.head_vocab_size - self.head_rows
        return weight_values(self.part) - others * self.config.hidden_size


def check_divisible(config: ModelConfig, ranks: int) -> None:
    """Raise ParameterError if a model cannot be divided among so many processes."""
    for entry in fields(ModelConfig):
        value = getattr(config, entry.name)
        if entry.name not in _KNOWN and value not in (entry.default, _ALSO.get(entry.name)):
            raise ParameterError(
                f"tensor_parallel is {ranks}, but this model has {entry.name} {value!r:.80}, which "
                "is not divided among processes; leave --tensor-parallel out"
            )
    if _is_divisible(config, ranks):
        return
    possible = [
        str(count) for count in range(1, config.num_heads + 1) if _is_divisible(config, count)
    ]
    raise ParameterError(
        f"tensor_parallel is {ranks}, but the target's {config.num_heads} heads, "
        f"{config.num_kv_heads} KV heads and {config.intermediate_size} inner columns cannot be "
        f"divided so; give {' or '.join(possible)}"
    )


def _is_divisible(config: ModelConfig, ranks: int) -> bool:
    kv_heads = config.num_kv_heads
    whole_heads = kv_heads % ranks == 0 or ranks % kv_heads == 0
    return whole_heads and config.num_heads % ranks == config.intermediate_size % ranks == 0


class ShardWeights(Mapping[str, Tensor]):
    """The tensors of a process's part, of which nothing else is read."""

    def __init__(self, weights: Weights, shard: Shard) -> None:
        self._weights, self._shard = weights, shard
        self._whole, self._parts = expected_shapes(shard.config), expected_shapes(shard.part)

    def __getitem__(self, name: str) -> Tensor:
        if name == HEAD:
            rows = self._shard.vocabulary
            return self._weights.narrowed(name, 0, rows.start, len(rows))
        whole, part = self._whole[name], self._parts[name]
        divided = [axis for axis in range(len(whole)) if whole[axis] != part[axis]]
        if not divided:
            return self._weights[name]
        assert any(module in name for module in _DIVIDED), name
        (axis,) = divided
        found, first = [], 0
        for size, own in self._blocks(name) or [(whole[axis], part[axis])]:
            copies = own * self._shard.ranks // size  # processes that hold a KV head
            start = first + self._shard.rank // copies * own
            found.append(self._weights.narrowed(name, axis, start, own))
            first += size
        return found[0] if len(found) == 1 else torch.cat(found, axis)

    def _blocks(self, name: str) -> list[tuple[int, int]]:
        """Rows of the whole and of the part of each matrix that is fused into one."""
        config, part = self._shard.config, self._shard.part
        if ".self_attn.qkv_proj." in name:
            keys = config.num_kv_heads * config.head_dim, part.num_kv_heads * part.head_dim
            return [
                (config.num_heads * config.head_dim, part.num_heads * part.head_dim),
                keys,
                keys,
            ]
        if ".mlp.gate_up_proj." in name:
            return [(config.intermediate_size, part.intermediate_size)] * 2
        return []

    def __contains__(self, name: object) -> bool:  # a mapping's own would read the tensor
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
