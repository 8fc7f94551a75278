"""To how many bits a target's matrices are rounded while it is loaded, and by which library."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Offload, Quantize
from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import free_bytes
from sequoia_core.model.loading.backend import (
    Backend,
    Models,
    config_of,
    opened,
    pair_plans,
    stored_format,
)
from sequoia_core.model.loading.weights import DTYPE_FORMATS, Weights
from sequoia_core.model.quantised import AMPERE, COLUMNS, INSTALL, missing_library
from sequoia_core.model.tensor_names import matrix_shapes

if TYPE_CHECKING:
    from sequoia_core.model.loading.loader import Checkpoint

CHOSEN_CONTEXT = 4096  # tokens that `auto` leaves room for, unless the window is shorter


def with_quantisation(backend: Backend, asked: Quantize, dtype: str, models: Models) -> Backend:
    """The backend with the target's matrices rounded as asked; `models` as of `choose_backend`.

    Raises ParameterError if that is not possible there, or would change nothing.
    """
    if backend.quantize is not Quantize.NONE:  # by --weights int8
        if asked in (Quantize.NONE, Quantize.AUTO, backend.quantize):
            return backend
        raise ParameterError(
            f"weights are int8, but quantize is {asked.value}; leave --weights out"
        )
    if asked is Quantize.NONE:
        return backend
    if asked is Quantize.AUTO:
        return _most_bits(backend, dtype, models)
    if reason := _refusal(backend, asked, dtype, _target_weights(models)):
        raise ParameterError(f"quantize is {asked.value}, {reason}")
    return _rounding(backend, asked, models)


def _target_weights(models: Models) -> Weights | None:
    return next((each.weights for each in opened(models[:1])), None)


def _rounding(backend: Backend, kind: Quantize, models: Models) -> Backend:
    if backend.native:
        return replace(backend, quantize=kind)
    dtype = torch.bfloat16 if kind is Quantize.INT4 else backend.dtype
    left = _left_out(kind, config_of(models[0])) if models and models[0] else ""
    return replace(backend, quantize=kind, dtype=dtype, chosen=left)


def _left_out(kind: Quantize, target: ModelConfig) -> str:
    """Which matrices stay as they are stored, and why; "" if none does."""
    columns = [columns for _, columns in matrix_shapes(target).values()]
    if not (left := sum(count % COLUMNS[kind] > 0 for count in columns)):
        return ""
    return (
        f"{kind.value} leaves {left} of {len(columns)} matrices of a layer as they are: their "
        f"columns are no multiple of {COLUMNS[kind]}"
    )


def _refusal(backend: Backend, kind: Quantize, dtype: str, weights: Weights | None) -> str:
    """Why a format is not possible, and what to do instead; "" where it is."""
    if backend.placement.offload is not Offload.NONE:
        return "but layers that are offloaded are computed as they are stored; leave one out"
    if backend.placement.ranks > 1:
        return "but a target that is divided among processes stays as it is stored; leave one out"
    if weights is not None and weights.packed_format:
        return f"but the target is stored in {weights.packed_format}; leave --quantize out"
    if not backend.native:
        return _library_refusal(backend, kind, dtype)
    if kind is Quantize.NF4:
        return "which the native library does not hold; give int8 or int4, or --weights torch"
    if dtype != "auto":
        return "which is a number format itself; leave --dtype out"
    if weights is not None and not _has_floating_matrices(weights):
        return (
            f"but the target is stored as {stored_format(weights)}, which stays as it is; "
            "leave --quantize out"
        )
    return ""


def _library_refusal(backend: Backend, kind: Quantize, dtype: str) -> str:
    if name := missing_library(kind):
        return f"which needs {name}: {INSTALL}"
    if kind is not Quantize.INT4:
        return ""
    for device in backend.placement.devices:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < AMPERE:
            return "for which PyTorch needs a GPU of capability 8.0 or later; give nf4 or int8"
    return "" if dtype in ("auto", "bfloat16") else "which computes in bfloat16; leave --dtype out"


def _has_floating_matrices(weights: Weights) -> bool:
    formats = {weights.stored(name).file_format for name in weights.matrices()}
    return not formats.isdisjoint(DTYPE_FORMATS.values())


def _most_bits(backend: Backend, dtype: str, models: Models) -> Backend:
    """That of the most bits which fits, else of the fewest that are possible.

    Natively 8 bits at most: they are nearly as exact as 16 and read in half the time.
    """
    target, draft = (*models, None, None)[:2]
    if target is None:
        return backend
    possible = list(_possible(backend, dtype, models))
    fitting = [each for each in possible if _fits(each, target, draft)]
    taken = (fitting or possible[-1:] or [backend])[0]
    if not possible or taken.quantize is Quantize.NONE:
        stays = "they fit" if fitting else "no format of fewer bits is possible here"
        return replace(backend, chosen=f"--quantize auto leaves the weights as they are: {stays}")
    why = "it fits" if fitting else "the fewest bits that are possible here"
    chosen = f"--quantize auto chose {taken.quantize.value}: {why}"
    return replace(taken, chosen="; ".join(filter(None, (chosen, taken.chosen))))


def _possible(backend: Backend, dtype: str, models: Models) -> Iterator[Backend]:
    if not backend.native:
        yield backend
    for kind in (Quantize.INT8, Quantize.INT4, Quantize.NF4):
        if not _refusal(backend, kind, dtype, _target_weights(models)):
            yield _rounding(backend, kind, models)


def _fits(
    backend: Backend, target: "Checkpoint | ModelConfig", draft: "Checkpoint | ModelConfig | None"
) -> bool:
    plans = pair_plans(target, draft, backend)
    return all(
        plan.needed(min(plan.window, CHOSEN_CONTEXT)) <= free_bytes(device)
        for device, plan in plans.items()
    )
