"""Fits a draft to its target, where their vocabularies or embeddings are not the same."""

from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.loader import Checkpoint, open_pair
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, EMBEDDING, HEAD


@dataclass(frozen=True, slots=True)
class OpenedDraft:
    """A draft that reads every token of its target and predicts only such."""

    name: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    vocab_ids: Tensor | None  # int64 [V_draft], the target's ids of its logits; None: the same


def open_fitted_draft(target: str | None, draft: str | None) -> OpenedDraft | None:
    """The draft of `open_draft`, fit for the target, for use by other programs."""
    whole, opened = open_pair(target, draft)
    if opened is None:
        return None
    return fit_draft(opened, whole.config, lambda: whole.weights[EMBEDDING])


def fit_draft(
    draft: Checkpoint,
    target: ModelConfig,
    # reads the target's, for a draft without one; None if the models share it
    embedding: Callable[[], Tensor] | None,
) -> OpenedDraft:
    config = draft.config
    if any(not 0 <= layer < target.num_layers for layer in config.feature_layers):
        raise ModelLoadError(
            f"{draft.name}: it reads the target's layers {list(config.feature_layers)}, but this "
            f"target has {target.num_layers}"
        )
    if (eagle3 := config.eagle3) is not None:
        if eagle3.target_hidden_size != target.hidden_size:
            raise ModelLoadError(
                f"{draft.name}: it reads hidden states of {eagle3.target_hidden_size} numbers, but "
                f"this target's have {target.hidden_size}"
            )
        # the length stated is that of its training texts; it has positions for any
        window = max(config.context_window, target.context_window)
        config = replace(config, context_window=window)
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
    columns = min(config.vocab_size, vocab_size)
    ids = None if columns == vocab_size else torch.arange(columns)
    if config.head_vocab_size != config.vocab_size:
        ids = weights[DRAFT_VOCAB_IDS].long()
        columns, low, high = len(ids), int(ids.min()), int(ids.max())
        if len(set(ids.tolist())) != columns:
            raise ModelLoadError(f"{weights.origin}: {DRAFT_VOCAB_IDS} names a token twice")
        if low < 0 or high >= vocab_size:
            raise ModelLoadError(
                f"{weights.origin}: {DRAFT_VOCAB_IDS} names token {high} or {low}, but the target "
                f"has {vocab_size}"
            )
    if config.vocab_size == vocab_size:
        return config, {}, ids
    embedding = weights[EMBEDDING][:vocab_size]
    missing = vocab_size - len(embedding)
    replaced = {
        HEAD: weights[EMBEDDING if config.tie_word_embeddings else HEAD][:columns],
        EMBEDDING: functional.pad(embedding, (0, 0, 0, missing)),
    }
    fitted = replace(
        config, vocab_size=vocab_size, head_vocab_size=columns, tie_word_embeddings=False
    )
    return fitted, replaced, ids
