"""The target with matrices of fewer bits: t(n), memory, and how far its logits are from dense ones.

The libraries are optional; what is not installed is left out. Packed matrices are those of AWQ and
GPTQ checkpoints, dequantised at each product.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from sequoia_core.config import Quantize
from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.measure.gpu_day.forwards import forward
from sequoia_core.measure.gpu_day.pairs import RandomWeights
from sequoia_core.model.layers import MakeProduct
from sequoia_core.model.llama import Llama
from sequoia_core.model.packed import PackedMatrix, packed_products, repacked
from sequoia_core.model.quantised import missing_library, quantised_products

ROWS = (1, 8, 16, 32, 64)
COMPARED = 32  # rows of logits
GROUP = 128  # columns that share a scale
SECONDS = 15.0  # of a whole budget, for a format


@torch.inference_mode()
def fewer_bits(day: GpuDay) -> None:
    """A row for each format and number of rows; one format that fails does not end the others."""
    workload = day.scale.workloads[0]
    config, place = workload.configs[0], (day.device, day.dtype)
    weights = RandomWeights(config, place, seed=0)
    ids = torch.arange(COMPARED, device=day.device) % workload.text_length
    day.forget_models()
    dense: Tensor | None = None
    for name, make in _formats(weights, day):
        if not day.has(SECONDS):
            day.report.row(name, {"left out": "no time"})
            continue
        try:
            before = _allocated(day)
            model = Llama(config, weights, *place, make_product=make())
            values = {"GiB": (_allocated(day) - before) / 2**30}
            model.attention = day.attention(config)
            logits = model.forward_eagerly(ids, torch.arange(len(ids), device=day.device), None,
                                           model.new_cache())  # fmt: skip
            dense = logits.clone() if dense is None else dense
            values |= _compared(logits, dense) | _single_rows(model, ids, logits)
            day.report.row(name, values)
            _times(day, name, model, workload.contexts[0])
        except Exception as error:  # whatever a library or its kernels may raise
            day.report.row(name, {"failed": f"{type(error).__name__}: {error}"[:300]})
        model = None  # type: ignore[assignment]  # two would not fit
        day.forget_models()


def _formats(
    weights: Mapping[str, Tensor], day: GpuDay
) -> Iterator[tuple[str, Callable[[], MakeProduct | None]]]:
    yield "dense", lambda: None
    yield "packed 4 bits", lambda: packed_products(lambda name: _packed(weights[name]))
    for kind in (Quantize.INT8, Quantize.INT4, Quantize.NF4):
        if library := missing_library(kind):
            day.report.row(kind.value, {"left out": f"{library} is not installed"})
        elif kind is Quantize.INT4 and not day.clock.on_gpu:
            day.report.row(kind.value, {"left out": "its kernel needs a GPU"})
        else:
            yield kind.value, partial(quantised_products, weights, kind, day.dtype)


def _packed(matrix: Tensor) -> PackedMatrix:
    """Rounded to the nearest of 15 values around 0."""
    rows, columns = matrix.shape
    groups = matrix.float().view(rows, -1, min(GROUP, columns))
    scales = (groups.abs().amax(-1, keepdim=True) / 7.0).half()
    codes = (groups / scales.float()).round().add(8.0).clamp(0.0, 15.0).to(torch.uint8)
    zeros = torch.full(scales.shape[:2], 8, dtype=torch.uint8, device=matrix.device)
    return PackedMatrix(repacked(codes.view(rows, -1), 4), zeros, scales[..., 0], 4)


def _compared(found: Tensor, wanted: Tensor) -> dict[str, float]:
    log_p, log_q = wanted.log_softmax(-1), found.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    same = (found.argmax(-1) == wanted.argmax(-1)).float().mean()
    return {"KL mean": float(kl.mean()), "same argmax": float(same)}


def _single_rows(model: Llama, ids: Tensor, together: Tensor) -> dict[str, float]:
    """How much the logits of rows that are read one by one differ."""
    cache, largest = model.new_cache(), 0.0
    for at in range(len(ids)):
        position = torch.full((1,), at, device=ids.device)
        alone = model.forward_eagerly(ids[at : at + 1], position, None, cache)
        largest = max(largest, float((alone - together[at]).abs().max()))
    return {"single rows differ by": largest}


def _times(day: GpuDay, name: str, model: Llama, context: int) -> None:
    day.by_graphs(model)
    cache = model.new_cache()
    model.extend(torch.arange(context, device=day.device) % model.vocab_size, cache)
    for rows in _rows(day.scale.workloads[0].rows):
        if day.has(SECONDS / 3):
            forward(day, f"{name}, {rows} rows", (model, cache), rows)
    day.report_graphs(f"{name}, graphs")


def _rows(measured: Sequence[int]) -> list[int]:
    return [rows for rows in ROWS if rows in measured]


def _allocated(day: GpuDay) -> int:
    return torch.cuda.memory_allocated(day.device) if day.clock.on_gpu else 0
