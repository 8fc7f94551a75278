"""Fitting a draft's vocabulary to its target's.

Owns the map from a draft's logits to the target's token ids, for drafts with a trimmed head and for
drafts that are padded to another size than the target. Knows nothing of tokenizers: that ids mean
the same strings was checked before.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.weights import DRAFT_VOCAB_IDS, EMBEDDING, HEAD, Weights


def fit_vocabulary(
    config: ModelConfig, weights: Weights, vocab_size: int
) -> tuple[ModelConfig, Mapping[str, Tensor], Tensor | None]:
    """Make a draft read every token of the target and predict only such.

    Args:
        config: the draft's.
        weights: the draft's.
        vocab_size: the target's, `V`.

    Returns:
        the fitted configuration, the tensors that replace the draft's own, and int64 `[V_draft]`
        with the target's id of each of the draft's logits, or None where they are the same.

    Raises:
        ModelLoadError: the draft's own map is not one.
    """
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
