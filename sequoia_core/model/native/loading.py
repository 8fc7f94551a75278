"""From opened checkpoints to native models: which matrices are read from where, and in what."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sequoia_core.model.device import cpu_threads
from sequoia_core.model.native.llama import NativeLlama, Pool
from sequoia_core.model.native.matrices import DTYPE_FORMATS, Q8_0

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.loading.loader import Checkpoint


@lru_cache(maxsize=1)
def shared_pool() -> Pool:
    """The threads of all models of the process; see `compute_threads`.

    PyTorch is left with one: its threads wait busily after each small operation of a step, on the
    cores that the pool computes on.
    """
    pool = Pool(cpu_threads())
    torch.set_num_threads(1)
    return pool


def native_target(
    target: Checkpoint, matrix_format: int | None, feature_layers: Sequence[int]
) -> NativeLlama:
    """The target.

    Args:
        target: as opened.
        matrix_format: see `stored_matrix`.
        feature_layers: as in `NativeLlama`.

    Raises:
        ModelLoadError: a tensor is of a format that the library does not read.
    """
    return NativeLlama(
        target.config, target.weights, shared_pool(),
        feature_layers=feature_layers, matrix_format=matrix_format,
    )  # fmt: skip


def native_draft(
    draft: Checkpoint,
    config: ModelConfig,
    replaced: Mapping[str, Tensor],
    target: NativeLlama,
    dtype: torch.dtype | None,
) -> NativeLlama:
    """A draft that shares the target's threads, and its embedding where it has none of its own.

    Args:
        draft: as opened.
        config: its shape once it fits the target's vocabulary.
        replaced: tensors in place of its own.
        target: the model it drafts for.
        dtype: see `draft_format`.

    Raises:
        ModelLoadError: a tensor is of a format that the library does not read.
    """
    own = cast("MutableMapping[str, Tensor]", draft.weights)
    weights: Mapping[str, Tensor] = ChainMap(dict(replaced), own) if replaced else draft.weights
    lender = target if config.embeddings_from_target else None
    matrix_format = draft_format(draft, dtype)
    return NativeLlama(
        config, weights, shared_pool(), embedding_of=lender, matrix_format=matrix_format
    )


def draft_format(draft: Checkpoint, dtype: torch.dtype | None) -> int | None:
    """The `ggml_type` that a draft's matrices are held in; None is their own.

    Those of 16 bits are rounded to 8 unless a dtype is asked for: a draft's distribution may be
    any, as long as it is the one drawn from, and half as much is read for each token.

    Args:
        draft: as opened.
        dtype: that was asked for, or None.
    """
    if dtype is not None:
        return DTYPE_FORMATS[dtype]
    return Q8_0 if draft.stored_dtype in (torch.float16, torch.bfloat16) else None
