"""A target and its draft: opened, checked against each other, and placed on devices."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace as replace_record
from torch import Tensor

from sequoia_core.config import GraphChoice, Offload, Quantize, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.events import PairDescription, Progress
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import Placement, choose_placement, free_before_loading, prepare
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import (
    Backend,
    check_draft_fits,
    choose_backend,
    fitting_window,
    pair_plans,
    uses_graphs,
)
from sequoia_core.model.loading.device_map import placed
from sequoia_core.model.loading.loader import (
    Checkpoint,
    describe_checkpoint,
    is_fetched_first,
    no_progress,
    open_draft,
    open_pair,
    open_target,
)
from sequoia_core.model.loading.memory_plan import PLANNED_ROWS, memory_errors
from sequoia_core.model.loading.models import draft_model, target_model
from sequoia_core.model.loading.quantisation import with_quantisation
from sequoia_core.model.loading.tokenizer import pair_tokenizer
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.offload.model import OffloadedLlama
from sequoia_core.model.tensor_names import EMBEDDING
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
    graphs: GraphChoice = GraphChoice.AUTO
    tensor_parallel: int = 1
    quantize: Quantize = Quantize.NONE
    context_window: int | None = None
    placement: Placement | None = None  # of a loaded pair: what the devices stand for

    def placed(
        self, target: Checkpoint, draft: Checkpoint | None, report: Progress
    ) -> "PairSource":
        """With the devices that a pair is loaded onto."""
        found = placed(self.backend(target, draft), self.device, target, draft).placement
        if found.layers:
            counts = " and ".join(map(str, found.layers))
            report(f"The target's layers lie on {found.name}: {counts}", None)
        elif found.offload is not self.offload:
            place = "in main memory" if found.offload is Offload.CPU else "on disk"
            report(f"Layers that do not fit into {found.name} stay {place} until used", None)
        return replace(self, placement=found)

    def opened(self, draft: str | None, report: Progress) -> tuple[Checkpoint, Checkpoint | None]:
        """Target and draft, of which each takes the factors for the context that is asked for."""
        big, small = open_pair(self.target, draft, report)
        if (tokens := self.context_window) is None:
            return big, small
        if small is not None:
            small = replace(small, config=small.config.for_context(tokens))
        return big.limited(tokens), small

    def backend(self, *models: Checkpoint | None) -> Backend:
        """What computes target and draft, if they are opened already; None is no draft."""
        placement = self.placement or choose_placement(
            self.device, self.offload, self.tensor_parallel
        )
        backend = choose_backend(self.weights, self.dtype, placement, models)
        backend = replace(backend, graphs=uses_graphs(self.graphs, placement))
        return with_quantisation(backend, self.quantize, self.dtype, models)


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
    most_nodes: int = PLANNED_ROWS  # of a tree that memory is planned for
    # by device, as planned
    weight_bytes: Mapping[torch.device, int] = field(default_factory=dict)

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
    graphs: GraphChoice = GraphChoice.AUTO,
    tensor_parallel: int = 1,
    quantize: Quantize = Quantize.NONE,
    context_window: int | None = None,
    progress: Progress | None = None,
) -> Pair:
    """Load a target and a draft.

    Args:
        target: a directory, a GGUF file, ollama's NAME:TAG or a hub id; None is the embedded one.
        draft: the same; None is the bundled one for the embedded target, else none.
        dtype: natively, what all matrices are converted to; `auto` leaves them as they are stored.
            For PyTorch see `choose_dtype`.
        device: see `choose_devices`. Several hold the target's layers; the draft is on the first.
            `auto` is a GPU if there is one; for a pair too large for it, see `auto_placement`.
        weights: how they are held, and which forward computes them.
        offload: where the target's layers stay while it decodes.
        graphs: whether a GPU's kernels are recorded once and then replayed.
        tensor_parallel: processes, with a device each, that divide every layer of the target; they
            are started unless torchrun has. The draft is on the first one's device.
        quantize: to how many bits the matrices of the target's layers are rounded.
        context_window: most tokens of context; None is the target's own. One with longrope has
            more than its own by other factors, which then hold for short texts as well.
        progress: receives what is being done and, where known, the fraction done.

    Raises:
        ModelLoadError: a model is missing, damaged, of an unknown kind, or too large.
        TokenizerMismatchError: the draft's tokens are not the target's.
        ParameterError: an unknown device or dtype, weights, an offloading, graphs or fewer bits
            that are not possible there, more devices than the target has layers, a target that
            cannot be divided among so many processes, or a context that it does not have.
        RankLostError: one of several processes does not start, or has ended.
    """
    report = progress or no_progress
    RENDERER.start()
    source = PairSource(
        target, dtype, device, weights, offload, graphs, tensor_parallel, quantize, context_window
    )
    prepare(source.backend().placement.devices)  # refuses what it can before files are read
    if is_fetched_first(target) or is_fetched_first(draft):
        check_tokenizers(target, draft, report)
    opened, small = source.opened(draft, report)
    source = source.placed(opened, small, report)
    backend = source.backend(opened, small)
    if (window := _short_after_all(opened, small, backend)) is not None:
        report(_reduced(window), None)
        source = replace(source, context_window=window)
        opened, small = source.opened(draft, report)
    if quantize is Quantize.AUTO:  # another draft does not change the choice
        source = replace(source, quantize=backend.quantize)
    alone = _load_target(source, opened, small, backend, report)
    return _with_draft(alone, opened, small, backend, report)


def _load_target(
    source: PairSource,
    target: Checkpoint,
    draft: Checkpoint | None,
    backend: Backend,
    report: Progress,
) -> Pair:
    """The target without a draft, with the layers kept that this draft reads, and room for it."""
    ranks, packed = backend.placement.ranks, target.weights.packed_format
    if ranks > 1 and packed:
        raise ParameterError(
            f"tensor_parallel is {ranks}, but the weights are packed as {packed}, which are not "
            "divided; leave --tensor-parallel out"
        )
    window, big = fitting_window(target, draft, backend), target
    if window < target.config.context_window:
        report(_reduced(window), None)
        big = replace(target, config=replace(target.config, context_window=window))
    if long := _long_factors(target):
        report(long, None)
    report("Loading the tokenizer", None)
    tokenizer = pair_tokenizer(big, draft)
    ends = turn_ends(tokenizer, big.eos_token_ids)
    return_freed_memory()  # of loading the tokenizer
    report(f"Loading {big.name}", None)
    with _full_memory_named(big):
        model = _target_model(source, big, draft, backend)
    return_freed_memory()
    remarks = [backend.chosen, backend.warning(big.config), long]
    if why := backend.fallback:
        remarks.insert(0, f"PyTorch computes, which is slower: {why}")
    return Pair(
        target=model,
        draft=None,
        draft_vocab_ids=None,
        tokenizer=tokenizer,
        eos_token_ids=ends,
        description=PairDescription(
            target=big.name,
            draft=None,
            device=backend.placement.name,
            dtype=backend.number_format(target),
            context_window=big.config.context_window,
            exact=backend.exact,
            threads=cpu_threads(),
            remark="; ".join(filter(None, remarks)),
        ),
        fingerprint="",  # a draft's, or that there is none, belongs to it
        acceptance_rates={},
        source=source,
    )


def _short_after_all(target: Checkpoint, draft: Checkpoint | None, backend: Backend) -> int | None:
    """The fitting window, if long factors are taken and memory has none that needs them."""
    long = target.config.long_rope
    if long is None or not target.config.takes_long_factors:
        return None
    window = fitting_window(target, draft, backend)
    return window if window <= long.original_context_window else None


def _reduced(window: int) -> str:
    return f"The context window is {window:,} tokens: more do not fit into the memory"


def _long_factors(target: Checkpoint) -> str:
    """What a person should know where they are taken; "" where not."""
    if target.config.long_rope is None or not target.config.takes_long_factors:
        return ""
    original = target.config.long_rope.original_context_window
    return (
        f"{target.name} computes short texts otherwise than usual: a context window of more than "
        f"{original:,} tokens takes longrope's long factors"
    )


def _target_model(
    source: PairSource, target: Checkpoint, draft: Checkpoint | None, backend: Backend
) -> Llama | NativeLlama:
    placement = backend.placement
    if placement.ranks == 1:
        return target_model(target, draft, backend)
    from sequoia_core.model.parallel.model import load_shared
    from sequoia_core.model.parallel.ranks import lead_of

    assert backend.dtype is not None
    lead = lead_of(placement.ranks, placement.device.type == "cuda")
    layers = draft.config.feature_layers if draft else ()
    places = source.device, placement.device
    return load_shared(lead, source.target, target, places, backend.dtype, layers)


def _with_draft(
    pair: Pair,
    target: Checkpoint,
    draft: Checkpoint | None,
    backend: Backend,
    report: Progress,
) -> Pair:
    """The pair's target with this draft, which is loaded, or without one."""
    model, ids = None, None
    if draft is not None:
        report(f"Loading {draft.name}", None)
        with _full_memory_named(draft):
            embedding = partial(target.weights.__getitem__, EMBEDDING)
            model, ids = draft_model(draft, pair.target, backend, embedding)
        return_freed_memory()
    plans = pair_plans(target, draft, backend, free_before_loading)
    parts = [target.digest(report), draft.digest(report) if draft else "", backend.key()]
    on_gpus = [each for each in (pair.target, model) if each and each.device.type == "cuda"]
    parts += [str(each.attention) for each in on_gpus if isinstance(each, Llama)]
    if isinstance(pair.target, OffloadedLlama):  # so many are never waited for
        parts.append(f"{len(pair.target.resident)} resident layers")
    return replace(
        pair,
        draft=model,
        draft_vocab_ids=ids,
        description=replace_record(pair.description, draft=draft.name if draft else None),
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        acceptance_rates=_stated_rates(draft) if draft else {},
        weight_bytes={device: plan.weights + plan.resident for device, plan in plans.items()},
        most_nodes=plans[backend.placement.device].rows,
    )


def _full_memory_named(model: Checkpoint) -> AbstractContextManager[None]:
    message = f"{model.name}: the memory became full while it was loaded; take a smaller model"
    return memory_errors(lambda: message)


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


def with_other_draft(pair: Pair, draft: str | None, progress: Progress | None = None) -> Pair:
    """The pair's target with another draft, which alone is loaded; `pair` can be used as before.

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
    opened, small = source.opened(draft, report)
    if not pair.native:
        source = replace(source, weights=WeightFormat.TORCH)
    backend = source.backend(opened, small)
    if small is not None:
        report("Comparing the tokenizers", None)
        pair_tokenizer(opened, small)
        if pair.native and not backend.native:
            raise ModelLoadError(
                f"{small.name}: it is not computed as this target is: {backend.fallback}"
            )
        if not _keeps_layers(pair.target, small):
            raise ModelLoadError(
                f"{small.name}: it reads the target's layers {list(small.config.feature_layers)}, "
                "which this target does not keep; load the pair with it"
            )
        check_draft_fits(opened, small, backend)
    return _with_draft(pair, opened, small, backend, report)


def keeps_target(pair: Pair, target: str | None, draft: str | None) -> bool:
    """Whether `with_other_draft` gives what `load_pair` gives for a target and this draft.

    Reads no weights. A draft that is not here yet counts as any that reads tokens only.

    Raises:
        ModelLoadError: a model is missing, damaged or of an unknown kind.
    """
    source = pair.source
    if source is None or source.target != target or is_fetched_first(target):
        return False
    if is_fetched_first(draft):
        return True
    opened, small = open_pair(target, draft)
    same = source.backend(opened, small).native == pair.native
    return same and (small is None or _keeps_layers(pair.target, small))


def _keeps_layers(target: Llama | NativeLlama, draft: Checkpoint) -> bool:
    """Whether the target's caches keep the hidden states that a draft reads."""
    kept = target.kept_layers if isinstance(target, NativeLlama) else tuple(target.feature_slots)
    return draft.config.feature_layers in ((), kept)


def _stated_rates(draft: Checkpoint) -> dict[str, tuple[float, ...]]:
    try:
        stated = draft.settings.get("sequoia", {}).get("acceptance_rates", {})
        return {kind: tuple(float(rate) for rate in rates) for kind, rates in stated.items()}
    except (AttributeError, TypeError, ValueError):
        raise ModelLoadError(f"{draft.weights.origin}: acceptance_rates are no numbers") from None
