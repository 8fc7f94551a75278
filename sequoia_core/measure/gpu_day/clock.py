"""Time, graphs and memory of the device that is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from sequoia_core.model import attention_probe
from sequoia_core.model.graphs import CudaRunner, EagerRunner, Runner

WARM_UPS = 2  # calls before those that count: kernels are loaded and chosen in the first
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class CallTime:
    """Milliseconds of a call; medians but for the first."""

    host: float  # until it returned
    whole: float  # until the device had done what it issued
    first: float  # of the first call, as `whole`

    def row(self) -> dict[str, float]:
        return {"host ms": self.host, "ms": self.whole, "first ms": self.first}


class DeviceClock:
    """On a CPU nothing is recorded, and there is no memory to speak of."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_gpu = device, device.type == "cuda"
        self.runner: Runner = CudaRunner(device) if self.on_gpu else EagerRunner()

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def time(self, call: Callable[[], object], repeats: int) -> CallTime:
        host, whole, first = [], [], 0.0
        for at in range(WARM_UPS + repeats):
            self.wait()
            began = perf_counter()
            call()
            returned = perf_counter()
            self.wait()
            ended = perf_counter()
            first = first or (ended - began) * 1e3
            if at >= WARM_UPS:
                host.append((returned - began) * 1e3)
                whole.append((ended - began) * 1e3)
        return CallTime(median(host), median(whole), first)

    def kernel(self, call: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
        """Milliseconds of the first call, as `CallTime.first`, and of what the device then does.

        On a GPU without launching it and waiting for it, which may take longer.
        """
        taken = self.time(call, 1 if self.on_gpu else repeats)
        if not self.on_gpu:
            return taken.first, taken.whole
        return taken.first, attention_probe.device_ms(call, self.device)

    def rate(self, call: Callable[[], object], count: int) -> CallTime:
        """One of many calls in a row, which the device may do while the host goes on."""
        first = self.time(call, 1).first
        self.wait()
        began = perf_counter()
        for _ in range(count):
            call()
        returned = perf_counter()
        self.wait()
        each = 1e3 / count
        return CallTime((returned - began) * each, (perf_counter() - began) * each, first)

    def memory(self) -> dict[str, float]:
        """GiB that tensors take, that PyTorch holds, and the most that tensors took."""
        if not self.on_gpu:
            return {}
        return {
            "allocated GiB": torch.cuda.memory_allocated(self.device) / GIB,
            "reserved GiB": torch.cuda.memory_reserved(self.device) / GIB,
            "peak GiB": torch.cuda.max_memory_allocated(self.device) / GIB,
        }

    def forget_peak(self) -> None:
        """Count the most that tensors take after this, and return what none of them holds."""
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
