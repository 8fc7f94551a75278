"""Kernels of attention at the targets' shapes: rows of a tree over a text of some length."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.model.attention import BLOCK, AttentionChoice, attend
from sequoia_core.model.config import ModelConfig

WITHOUT_MASK = "no mask"  # over all keys alike: what only plain decoding may do
SPLIT = "split"  # the text without a mask, a tree's own rows under one
BACKENDS = {
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    WITHOUT_MASK: SDPBackend.FLASH_ATTENTION,
}


def attention(day: GpuDay) -> None:
    """The engine's choice, and each kernel's time and first call."""
    for workload in day.scale.workloads:
        config, _ = workload.configs
        day.attention(config)
        for span in day.scale.spans:
            for rows in day.scale.attention_rows:
                if day.has(10):
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
    bias = torch.zeros((rows, span), device=day.device, dtype=day.dtype)
    bias[:, span - rows :].masked_fill_(~visible, float("-inf"))
    bias = bias.repeat(groups, 1)
    # at least a block without a mask where there is one, however short the text
    tail = bias[:, AttentionChoice(split_from=BLOCK).whole(span - rows) :]

    def by_pytorch(mask: Tensor | None) -> Tensor:
        return functional.scaled_dot_product_attention(queries, keys, values, mask)

    def by_engine(mask: Tensor) -> Tensor:
        return attend(queries, keys, values, mask, groups)

    found: dict[str, str | float] = {}
    for name, backend in BACKENDS.items():
        mask = None if name == WITHOUT_MASK else bias
        found |= _timed(day, name, lambda mask=mask: by_pytorch(mask), backend)  # type: ignore[misc]
    if tail.shape[1] < span:
        found |= _timed(day, SPLIT, lambda: by_engine(tail))
        if f"{SPLIT} us" in found:
            difference = by_engine(tail).float() - by_engine(bias).float()
            found[f"{SPLIT} differs by"] = float(difference.abs().max())
    return found


def _timed(
    day: GpuDay, name: str, call: Callable[[], Tensor], backend: SDPBackend | None = None
) -> dict[str, str | float]:
    """Microseconds, and the first call's milliseconds; or why the kernel cannot run."""
    try:
        with sdpa_kernel(backend) if backend is not None else nullcontext():
            first, taken = day.clock.kernel(call, day.scale.repeats)
    except RuntimeError as error:  # it is not compiled, or refuses the shape
        return {name: (str(error).splitlines() or ["refused"])[0][:60]}
    return {f"{name} us": taken * 1e3, f"{name} first ms": first}
