"""Fitting a draft to its target: the hidden states it reads, borrowed embedding, token ids.

Drafts may have a trimmed head, or be padded to another vocabulary size than the target. That ids
mean the same strings is checked in `tokenizer`.
"""

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.loader import Checkpoint
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS, EMBEDDING, HEAD


@dataclass(frozen=True, slots=True)
class OpenedDraft:
    """A draft that reads every token of its target and predicts only such.

    `vocab_ids`, int64 `[V_draft]`, is the target's token id of each of the draft's logits; None
    where they are the same.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    vocab_ids: Tensor | None


def fit_draft(
    draft: Checkpoint, target: ModelConfig, embedding: Callable[[], Tensor] | None
) -> OpenedDraft:
    """Fit an opened draft to a target.

    `embedding` reads the target's, for a draft without one; None if the models share it.

    Raises:
        ModelLoadError: it reads layers or an embedding that the target does not have, or its map
            of token ids is damaged.
    """
    config = draft.config
    if any(not 0 <= layer < target.num_layers for layer in config.feature_layers):
        raise ModelLoadError(
            f"{draft.name}: it reads the target's layers {list(config.feature_layers)}, but this "
            f"target has {target.num_layers}"
        )
    replaced: dict[str, Tensor] = {}
    if config.embeddings_from_target:
        if config.hidden_size != target.hidden_size:
            raise ModelLoadError(
                f"{draft.name}: it reads the target's embedding, but is {config.hidden_size} wide "
                f"where the target is {target.hidden_size}"
            )
        if embedding is not None:
            replaced[EMBEDDING] = embedding()
    config, fitted, ids = _fit_vocabulary(config, draft.weights, target.vocab_size)
    replaced |= fitted
    # a ChainMap writes to its first mapping only, so the others need not be mutable
    own = cast("MutableMapping[str, Tensor]", draft.weights)
    weights: Mapping[str, Tensor] = ChainMap(replaced, own) if replaced else draft.weights
    return OpenedDraft(draft.name, config, weights, ids)


def _fit_vocabulary(
    config: ModelConfig, weights: Weights, vocab_size: int
) -> tuple[ModelConfig, Mapping[str, Tensor], Tensor | None]:
    """The fitted configuration, the tensors that replace the draft's own, and `vocab_ids`."""
    if config.head_vocab_size != config.vocab_size:
        ids = weights[DRAFT_VOCAB_IDS].long()
        _check_ids(ids, vocab_size, weights.origin)
        rows = torch.arange(len(ids))
    else:
        rows = torch.arange(min(config.vocab_size, vocab_size))
        ids = rows
    if config.vocab_size == vocab_size:
        return config, {}, None if ids is rows else ids
    replaced = {HEAD: weights[EMBEDDING if config.tie_word_embeddings else HEAD][: len(rows)]}
    missing = max(0, vocab_size - config.vocab_size)
    embedding = weights[EMBEDDING][:vocab_size]
    replaced[EMBEDDING] = functional.pad(embedding, (0, 0, 0, missing))
    fitted = replace(
        config, vocab_size=vocab_size, head_vocab_size=len(rows), tie_word_embeddings=False
    )
    return fitted, replaced, None if len(ids) == vocab_size else ids


def _check_ids(ids: Tensor, vocab_size: int, origin: str) -> None:
    if len(set(ids.tolist())) != len(ids):
        raise ModelLoadError(f"{origin}: {DRAFT_VOCAB_IDS} names a token twice")
    if int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise ModelLoadError(
            f"{origin}: {DRAFT_VOCAB_IDS} names token {int(ids.max())} or {int(ids.min())}, "
            f"but the target has {vocab_size}"
        )
