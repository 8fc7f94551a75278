"""Makes models of their checkpoints: which forward computes a target or a draft, and where."""

from collections.abc import Callable, Sequence

from torch import Tensor

from sequoia_core.config import Offload, Quantize
from sequoia_core.model.attention_probe import attention_choice
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.device import placed_stages
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.graphs import CudaRunner, Graphs
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import Backend, pair_plans
from sequoia_core.model.loading.fitted_draft import fit_draft
from sequoia_core.model.loading.loader import Checkpoint
from sequoia_core.model.native.library import shared_pool
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.native.matrices import draft_format
from sequoia_core.model.native.rows import NativeRows, read_rows_with
from sequoia_core.model.offload.model import load_offloaded
from sequoia_core.model.packed import packed_products
from sequoia_core.model.quantised import quantised_products
from sequoia_core.model.recorded import graphs_of, record_forwards
from sequoia_core.model.tensor_names import weight_values


def target_model(
    target: Checkpoint, draft: Checkpoint | None, backend: Backend
) -> Llama | NativeLlama:
    """A target of its checkpoint, whose caches keep what the draft reads."""
    config, weights, placement = target.config, target.weights, backend.placement
    read_by_draft = draft.config.feature_layers if draft else ()
    if backend.native:
        return load_native(target, backend, read_by_draft)
    device, dtype = placement.device, backend.dtype
    assert dtype is not None
    attention = attention_choice(config, device, dtype)
    resident = pair_plans(target, draft, backend)[device].resident_layers
    model: Llama
    if placement.offload is not Offload.NONE and resident < config.num_layers:
        model = load_offloaded(config, dtype, weights, placement, read_by_draft, resident)
    else:
        on_first = weight_values(draft.config) if draft else 0
        stages = placed_stages(config, placement, on_first)
        make = packed_products(weights.packed) if weights.packed_format else None
        if backend.quantize is not Quantize.NONE:
            make = quantised_products(weights, backend.quantize, dtype)
        model = Llama(config, weights, device, dtype, read_by_draft, stages, make)
    model.attention = attention
    if backend.graphs:
        record_forwards(Graphs(CudaRunner(device), device), model)
    return model


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


def draft_model(
    draft: Checkpoint,
    target: Llama | NativeLlama,
    backend: Backend,
    embedding: Callable[[], Tensor],  # reads the target's, which a native one has in its own form
) -> tuple[Llama | NativeLlama, Tensor | None]:
    """A draft for a target, and the target's ids of its logits if they are not the same."""
    if isinstance(target, NativeLlama):
        if not draft.config.eagle3:
            return _native_draft(draft, target, backend)
        dtype, lent = backend.eagle3_dtype(draft.stored_dtype), embedding
    else:
        dtype, lent = target.dtype, lambda: target.embedding
    fitted = fit_draft(draft, target.config, lent)
    ids = None if fitted.vocab_ids is None else fitted.vocab_ids.to(target.device)
    made: Llama
    if fitted.config.feature_layers:
        kind = Eagle3Llama if fitted.config.eagle3 else ConditionedLlama
        made = kind(fitted.config, fitted.weights, target.device, dtype)
    else:
        make = packed_products(draft.weights.packed) if draft.weights.packed_format else None
        made = Llama(fitted.config, fitted.weights, target.device, dtype, make_product=make)
    made.attention = attention_choice(fitted.config, target.device, dtype)
    if (graphs := graphs_of(target)) is not None:
        record_forwards(graphs, made)
    return made, ids


def _native_draft(
    draft: Checkpoint, target: NativeLlama, backend: Backend
) -> tuple[NativeLlama, Tensor | None]:
    fitted = fit_draft(draft, target.config, None)
    model = NativeLlama(
        fitted.config,
        fitted.weights,
        shared_pool(),
        embedding_of=target if fitted.config.embeddings_from_target else None,
        matrix_format=draft_format(draft.stored_dtype, backend.dtype),
    )
    return model, fitted.vocab_ids
