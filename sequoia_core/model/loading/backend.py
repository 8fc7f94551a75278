"""Which library computes a pair, in what number format, and the memory it takes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from gguf import GGMLQuantizationType

from sequoia_core.config import GraphChoice, Offload, Quantize, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import (
    Placement,
    Stage,
    choose_dtype,
    device_name,
    dtype_name,
    free_bytes,
    placed_stages,
)
from sequoia_core.model.loading.memory_plan import (
    FLOAT32,
    MemoryPlan,
    kv_token_bytes,
    plan_memory,
    recorded_row_bytes,
    recording_bytes,
    size_text,
)
from sequoia_core.model.loading.weights import DTYPE_FORMATS, Weights
from sequoia_core.model.native import library, matrices
from sequoia_core.model.offload.model import SLOTS, layer_bytes, resident_bytes
from sequoia_core.model.parallel.shards import Shard, check_divisible
from sequoia_core.model.quantised import library_version, rounded_bytes
from sequoia_core.model.tensor_names import matrix_shapes, products, weight_values

if TYPE_CHECKING:
    from sequoia_core.model.loading.loader import Checkpoint

Models = Sequence["Checkpoint | ModelConfig | None"]
"""A target, and then its draft if there is one."""

WINDOW_STEP = 256  # a context window that has to be cut is a multiple of so many tokens


@dataclass(frozen=True, slots=True)
class Backend:
    """How a pair is computed.

    `dtype` is that of PyTorch's tensors; natively, the format that all matrices are converted to,
    or None where they stay as they are stored.
    """

    placement: Placement
    weights: WeightFormat  # NATIVE or TORCH
    dtype: torch.dtype | None
    fallback: str = ""  # why PyTorch computes where the native library would by default
    graphs: bool = False  # a GPU's kernels are recorded and replayed
    quantize: Quantize = Quantize.NONE  # the target's matrices are rounded; never AUTO
    chosen: str = ""  # what `Quantize.AUTO` chose, and why; matrices that are not rounded

    @property
    def native(self) -> bool:
        return self.weights is not WeightFormat.TORCH

    @property
    def exact(self) -> bool:
        return self.native or self.dtype is torch.float32

    @property
    def target_format(self) -> int | None:
        """The `ggml_type` that the target's matrices are held in natively; None is their own."""
        if self.quantize in matrices.QUANTIZED:
            return matrices.QUANTIZED[self.quantize]
        return None if self.dtype is None else DTYPE_FORMATS[self.dtype]

    def eagle3_dtype(self, stored: torch.dtype | None) -> torch.dtype:
        """What PyTorch computes an EAGLE-3 draft in, given what it is stored in."""
        return self.dtype or choose_dtype("auto", self.placement.devices, stored)

    def number_format(self, target: Checkpoint) -> str:
        """For a title bar: the weights' format, and what is unusual about computing them."""
        packed = target.weights.packed_format
        if self.quantize is not Quantize.NONE:
            packed = self.quantize.value
        if self.native:
            stored = packed or stored_format(target.weights)
            return dtype_name(self.dtype) if self.dtype else stored
        assert self.dtype is not None
        parts = [packed] if packed else []
        parts += [dtype_name(self.dtype), *(["PyTorch"] if self.placement.is_one_cpu else [])]
        offload = self.placement.offload
        return " ".join([*parts, *(["offload", offload.value] if offload != Offload.NONE else [])])

    def warning(self, target: ModelConfig) -> str:
        """What the number format does to such a target; "" if nothing is known."""
        if self.native or self.dtype is not torch.float16 or not target.overflows_float16:
            return ""
        return f"{target.family} can overflow in float16; give --dtype bfloat16 or float32"

    def name(self) -> str:
        """The library that computes, its version or instruction set, and its threads."""
        if self.native:
            instructions = library.forced_instruction_set() or library.instruction_sets()[0]
            return f"native library, {instructions}, {cpu_threads()} threads"
        return f"PyTorch {torch.__version__}"

    def key(self) -> str:
        number = "" if self.dtype is None else dtype_name(self.dtype)
        build = library_digest() if self.native else ""
        devices = [*map(device_name, self.placement.devices)] * self.placement.ranks
        devices += map(str, self.placement.layers)
        backend = (self.weights.value, self.name(), build, self.placement.offload.value)
        more = ["graphs"] if self.graphs else []
        if self.quantize is not Quantize.NONE:
            more += [self.quantize.value, "" if self.native else library_version(self.quantize)]
        return "\n".join([number, *devices, *backend, *more])


def choose_backend(
    weights: WeightFormat, dtype: str, placement: Placement, models: Models = ()
) -> Backend:
    """What computes target and draft, opened or known by their shapes; None is unknown."""
    number = choose_dtype(dtype, placement.devices, _stored_dtype(*models[:1]))
    own_format = dtype == "auto"
    reason = "" if weights is WeightFormat.TORCH else _refusal(placement, models, own_format)
    if weights is WeightFormat.TORCH or (weights is WeightFormat.AUTO and reason):
        fallback = reason if placement.is_one_cpu else ""
        return Backend(placement, WeightFormat.TORCH, number, fallback)
    if reason:
        raise ParameterError(f"weights are {weights.value}, but {reason}; leave --weights out")
    if weights is WeightFormat.INT8:
        _check_int8(own_format, models)
        return Backend(placement, WeightFormat.NATIVE, None, quantize=Quantize.INT8)
    return Backend(placement, WeightFormat.NATIVE, None if own_format else number)


def uses_graphs(choice: GraphChoice, placement: Placement) -> bool:
    """Whether kernels are recorded; raises ParameterError if they are to be and cannot be."""
    why = no_graphs(placement)
    if choice is GraphChoice.ON and why:
        raise ParameterError(
            "graphs are on, but only one GPU that holds the whole target has CUDA graphs, and "
            f"{why}; leave --graphs out"
        )
    return not why and choice is not GraphChoice.OFF


def no_graphs(placement: Placement) -> str:
    """Why kernels cannot be recorded; "" where they can be."""
    if placement.device.type == "cpu":
        return "a CPU computes"
    if len(placement.devices) > 1 or placement.ranks > 1:
        return "several GPUs compute"
    return "" if placement.offload is Offload.NONE else "the target is offloaded"


def stored_format(weights: Weights) -> str:
    """The number format of most values of matrices: `Q4_1`, `bfloat16` and the like."""
    values: Counter[int] = Counter()
    for name in weights.matrices():
        values[weights.stored(name).file_format] += prod(weights.shape(name))
    ((most, _),) = values.most_common(1)
    known = {kind: dtype_name(dtype) for dtype, kind in DTYPE_FORMATS.items()}
    return known.get(most) or str(GGMLQuantizationType(most).name)


def library_digest() -> str:
    """Tells builds of the compiled library apart."""
    path = library.find_library()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else ""


def _stored_dtype(model: Checkpoint | ModelConfig | None = None) -> torch.dtype | None:
    return None if model is None or isinstance(model, ModelConfig) else model.stored_dtype


def opened(models: Models) -> list[Checkpoint]:
    return [each for each in models if each is not None and not isinstance(each, ModelConfig)]


def _refusal(placement: Placement, models: Models, own_format: bool) -> str:
    """Why the native library does not compute the models; "" where it does."""
    if not placement.is_one_cpu:
        return "the native forward computes in one process on one CPU, without offloading"
    try:
        library.load_library()
    except ModelLoadError as error:
        return str(error)
    if not library.instruction_sets():
        return "the native forward needs a processor with AVX2, or with NEON's dot products"
    for role, model in zip(("target", "draft"), models, strict=False):
        if model is None:
            continue
        if features := sorted({*config_of(model).beyond_llama} - matrices.FEATURES):
            named = ", ".join(features).replace("_", " ")
            name = f"the {role}" if isinstance(model, ModelConfig) else model.name
            return f"the native forward computes no {named}, which {name} has"
    for model in opened(models) if own_format else ():
        if model.config.eagle3:  # PyTorch computes it, whatever computes the target
            continue
        try:
            for name in model.weights.matrices():
                matrices.stored_matrix(model.weights, name)
        except ModelLoadError as error:
            return f"{model.name}: {error}"
    return ""


def _check_int8(own_format: bool, models: Models) -> None:
    if not own_format:
        raise ParameterError("weights are int8, which is a number format itself; leave --dtype out")
    if not (target := opened(models[:1])):
        return
    name, weights = target[0].name, target[0].weights
    formats = {weights.stored(each).file_format for each in weights.matrices()}
    if formats.isdisjoint(DTYPE_FORMATS.values()):
        raise ParameterError(
            f"weights are int8, but {name} is stored as {stored_format(weights)}, "
            "which stays as it is; leave --weights out"
        )


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """What a layer's matrices of few bits take; of the layers' mean."""

    values: int = 0  # numbers of them
    held: int = 0  # bytes
    largest: int = 0  # numbers of the matrix that is largest when it is dequantised

    def spared(self, value_bytes: int) -> int:
        """Bytes less than at so many bytes per number."""
        return value_bytes * self.values - self.held


def _packed_layer(model: Checkpoint | ModelConfig | None) -> PackedLayer:
    if model is None or isinstance(model, ModelConfig) or not model.weights.packed_format:
        return PackedLayer()
    weights, layers, values, held = model.weights, model.config.num_layers, [0], 0
    for name in weights:
        if name.startswith("model.layers.") and (size := weights.packed_bytes(name)) is not None:
            values.append(prod(weights.shape(name)))
            held += size
    return PackedLayer(sum(values) // layers, held // layers, max(values))


def _rounded_layer(config: ModelConfig, kind: Quantize, value_bytes: int) -> PackedLayer:
    shapes = matrix_shapes(config)
    stacked = [
        (sum(shapes[module][0] for module in modules), shapes[modules[0]][1])
        for modules in products(config).values()
    ]
    held = sum(rounded_bytes(kind, shape, value_bytes) for shape in stacked)
    return PackedLayer(sum(map(prod, stacked)), held)


def pair_plans(
    target: Checkpoint | ModelConfig,
    draft: Checkpoint | ModelConfig | None,
    backend: Backend,
    free: Callable[[torch.device], int] = free_bytes,
) -> dict[torch.device, MemoryPlan]:
    """What each device must have room for; the draft is on the first.

    Layers of an offloaded target stay on a GPU as far as they fit into what is `free` there.

    Natively, a model that is not opened is assumed to have 16 bits per number, or as it is rounded.
    """
    shape, draft_shape = config_of(target), config_of(draft) if draft else None
    if not backend.native:
        assert backend.dtype is not None
        packed = _packed_layer(target), _packed_layer(draft)
        if (kind := backend.quantize) is not Quantize.NONE:
            packed = _rounded_layer(shape, kind, backend.dtype.itemsize), packed[1]
        plans = memory_plans(shape, draft_shape, backend.dtype, backend.placement, free, packed)
        first, columns = backend.placement.device, draft_shape.head_vocab_size if draft_shape else 0
        plan = plans[first]
        if backend.graphs:
            recordings = recording_bytes(shape.vocab_size, columns)
            row = plan.row + recorded_row_bytes(shape.vocab_size, columns)
            plan = replace(plan, recordings=recordings, row=row)
        return plans | {first: plan.with_rows(free(first)) if first.type == "cuda" else plan}
    slots = draft_shape.feature_count if draft_shape else 0
    weights, token = _native_held(target, backend.target_format, slots)
    if draft:
        stored = _stored_dtype(draft)
        if config_of(draft).eagle3:
            more = _eagle3_held(config_of(draft), backend.eagle3_dtype(stored).itemsize)
        else:
            form = matrices.draft_format(stored, backend.dtype)
            more = _native_held(draft, form, min(slots, 1))
        weights, token = weights + more[0], token + more[1]
    columns = draft_shape.head_vocab_size if draft_shape else 0
    plan = plan_memory(
        shape, columns, (weights, token), value_bytes=FLOAT32, on_gpu=False, native=True
    )
    return {backend.placement.device: plan}


def memory_plans(
    target: ModelConfig,
    draft: ModelConfig | None,
    dtype: torch.dtype,
    placement: Placement,
    free: Callable[[torch.device], int] = free_bytes,
    packed: tuple[PackedLayer, PackedLayer] = (PackedLayer(), PackedLayer()),
) -> dict[torch.device, MemoryPlan]:
    """As `pair_plans`, of models that PyTorch computes; `packed` are of target and draft."""
    size, first = dtype.itemsize, placement.device
    draft_values = weight_values(draft) if draft else 0
    # offloaded or divided layers lie in memory as they are computed
    resident = placement.offload is Offload.NONE and placement.ranks == 1
    spared = packed[0].spared(size) if resident else 0
    part = Shard(target, 0, placement.ranks).part
    layer_token = kv_token_bytes(part, size) // target.num_layers
    weights: Counter[torch.device] = Counter()
    token: Counter[torch.device] = Counter()
    for stage in _planned_stages(target, placement, draft_values):
        weights[stage.device] += size * stage.values - spared * len(stage.layers)
        token[stage.device] += layer_token * len(stage.layers)
    if placement.offload is not Offload.NONE:
        weights[first] = resident_bytes(target, dtype)
        token[first] += 2 * size * target.hidden_size  # a layer's input and output of a prompt
    columns = 0
    if draft:
        slots, columns = draft.feature_count, draft.head_vocab_size
        weights[first] += size * draft_values - packed[1].spared(size) * draft.num_layers
        token[first] += size * slots * target.hidden_size
        token[first] += kv_token_bytes(draft, size, feature_slots=min(slots, 1))
    plans = {}
    for device in dict.fromkeys(placement.devices):
        plan = plan_memory(
            target,
            columns,
            (weights[device], token[device]),
            value_bytes=size,
            on_gpu=device.type == "cuda",
        )
        dequantised = size * max(each.largest for each in packed) if resident else 0
        plan = replace(plan, activations=plan.activations + dequantised)
        plans[device] = plan if device == first else replace(plan, logits=0)
    if placement.offload is Offload.NONE or first.type == "cpu":
        return plans
    layer, layers = layer_bytes(target, dtype), target.num_layers
    plan = plans[first] = plans[first].with_resident_layers(layer, layers, free(first))
    locked = layers - plan.resident_layers if placement.offload is Offload.CPU else SLOTS
    plans[torch.device("cpu")] = MemoryPlan(locked * layer, 0, window=target.context_window)
    return plans


def _planned_stages(target: ModelConfig, placement: Placement, others: int) -> tuple[Stage, ...]:
    """Each device's part; of several ranks those that lie in the memory of rank 0."""
    if placement.ranks == 1:
        return placed_stages(target, placement, others)
    check_divisible(target, placement.ranks)
    values = Shard(target, 0, placement.ranks).values
    stage = Stage(placement.device, range(target.num_layers), values)
    return (stage,) * (placement.ranks if placement.device.type == "cpu" else 1)


def config_of(model: Checkpoint | ModelConfig) -> ModelConfig:
    return model if isinstance(model, ModelConfig) else model.config


def _native_held(
    model: Checkpoint | ModelConfig, matrix_format: int | None, feature_slots: int
) -> tuple[int, int]:
    """Bytes of the weights, and of one token in the cache."""
    if isinstance(model, ModelConfig):
        token = matrices.planned_token_bytes(model, half=True, feature_slots=feature_slots)
        return matrices.value_bytes(matrix_format) * weight_values(model) // matrices.GROUP, token
    stored = matrices.model_matrices(model.config, model.weights, matrix_format)
    half = matrices.cache_is_half(stored)
    token = matrices.planned_token_bytes(model.config, half, feature_slots)
    return matrices.planned_bytes(model.config, stored), token


def _eagle3_held(draft: ModelConfig, value_bytes: int) -> tuple[int, int]:
    """The same of a draft that PyTorch computes next to a native target."""
    lent = draft.vocab_size * draft.hidden_size if draft.embeddings_from_target else 0
    values = weight_values(draft) + lent  # a native target's embedding is in another form
    return value_bytes * values, kv_token_bytes(draft, value_bytes, feature_slots=1)


def fitting_window(target: Checkpoint, draft: Checkpoint | None, backend: Backend) -> int:
    """Tokens of context that fit into the memory that is free now.

    Raises ModelLoadError if a device has too little for a useful context.
    """
    window = target.config.context_window
    for device, plan in pair_plans(target, draft, backend).items():
        free = free_bytes(device)
        if plan.least > free:
            on_first = [draft] if draft and device == backend.placement.device else []
            names = " and ".join(each.name for each in (target, *on_first))
            rest = plan.least - plan.weights
            more = (
                f"{plan.least_context} tokens of context, logits and activations take "
                f"{size_text(rest)} more; "
            )
            raise ModelLoadError(
                f"{names}: {plan.weights / 2**30:.1f} GiB of {backend.number_format(target)} "
                f"weights do not fit into the {free / 2**30:.1f} GiB free on {device}; "
                f"{more if rest else ''}take a smaller model or another dtype, or leave layers "
                "elsewhere with --offload"
            )
        fitting = plan.context_in(free)
        if fitting < plan.window:
            window = min(window, max(fitting // WINDOW_STEP * WINDOW_STEP, plan.least_context))
    return window


def check_draft_fits(target: Checkpoint, draft: Checkpoint, backend: Backend) -> None:
    """Raise ModelLoadError if a draft for a target that is loaded does not fit into the memory."""
    device = backend.placement.device
    pair, alone = (pair_plans(target, each, backend)[device] for each in (draft, None))
    needed, free = pair.least - alone.least, free_bytes(device)
    if needed > free:
        raise ModelLoadError(
            f"{draft.name}: {size_text(needed)} do not fit into the {size_text(free)} free on "
            f"{device}; take a smaller draft"
        )
