"""Kernels of attention at the targets' shapes: rows of a tree over a text of some length."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.model.config import ModelConfig

WITHOUT_MASK = "no mask"  # over all keys alike: what only plain decoding may do
PARTED = "flash and tail"
BACKENDS = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    WITHOUT_MASK: SDPBackend.FLASH_ATTENTION,
}


def attention(day: GpuDay) -> None:
    """Each kernel's time and first call; flash over the text, merged with a tree's own rows."""
    for workload in day.scale.workloads:
        config, _ = workload.configs
        for span in day.scale.spans:
            for rows in day.scale.attention_rows:
                name = f"{rows} rows, {span} keys, {config.num_kv_heads} KV heads"
                day.report.row(name, _kernels(day, config, rows, span))


@torch.inference_mode()
def _kernels(day: GpuDay, config: ModelConfig, rows: int, span: int) -> Mapping[str, str | float]:
    """Of n = `rows`; queries of a KV head together."""
    kv_heads, groups = config.num_kv_heads, config.num_heads // config.num_kv_heads

    def filled(count: int) -> Tensor:
        shape = (1, kv_heads, count, config.head_dim)
        return torch.randn(shape, device=day.device, dtype=day.dtype)

    queries, keys, values = filled(groups * rows), filled(span), filled(span)
    visible = torch.ones((rows, rows), dtype=torch.bool, device=day.device).tril()
    tail = torch.zeros((rows, rows), device=day.device, dtype=day.dtype)
    tail = tail.masked_fill(~visible, float("-inf")).repeat(groups, 1)  # [G n, n]
    bias = functional.pad(tail, (span - rows, 0))

    def attend(mask: Tensor | None) -> Tensor:
        return functional.scaled_dot_product_attention(queries, keys, values, mask)

    found: dict[str, str | float] = {}
    for name, backend in BACKENDS.items():
        mask = None if name == WITHOUT_MASK else bias
        found |= _timed(day, name, lambda mask=mask: attend(mask), backend)  # type: ignore[misc]
    found |= _timed(day, PARTED, lambda: parted(queries, keys, values, tail))
    if f"{PARTED} us" in found:
        difference = parted(queries, keys, values, tail) - attend(bias)
        found[f"{PARTED} differs by"] = float(difference.abs().max())
    return found


def _timed(
    day: GpuDay, name: str, call: Callable[[], Tensor], backend: SDPBackend | None = None
) -> dict[str, str | float]:
    """Microseconds, and the first call's milliseconds; or why the kernel cannot run."""
    try:
        with sdpa_kernel(backend) if backend is not None else nullcontext():
            taken = day.clock.time(call, day.scale.repeats)
    except RuntimeError as error:  # it is not compiled, or refuses the shape
        return {name: (str(error).splitlines() or ["refused"])[0][:60]}
    return {f"{name} us": taken.whole * 1e3, f"{name} first ms": taken.first}


def parted(queries: Tensor, keys: Tensor, values: Tensor, tail: Tensor) -> Tensor:
    """Attention whose last keys alone are masked, by `tail` [G n, n]; [1, K, G n, D].

    The keys before go through a kernel without a mask, which can divide them among the
    multiprocessors; both parts are merged by the logarithms of their sums.
    """
    before = keys.shape[2] - tail.shape[1]
    flash = torch.ops.aten._scaled_dot_product_flash_attention
    if queries.device.type == "cpu":
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    text, text_total = flash(queries, keys[:, :, :before], values[:, :, :before])[:2]
    scores = queries @ keys[:, :, before:].mT * queries.shape[3] ** -0.5 + tail
    own = torch.softmax(scores, -1) @ values[:, :, before:]
    share = torch.sigmoid(text_total - scores.float().logsumexp(-1))[..., None].to(own.dtype)
    merged: Tensor = torch.lerp(own, text, share)
    return merged
