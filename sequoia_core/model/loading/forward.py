"""The forward pass that computes a pair, and its number formats.

On a CPU that is the native library, with the weights as their files store them; elsewhere, and
where the library cannot, PyTorch. No weights are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import Placement, choose_dtype, device_name, dtype_name
from sequoia_core.model.loading.gguf import GgufWeights
from sequoia_core.model.native.library import (
    find_library,
    forced_instruction_set,
    instruction_sets,
    load_library,
)
from sequoia_core.model.native.matrices import (
    DTYPE_FORMATS,
    Q8_0,
    quantized_already,
    unread_format,
)

if TYPE_CHECKING:
    from sequoia_core.model.loading.loader import Checkpoint

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Forward:
    """How a pair is computed.

    Attributes:
        placement: where.
        weights: `NATIVE`, `INT8` or `TORCH`.
        dtype: of PyTorch's tensors; natively, the format that all matrices are converted to, or
            None where they stay as they are stored.
        fallback: why PyTorch computes where the native library would by default; "" if not so.
    """

    placement: Placement
    weights: WeightFormat
    dtype: torch.dtype | None
    fallback: str = ""

    @property
    def native(self) -> bool:
        """Whether the native library computes."""
        return self.weights is not WeightFormat.TORCH

    @property
    def exact(self) -> bool:
        """See `PairDescription.exact`."""
        return self.native or self.dtype is torch.float32

    @property
    def target_format(self) -> int | None:
        """The `ggml_type` that the target's matrices are held in natively; None is their own."""
        if self.weights is WeightFormat.INT8:
            return Q8_0
        return None if self.dtype is None else DTYPE_FORMATS[self.dtype]

    @property
    def remark(self) -> str:
        """Why this is not the default forward; "" where it is."""
        return f"PyTorch computes, which is slower: {self.fallback}" if self.fallback else ""

    def number_format(self, target: Checkpoint) -> str:
        """For a title bar: the weights' format, and what is unusual about computing them."""
        if self.weights is WeightFormat.INT8:
            return WeightFormat.INT8.value
        if self.native:
            return dtype_name(self.dtype) if self.dtype else stored_format(target)
        assert self.dtype is not None
        parts = [dtype_name(self.dtype), *(["PyTorch"] if self.placement.is_one_cpu else [])]
        offload = self.placement.offload
        return " ".join([*parts, *(["offload", offload.value] if offload != Offload.NONE else [])])

    def backend(self) -> str:
        """The library that computes, its version or instruction set, and its threads."""
        if self.native:
            instructions = forced_instruction_set() or instruction_sets()[0]
            return f"native library, {instructions}, {cpu_threads()} threads"
        return f"PyTorch {torch.__version__}"

    def key(self) -> str:
        """Everything about the forward that changes its times."""
        number = "" if self.dtype is None else dtype_name(self.dtype)
        build = library_digest() if self.native else ""
        devices = map(device_name, self.placement.devices)
        backend = (self.weights.value, self.backend(), build, self.placement.offload.value)
        return "\n".join([number, *devices, *backend])


def choose_forward(
    weights: WeightFormat,
    dtype: str,
    placement: Placement,
    models: Sequence[Checkpoint] = (),
) -> Forward:
    """The forward that computes a pair by the settings for weights and dtype.

    `models` are target and draft, if they are opened already; one forward computes both.

    Raises:
        ParameterError: an unknown dtype, or the native library is wanted and cannot do it, or
            `int8` would do nothing.
    """
    stored = models[0].stored_dtype if models else None
    number = choose_dtype(dtype, placement.devices, stored)
    own_format = dtype == AUTO
    reason = "" if weights is WeightFormat.TORCH else _refusal(placement, models, own_format)
    if weights is WeightFormat.TORCH or (weights is WeightFormat.AUTO and reason):
        fallback = reason if placement.is_one_cpu else ""
        return Forward(placement, WeightFormat.TORCH, number, fallback)
    if reason:
        raise ParameterError(f"weights are {weights.value}, but {reason}; leave --weights out")
    if weights is WeightFormat.INT8:
        _check_int8(own_format, models)
        return Forward(placement, weights, None)
    return Forward(placement, WeightFormat.NATIVE, None if own_format else number)


def stored_format(model: Checkpoint) -> str:
    """The number format of most of a model's stored values: `Q4_1`, `bfloat16` and the like."""
    if isinstance(model.weights, GgufWeights):
        name = model.weights.main_format()
        return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(name, name)
    return dtype_name(model.weights[next(model.weights.matrices())].dtype)


def library_digest() -> str:
    """Of the compiled library, so that figures measured with another build are not used."""
    path = find_library()
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else ""


def _refusal(placement: Placement, models: Sequence[Checkpoint], own_format: bool) -> str:
    """Why the native library does not compute the models; "" where it does."""
    if not placement.is_one_cpu:
        return "the native forward computes on one CPU, without offloading"
    try:
        load_library()
    except ModelLoadError as error:
        return str(error)
    if not instruction_sets():
        return "the native forward needs a processor with AVX2, or with NEON's dot products"
    if own_format:
        for model in models:
            if unread := unread_format(model.weights):
                return f"{model.name}: {unread}"
    return ""


def _check_int8(own_format: bool, models: Sequence[Checkpoint]) -> None:
    if not own_format:
        raise ParameterError("weights are int8, which is a number format itself; leave --dtype out")
    if models and quantized_already(models[0].weights):
        raise ParameterError(
            f"weights are int8, but {models[0].name} is stored as {stored_format(models[0])}, "
            "which stays as it is; leave --weights out"
        )
