"""A target and its draft: opened, checked against each other, and placed on devices."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec.structs import replace as replace_record
from torch import Tensor

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.errors import ModelLoadError
from sequoia_core.events import PairDescription, Progress
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import choose_placement, devices_name, even_stages, prepare
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import (
    Backend,
    check_draft_fits,
    choose_backend,
    fitting_window,
)
from sequoia_core.model.loading.fitted_draft import fit_draft
from sequoia_core.model.loading.loader import (
    Checkpoint,
    describe_checkpoint,
    is_fetched_first,
    no_progress,
    open_draft,
    open_target,
)
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.model.loading.tokenizer import pair_tokenizer
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.model.native.library import shared_pool
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.native.matrices import draft_format
from sequoia_core.model.native.rows import NativeRows, read_rows_with
from sequoia_core.model.offload.model import load_offloaded
from sequoia_core.model.tensor_names import weight_values
from sequoia_core.text.chat_template import turn_ends
from sequoia_core.text.template_renderer import RENDERER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PairSource:
    """What a target was loaded from, and how; as for `load_pair`."""

    target: str | None
    dtype: str
    device: str
    weights: WeightFormat
    offload: Offload


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models that decode together; without a draft, the target decodes plainly.

    The fingerprint is a key for measured figures: it changes with the weights and with everything
    about the forward that changes its times.
    """

    target: Llama | NativeLlama
    draft: Llama | NativeLlama | None
    draft_vocab_ids: Tensor | None  # as of `OpenedDraft`, on the draft's device
    tokenizer: "PreTrainedTokenizerBase"
    eos_token_ids: frozenset[int]  # ends of a text or a turn
    description: PairDescription
    fingerprint: str
    # positional, stated by the draft's files for `greedy` and `stochastic`; may be empty
    acceptance_rates: Mapping[str, tuple[float, ...]]
    source: PairSource | None = None  # None: no other draft can be loaded for the target

    @property
    def native(self) -> bool:
        return isinstance(self.target, NativeLlama)


def load_pair(
    target: str | None = None,
    draft: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    weights: WeightFormat = WeightFormat.AUTO,
    offload: Offload = Offload.NONE,
    progress: Progress | None = None,
) -> Pair:
    """Load a target and a draft.

    Args:
        target: a directory, a GGUF file or a hub id; None is the embedded one.
        draft: the same; None is the bundled one for the embedded target, else none.
        dtype: natively, what all matrices are converted to; `auto` leaves them as they are stored.
            For PyTorch see `choose_dtype`.
        device: see `choose_devices`. Several hold the target's layers; the draft is on the first.
        weights: how they are held, and which forward computes them.
        offload: where the target's layers stay while it decodes.
        progress: receives what is being done and, where known, the fraction done.

    Raises:
        ModelLoadError: a model is missing, damaged, of an unknown kind, or too large.
        TokenizerMismatchError: the draft's tokens are not the target's.
        ParameterError: an unknown device or dtype, weights or an offloading that they do not have,
            or more devices than the target has layers.
    """
    report = progress or no_progress
    RENDERER.start()
    placement = choose_placement(device, offload)
    choose_backend(weights, dtype, placement)  # refuses what it can before files are read
    prepare(placement.devices)
    if is_fetched_first(target) or is_fetched_first(draft):
        check_tokenizers(target, draft, report)
    opened, small = open_target(target, report), open_draft(target, draft, report)
    backend = choose_backend(weights, dtype, placement, [each for each in (opened, small) if each])
    window, big = fitting_window(opened, small, backend), opened
    if window < opened.config.context_window:
        report(f"The context window is {window:,} tokens: more do not fit into the memory", None)
        big = replace(opened, config=replace(opened.config, context_window=window))
    report("Loading the tokenizer", None)
    tokenizer = pair_tokenizer(big, small)
    ends = turn_ends(tokenizer, big.eos_token_ids)
    return_freed_memory()  # of loading the tokenizer
    with memory_errors(
        lambda: f"{big.name}: the memory became full while it was loaded; take a smaller model"
    ):
        report(f"Loading {big.name}", None)
        target_model = _load_target(big, small, backend)
        return_freed_memory()
        draft_model, ids = None, None
        if small is not None:
            report(f"Loading {small.name}", None)
            draft_model, ids = _load_draft(small, target_model, backend)
        return_freed_memory()
    why = backend.fallback
    digests = [opened.digest(report), small.digest(report) if small else ""]
    return Pair(
        target=target_model,
        draft=draft_model,
        draft_vocab_ids=ids,
        tokenizer=tokenizer,
        eos_token_ids=ends,
        description=PairDescription(
            target=big.name,
            draft=small.name if small else None,
            device=devices_name(placement.devices),
            dtype=backend.number_format(opened),
            context_window=big.config.context_window,
            exact=backend.exact,
            threads=cpu_threads(),
            remark=f"PyTorch computes, which is slower: {why}" if why else "",
        ),
        fingerprint=_fingerprint(digests, backend),
        acceptance_rates=_stated_rates(small) if small else {},
        source=PairSource(target, dtype, device, weights, offload),
    )


def check_tokenizers(
    target: str | None, draft: str | None, progress: Progress = no_progress
) -> None:
    """Compare the tokenizers of a pair by their files, before weights are fetched or loaded.

    Raises TokenizerMismatchError if the draft's tokens are not the target's, ModelLoadError if a
    model cannot be used.
    """
    small = open_draft(target, draft, progress, describe_checkpoint)
    if small is not None:
        progress("Comparing the tokenizers", None)
        pair_tokenizer(open_target(target, progress, describe_checkpoint), small)


def _fingerprint(digests: Sequence[str], backend: Backend) -> str:
    return hashlib.sha256("\n".join([*digests, backend.key()]).encode()).hexdigest()[:16]


def with_other_draft(pair: Pair, draft: str, progress: Progress | None = None) -> Pair:
    """The pair's target with another draft, which is loaded; `pair` can be used as before.

    Args:
        pair: one of `load_pair`.
        draft: as for `load_pair`.
        progress: receives what is being done and, where known, the fraction done.

    Raises:
        ModelLoadError: the draft is missing, damaged, of an unknown kind or too large, or reads
            layers of the target that are not kept for it.
        TokenizerMismatchError: the draft's tokens are not the target's.
    """
    report, source = progress or no_progress, pair.source
    if source is None:
        raise ModelLoadError(f"{draft}: no other draft can be loaded for this target")
    if is_fetched_first(draft):
        check_tokenizers(source.target, draft, report)
    opened, small = open_target(source.target, report), open_draft(source.target, draft, report)
    if small is None:
        raise ModelLoadError(f"{draft}: this names no draft")
    report("Comparing the tokenizers", None)
    pair_tokenizer(opened, small)
    placement = choose_placement(source.device, source.offload)
    weights = source.weights if pair.native else WeightFormat.TORCH
    backend = choose_backend(weights, source.dtype, placement, [opened, small])
    if pair.native and not backend.native:
        raise ModelLoadError(
            f"{small.name}: it is not computed as this target is: {backend.fallback}"
        )
    _check_layers(small, pair.target)
    check_draft_fits(opened, small, backend)
    report(f"Loading {small.name}", None)
    with memory_errors(lambda: f"{small.name}: the memory became full while it was loaded"):
        model, ids = _load_draft(small, pair.target, backend)
    return_freed_memory()
    digests = [opened.digest(report), small.digest(report)]
    return replace(
        pair,
        draft=model,
        draft_vocab_ids=ids,
        description=replace_record(pair.description, draft=small.name),
        fingerprint=_fingerprint(digests, backend),
        acceptance_rates=_stated_rates(small),
    )


def _check_layers(draft: Checkpoint, target: Llama | NativeLlama) -> None:
    """Refuse a draft that reads hidden states which the target's caches do not keep."""
    kept = target.kept_layers if isinstance(target, NativeLlama) else tuple(target.feature_slots)
    read = tuple(draft.config.feature_layers)
    if read and read != kept:
        raise ModelLoadError(
            f"{draft.name}: it reads the target's layers {list(read)}, which this target does not "
            "keep; load the pair with it, and race the other draft"
        )


def _load_target(
    target: Checkpoint, draft: Checkpoint | None, backend: Backend
) -> Llama | NativeLlama:
    config, weights, placement = target.config, target.weights, backend.placement
    read_by_draft = draft.config.feature_layers if draft else ()
    if backend.native:
        return load_native(target, backend, read_by_draft)
    assert backend.dtype is not None
    if placement.offload is not Offload.NONE:
        return load_offloaded(config, backend.dtype, weights, placement, read_by_draft)
    on_first = weight_values(draft.config) if draft else 0
    stages = even_stages(config, placement.devices, on_first)
    return Llama(config, weights, placement.device, backend.dtype, read_by_draft, stages)


def load_native(
    target: Checkpoint, backend: Backend, feature_layers: Sequence[int] = ()
) -> NativeLlama:
    """A target computed by the native library, which then reads rows of logits as well."""
    read_rows_with(NativeRows(shared_pool()))
    return NativeLlama(
        target.config,
        target.weights,
        shared_pool(),
        feature_layers=feature_layers,
        matrix_format=backend.target_format,
    )


def _load_draft(
    draft: Checkpoint, target: Llama | NativeLlama, backend: Backend
) -> tuple[Llama | NativeLlama, Tensor | None]:
    if isinstance(target, NativeLlama):
        fitted = fit_draft(draft, target.config, None)
        model = NativeLlama(
            fitted.config,
            fitted.weights,
            shared_pool(),
            embedding_of=target if fitted.config.embeddings_from_target else None,
            matrix_format=draft_format(draft.stored_dtype, backend.dtype),
        )
        return model, fitted.vocab_ids
    fitted = fit_draft(draft, target.config, lambda: target.embedding)
    ids = None if fitted.vocab_ids is None else fitted.vocab_ids.to(target.device)
    kind = ConditionedLlama if fitted.config.feature_layers else Llama
    return kind(fitted.config, fitted.weights, target.device, target.dtype), ids


def _stated_rates(draft: Checkpoint) -> dict[str, tuple[float, ...]]:
    try:
        stated = draft.settings.get("sequoia", {}).get("acceptance_rates", {})
        return {kind: tuple(float(rate) for rate in rates) for kind, rates in stated.items()}
    except (AttributeError, TypeError, ValueError):
        raise ModelLoadError(f"{draft.weights.origin}: acceptance_rates are no numbers") from None
