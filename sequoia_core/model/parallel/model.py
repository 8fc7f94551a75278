"""A Llama of which every process computes a part of each layer; rank 0 runs the decoding."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any
from weakref import finalize

import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.model.attention_probe import attention_choice
from sequoia_core.model.device import dtype_name
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.layers import Product, dense
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import Checkpoint
from sequoia_core.model.parallel import commands as tell
from sequoia_core.model.parallel.ranks import Lead, Ranks
from sequoia_core.model.parallel.shards import SUMMED, Shard, ShardWeights

_numbers = count(1)


class ShardedLlama(Llama):
    """A rank's part; each layer sums twice over all ranks, and logits are joined on rank 0."""

    def __init__(
        self,
        target: Checkpoint,
        ranks: Ranks,
        device: torch.device,
        dtype: torch.dtype,
        feature_layers: Sequence[int] = (),
    ) -> None:
        self._ranks = ranks
        shard = Shard(target.config, ranks.rank, ranks.size)
        weights = ShardWeights(target.weights, shard)
        super().__init__(shard.part, weights, device, dtype, feature_layers)
        self.attention = attention_choice(shard.part, device, dtype)
        head, width, size = self._head, shard.head_rows, target.config.head_vocab_size
        if target.config.tie_word_embeddings:
            rows = shard.vocabulary
            head = dense(self.embedding[rows.start : rows.stop])
        self._head = lambda x: ranks.joined(head(x), width)[:, :size]

    @override
    def _product(
        self, layer: int, kind: str, modules: Sequence[str], get: Callable[[str], Tensor]
    ) -> Product:
        product = super()._product(layer, kind, modules, get)
        ranks = self._ranks
        return (lambda x: ranks.summed(product(x))) if kind in SUMMED else product


class LeadCache(LayeredKVCache):
    """Rank 0's part of a cache. What is done to it, the others do before their next forward."""

    def __init__(self, lead: Lead, model: int, *args: Any) -> None:
        super().__init__(*args)
        self._lead, self.number = lead, next(_numbers)
        self._unsent: list[tell.Command] = [tell.MakeCache(model, self.number)]
        finalize(self, lead.leftover.append, tell.ForgetCache(self.number)).atexit = False

    def take_unsent(self) -> list[tell.Command]:
        unsent, self._unsent = self._unsent, []
        return unsent

    @override
    def keep(self, committed: int, rows: Sequence[int]) -> None:
        super().keep(committed, rows)
        self._unsent.append(tell.KeepRows(self.number, committed, tuple(rows)))

    @override
    def truncate(self, length: int) -> None:
        super().truncate(length)
        self._unsent.append(tell.TruncateCache(self.number, length))

    @override
    def release(self) -> None:
        super().release()
        with self._lead.together(*self.take_unsent(), tell.ReleaseCache(self.number)):
            pass


class LeadLlama(ShardedLlama):
    """Rank 0's part, a `LanguageModel`: its forwards are all ranks'."""

    def __init__(self, number: int, lead: Lead, *args: Any) -> None:
        super().__init__(args[0], lead, *args[1:])
        self._lead, self._number = lead, number
        finalize(self, lead.leftover.append, tell.ForgetModel(number)).atexit = False

    @override
    def new_cache(self, target_cache: KVCache | None = None) -> LeadCache:
        slots = len(self.feature_slots)
        return LeadCache(
            self._lead, self._number, self.config, self.device, self.dtype, slots,
            self._layer_devices,
        )  # fmt: skip

    @override
    @torch.inference_mode()
    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        assert isinstance(cache, LeadCache)
        rows = token_ids.shape[0]
        cache.reserve(rows)  # refused before the others begin
        columns = None if mask is None else mask.shape[1]
        forward = tell.RunForward(cache.number, rows, columns)
        with self._lead.together(*cache.take_unsent(), forward):
            self._lead.shared(torch.stack((token_ids, position_ids)))
            if mask is not None:
                self._lead.shared(mask.to(torch.uint8).contiguous())
            return self.forward_eagerly(token_ids, position_ids, mask, cache)

    @override
    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        assert isinstance(cache, LeadCache)
        rows = token_ids.shape[0]
        cache.reserve(rows)
        extend = tell.RunExtend(cache.number, rows)
        with self._lead.together(*cache.take_unsent(), extend):
            self._lead.shared(token_ids)
            super().extend(token_ids, cache)


def load_shared(
    lead: Lead,
    source: str | None,  # which the other ranks open themselves
    target: Checkpoint,
    device: tuple[str, torch.device],  # the setting, and rank 0's own
    dtype: torch.dtype,
    feature_layers: Sequence[int] = (),
) -> LeadLlama:
    """A target of which every rank loads its part. Raises ModelLoadError if one cannot."""
    number = next(_numbers)
    load = tell.LoadShard(
        number, source, shape_of(target), target.config.context_window, dtype_name(dtype),
        device[0],
    )  # fmt: skip
    model, problem = None, None
    with lead.together(load):
        try:
            model = LeadLlama(number, lead, target, device[1], dtype, feature_layers)
        except (SequoiaError, MemoryError, RuntimeError) as error:
            problem = error
        said = lead.answers(number)
    if problem is not None:
        lead.leftover.append(tell.ForgetModel(number))
        raise problem
    assert model is not None
    for rank, words in enumerate(said, 1):
        if words:
            raise ModelLoadError(f"process {rank} of {lead.size}: {words}")
    return model


def shape_of(target: Checkpoint) -> str:
    """What must be the same where a target is opened on another machine."""
    return repr(replace(target.config, context_window=1))
