"""From opened checkpoints to native models: which matrices are read from where."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.model.gguf import open_gguf
from sequoia_core.model.native.library import find_library
from sequoia_core.model.native.llama import NativeLlama, Pool
from sequoia_core.model.native.rows import NativeRows
from sequoia_core.model.native.threads import compute_threads
from sequoia_core.sampling import read_rows_with

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.loader import Checkpoint
    from sequoia_core.model.offload import Placement


@lru_cache(maxsize=1)
def shared_pool() -> Pool:
    """The threads of all models of the process; see `compute_threads`.

    PyTorch is left with one: its threads wait busily after each small operation of a step, on the
    cores that the pool computes on.
    """
    pool = Pool(compute_threads())
    torch.set_num_threads(1)
    read_rows_with(NativeRows(pool))
    return pool


def check_native(placement: Placement) -> None:
    """Refuse what the native forward does not do.

    Raises:
        ParameterError: the library was not built, or the model is not to lie on the CPU.
    """
    if placement.device.type != "cpu" or placement.others or placement.offload is not Offload.NONE:
        raise ParameterError("native weights are for one CPU, without offloading; leave them out")
    if find_library() is None:
        raise ParameterError(
            "the native library was not built, which needs a C++ compiler; install one and run "
            "make setup, or leave native weights out"
        )


def native_target(target: Checkpoint, feature_layers: Sequence[int]) -> NativeLlama:
    """The target, from the blocks of its GGUF file or from its checkpoint.

    Raises:
        ModelLoadError: a tensor is of a format that the library does not read.
    """
    weights = open_gguf(target.gguf).weights if target.gguf else target.weights
    return NativeLlama(target.config, weights, shared_pool(), feature_layers=feature_layers)


def native_draft(
    draft: Checkpoint, config: ModelConfig, replaced: Mapping[str, Tensor], target: NativeLlama
) -> NativeLlama:
    """A draft that shares the target's threads, and its embedding where it has none of its own.

    Args:
        draft: as opened.
        config: its shape once it fits the target's vocabulary.
        replaced: tensors in place of its own.
        target: the model it drafts for.

    Raises:
        ModelLoadError: a tensor is of a format that the library does not read.
    """
    stored = open_gguf(draft.gguf).weights if draft.gguf else draft.weights
    own = cast("MutableMapping[str, Tensor]", stored)
    weights: Mapping[str, Tensor] = ChainMap(dict(replaced), own) if replaced else stored
    lender = target if config.embeddings_from_target else None
    return NativeLlama(config, weights, shared_pool(), embedding_of=lender)
