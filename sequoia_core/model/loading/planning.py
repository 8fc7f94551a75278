"""The memory that a pair takes on each of its devices, and the context window that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Offload
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, free_bytes
from sequoia_core.model.loading.forward import Forward
from sequoia_core.model.loading.memory_plan import (
    FLOAT32,
    Held,
    MemoryPlan,
    kv_token_bytes,
    plan_memory,
    size_text,
)
from sequoia_core.model.native.matrices import (
    cache_is_half,
    draft_format,
    model_matrices,
    planned_bytes,
    planned_token_bytes,
)
from sequoia_core.model.offload.loaders import LayerLayout
from sequoia_core.model.offload.model import resident_bytes
from sequoia_core.model.pipeline import even_stages
from sequoia_core.model.weight_shapes import weight_values

if TYPE_CHECKING:
    from sequoia_core.model.loading.loader import Checkpoint

WINDOW_STEP = 256
"""A context window that has to be cut is a multiple of so many tokens."""


def pair_plans(
    target: Checkpoint | ModelConfig, draft: Checkpoint | ModelConfig | None, forward: Forward
) -> dict[torch.device, MemoryPlan]:
    """What each device must have room for; the draft is on the first.

    Of a model that is not opened only the shape is known; natively 16 bits per number are assumed.
    """
    shape, draft_shape = _config(target), _config(draft) if draft else None
    if not forward.native:
        assert forward.dtype is not None
        return memory_plans(shape, draft_shape, forward.dtype, forward.placement)
    slots = len(draft_shape.feature_layers) if draft_shape else 0
    held = _native_held(target, forward.target_format, slots)
    if draft:
        stored = None if isinstance(draft, ModelConfig) else draft.stored_dtype
        held += _native_held(draft, draft_format(stored, forward.dtype), min(slots, 1))
    columns = draft_shape.head_vocab_size if draft_shape else 0
    plan = plan_memory(shape, columns, held, value_bytes=FLOAT32, on_gpu=False, native=True)
    return {forward.placement.device: plan}


def memory_plans(
    target: ModelConfig, draft: ModelConfig | None, dtype: torch.dtype, placement: Placement
) -> dict[torch.device, MemoryPlan]:
    """What each device must have room for if PyTorch computes in `dtype`."""
    size, first = dtype.itemsize, placement.device
    slots = len(draft.feature_layers) if draft else 0
    draft_values = weight_values(draft) if draft else 0
    layer_token = kv_token_bytes(target, size) // target.num_layers
    held: dict[torch.device, Held] = dict.fromkeys(placement.devices, Held(0, 0))
    for stage in even_stages(target, placement.devices, draft_values):
        held[stage.device] += Held(size * stage.values, layer_token * len(stage.layers))
    whole = sum(each.weights for each in held.values())
    if placement.offload is not Offload.NONE:
        held[first] = replace(held[first], weights=resident_bytes(LayerLayout(target, dtype)))
    held[first] += Held(size * draft_values, size * slots * target.hidden_size)
    if draft:
        held[first] += Held(0, kv_token_bytes(draft, size, feature_slots=min(slots, 1)))
    plans = {}
    for device, each in held.items():
        plan = plan_memory(
            target,
            draft.head_vocab_size if draft else 0,
            each,
            value_bytes=size,
            on_gpu=device.type == "cuda",
        )
        plans[device] = plan if device == first else replace(plan, logits=0)
    if placement.offload is Offload.CPU:
        window = target.context_window
        plans[torch.device("cpu")] = MemoryPlan(whole, 0, 0, 0, 0, window)
    return plans


def _config(model: Checkpoint | ModelConfig) -> ModelConfig:
    return model if isinstance(model, ModelConfig) else model.config


def _native_held(
    model: Checkpoint | ModelConfig, matrix_format: int | None, feature_slots: int
) -> Held:
    if isinstance(model, ModelConfig):
        token = planned_token_bytes(model, half=True, feature_slots=feature_slots)
        return Held(2 * weight_values(model), token)
    matrices = model_matrices(model.config, model.weights, matrix_format)
    token = planned_token_bytes(model.config, cache_is_half(matrices), feature_slots)
    return Held(planned_bytes(model.config, matrices), token)


def fitting_window(
    names: Mapping[torch.device, str], plans: Mapping[torch.device, MemoryPlan], number: str
) -> int:
    """Tokens of context that fit into the memory that is free now.

    Args:
        names: of the models on each device.
        plans: by device.
        number: format of the weights.

    Raises:
        ModelLoadError: the weights do not fit, or leave too little room for a context.
    """
    window = min(plan.window for plan in plans.values())
    for device, plan in plans.items():
        free = free_bytes(device)
        if plan.least > free:
            raise ModelLoadError(
                f"{names[device]}: {plan.weights / 2**30:.1f} GiB of {number} weights "
                f"do not fit into the {free / 2**30:.1f} GiB free on {device}; {_more(plan)}take a "
                "smaller model or another dtype, or leave layers elsewhere with --offload"
            )
        fitting = plan.context_in(free)
        if fitting < plan.window:
            window = min(window, max(fitting // WINDOW_STEP * WINDOW_STEP, plan.least_context))
    return window


def _more(plan: MemoryPlan) -> str:
    rest = plan.least - plan.weights
    if rest == 0:
        return ""
    return (
        f"{plan.least_context} tokens of context, logits and activations take "
        f"{size_text(rest)} more; "
    )
