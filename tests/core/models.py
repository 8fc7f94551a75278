"""Language models for tests: tables whose distributions are known, and tiny random Llamas."""

import itertools
import random
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.interface import KVCache, LanguageModel
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.memory_plan import PREFILL_ROWS
from sequoia_core.model.tensor_names import (
    ATTENTION_NORM,
    DRAFT_VOCAB_IDS,
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    MLP_NORM,
    expected_shapes,
    layer_name,
    matrix_shapes,
)


class RowCache:
    """Remembers which token was written at which position; a `KVCache` without keys or values."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []

    @property
    def length(self) -> int:
        return len(self.rows)

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        assert list(rows) == sorted(rows)
        self.rows = self.rows[:committed] + [self.rows[row] for row in rows]

    def truncate(self, length: int) -> None:
        assert length <= len(self.rows)
        del self.rows[length:]

    def release(self) -> None:
        """Holds nothing that could be returned."""


class TableModel:
    """Logits are a fixed random function of the last `order` tokens a row can see.

    It sees only what mask and positions let it see, so a wrong mask, position or cache row shows in
    its output.
    """

    prompt_rows = PREFILL_ROWS

    def __init__(
        self, vocab_size: int, seed: int, *, order: int = 3, scale: float = 1.5, window: int = 512
    ) -> None:
        self.vocab_size = vocab_size
        self.context_window = window
        self.device = torch.device("cpu")
        self._seed, self._order, self._scale = seed, order, scale
        self.forwards = 0
        self.caches: list[RowCache] = []
        self.row_logits = lru_cache(maxsize=None)(self._row_logits)

    def _row_logits(self, last: tuple[int, ...]) -> Tensor:
        rng = random.Random(repr((self._seed, last)))
        return torch.tensor([rng.gauss(0.0, self._scale) for _ in range(self.vocab_size)])

    def logits_after(self, token_ids: Sequence[int]) -> Tensor:
        """Float32 [V] after a sequence."""
        return self.row_logits(tuple(token_ids[-self._order :]))

    def new_cache(self, target_cache: KVCache | None = None) -> RowCache:
        self.caches.append(RowCache())
        return self.caches[-1]

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        assert isinstance(cache, RowCache)
        first = cache.length
        cache.rows += [(int(token), first + at) for at, token in enumerate(token_ids)]

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(cache, RowCache)
        self.forwards += 1
        before, rows = cache.length, len(token_ids)
        assert before + rows <= self.context_window
        cache.rows += list(zip(token_ids.tolist(), position_ids.tolist(), strict=True))
        if mask is None:
            visible = [[True] * (before + row + 1) for row in range(rows)]
        else:
            prefix = before + rows - mask.shape[1]
            assert mask.shape[0] == rows
            assert prefix >= 0
            visible = [[True] * prefix + row for row in mask.tolist()]
        logits = []
        for row, sees in enumerate(visible):
            seen = list(itertools.compress(cache.rows, sees))
            assert seen[-1] == cache.rows[before + row], "a row must see itself last"
            seen.sort(key=itemgetter(1))
            tokens, positions = zip(*seen, strict=True)
            assert positions == tuple(range(len(seen))), "a row must see each position once"
            logits.append(self.logits_after(tokens))
        return torch.stack(logits)


class ScriptModel(TableModel):
    """Is certain that the token at position i is `script[i]`, whatever came before."""

    def __init__(self, script: Sequence[int], vocab_size: int = 12, *, window: int = 512) -> None:
        super().__init__(vocab_size, 0, window=window)
        self._script = script

    def logits_after(self, token_ids: Sequence[int]) -> Tensor:
        logits = torch.zeros(self.vocab_size)
        logits[self._script[len(token_ids) % len(self._script)]] = 40.0
        return logits


class PlainCodec:
    """Token i reads `chr(97 + i)`: enough to follow which tokens were emitted."""

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(self.token_text, token_ids))

    def token_text(self, token_id: int) -> str:
        return chr(97 + token_id)


def tiny_config(**changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 61,
        "head_vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "context_window": 256,
        "tie_word_embeddings": False,
    }
    return ModelConfig(**(values | changes))  # type: ignore[arg-type]


def random_weights(config: ModelConfig, seed: int, scale: float = 0.25) -> dict[str, Tensor]:
    """Weights under Hugging Face names, large enough that the logits spread."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    hidden = config.hidden_size
    weights = {
        EMBEDDING: normal(config.vocab_size, hidden) * 4,
        FINAL_NORM: torch.ones(hidden),
        HEAD: normal(config.head_vocab_size, hidden) * 2,
    }
    for layer in range(config.num_layers):
        for module, shape in matrix_shapes(config).items():
            weights[layer_name(layer, f"{module}.weight")] = normal(*shape)
        for norm in (ATTENTION_NORM, MLP_NORM):
            weights[layer_name(layer, norm)] = torch.ones(hidden)
    shapes = expected_shapes(config)
    others = [name for name in shapes if name not in weights and name != DRAFT_VOCAB_IDS]
    norms = {name: torch.ones(shapes[name]) for name in others if "_norm." in name}
    return weights | {name: normal(*shapes[name]) for name in others if name not in norms} | norms


def tiny_llama(seed: int = 0, **changes: object) -> Llama:
    config = tiny_config(**changes)
    return Llama(config, random_weights(config, seed), torch.device("cpu"), torch.float32)


def fresh_logits(model: LanguageModel | None, token_ids: Tensor) -> Tensor:
    """Logits of a text that is read at once into a new cache."""
    assert model is not None
    return model.forward(token_ids, torch.arange(len(token_ids)), None, model.new_cache())


def one_by_one(model: LanguageModel, token_ids: Sequence[int], cache: KVCache) -> Tensor:
    """Logits of tokens that are read in a pass each."""
    rows = []
    for token in token_ids:
        place = torch.tensor([cache.length])
        rows.append(model.forward(torch.tensor([token]), place, None, cache))
    return torch.cat(rows)


def path_to(parents: Sequence[int], node: int) -> list[int]:
    """Nodes of a tree from the root to a node."""
    path = [node]
    while path[0]:
        path.insert(0, parents[path[0]])
    return path
