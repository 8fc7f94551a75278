"""What the device does at best, and what small things cost: copies, waits and launches."""

import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata

import torch
from torch import Tensor
from torch.nn import functional

import sequoia_core
from sequoia_core.measure.gpu_day.clock import GIB, CallTime
from sequoia_core.measure.gpu_day.day import GpuDay

LAUNCHES = (16, 256, 1024)  # small kernels in a row


def environment(day: GpuDay) -> None:
    """Versions and the device's name."""
    day.report.row(
        "software",
        {
            "sequoia": sequoia_core.__version__,
            "torch": str(torch.__version__),
            "transformers": _version("transformers"),
            "python": platform.python_version(),
            "system": sys.platform,
            "threads": torch.get_num_threads(),
        },
    )
    if day.clock.on_gpu:
        properties = torch.cuda.get_device_properties(day.device)
        day.report.row(
            "device",
            {
                "name": properties.name,
                "capability": ".".join(map(str, torch.cuda.get_device_capability(day.device))),
                "memory GiB": properties.total_memory / GIB,
                "multiprocessors": properties.multi_processor_count,
                "CUDA": str(torch.version.cuda),
                "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            },
        )
    else:
        day.report.row("device", {"name": "cpu"})


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def ceilings(day: GpuDay) -> None:
    """Bandwidth, products, and the product of one row, which only reads its matrix."""
    clock, dtype = day.clock, day.dtype
    _bandwidth(day)

    def filled(*shape: int) -> Tensor:
        return torch.ones(shape, device=day.device, dtype=dtype)

    inner, width = day.scale.matrix
    matrix, row = filled(inner, width), filled(1, width)
    taken = clock.time(lambda: functional.linear(row, matrix), day.scale.repeats)
    day.report.row("product of one row", terabytes(taken, inner * width * matrix.element_size()))
    for side in day.scale.squares:
        left = torch.randn(side, side, device=day.device, dtype=dtype)
        taken = clock.time(partial(torch.matmul, left, left), day.scale.repeats)
        flops = 2 * side**3 / taken.whole / 1e9
        day.report.row(f"product of {side}", {"ms": taken.whole, "TFLOP/s": flops})
    clock.forget_peak()


def _bandwidth(day: GpuDay) -> None:
    count = day.scale.copied
    source = torch.ones(count, device=day.device, dtype=day.dtype)
    target = torch.empty_like(source)
    size = count * source.element_size()
    taken = day.clock.time(lambda: target.copy_(source), day.scale.repeats)
    day.report.row("copy", terabytes(taken, 2 * size))
    day.report.row("read", terabytes(day.clock.time(source.sum, day.scale.repeats), size))


def terabytes(call: CallTime, size: int) -> dict[str, float]:
    """The time of a call that reads and writes so many bytes, and their rate."""
    return {"ms": call.whole, "TB/s": size / call.whole / 1e9}


def small_costs(day: GpuDay) -> None:
    """Microseconds of what a step does many times, issued one after the other."""
    clock, device = day.clock, day.device
    small = torch.ones(64, 256, device=device)
    logits = torch.ones(32000, device=device)
    host = torch.empty(32000).pin_memory() if clock.on_gpu else torch.empty(32000)
    rows = torch.ones(8, 32000, device=device)

    def to_pinned() -> None:
        host.copy_(logits, non_blocking=True)
        clock.wait()

    calls: dict[str, Callable[[], object]] = {
        "a small kernel": lambda: small.add_(1.0),
        "a view": lambda: small[:, 1:3],
        "a list to the device": lambda: torch.tensor([1, 2, 3], device=device),
        "256 numbers from pinned memory": lambda: small[0].copy_(host[:256], non_blocking=True),
        "32,000 numbers to the host": logits.cpu,
        "the same to pinned memory": to_pinned,
        "one number to the host": lambda: float(logits[5]),
        "9 largest of [8, 32000]": lambda: rows.topk(9, dim=-1),
        "softmax of [8, 32000]": lambda: torch.softmax(rows, dim=-1),
        "noise [8, 32000] in float64": lambda: torch.rand(
            (8, 32000), device=device, dtype=torch.float64
        ).log_(),
    }
    for name, call in calls.items():
        taken = clock.rate(call, day.scale.calls)
        day.report.row(name, {"host us": taken.host * 1e3, "us": taken.whole * 1e3})
    for kernels in LAUNCHES:
        _launches(day, small, kernels)


def _launches(day: GpuDay, small: Tensor, kernels: int) -> None:
    def work() -> None:
        for _ in range(kernels):
            small.add_(1.0)

    eager = day.clock.time(work, day.scale.repeats)
    graph = day.clock.time(day.clock.runner.record(work).replay, day.scale.repeats)
    values = {"ms": eager.whole, "graph host ms": graph.host, "graph ms": graph.whole}
    day.report.row(f"{kernels} small kernels", values)
