"""What this machine has: processor, memory, GPUs."""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from sequoia_core.model.cpu import cpu_info
from sequoia_core.model.loading.memory_plan import size_text as size_text

_RAM = "RAM"
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_FAST_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")


@dataclass(frozen=True, slots=True)
class Memory:
    """A place for a pair, and its size in bytes."""

    place: str
    total: int

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU's."""
        return self.place != _RAM


def processor() -> str:
    """The maker's name of the processor; "unknown" if the kernel does not say."""
    return cpu_info("model name") or "unknown"


def fast_cpu_flags() -> list[str]:
    """The instruction sets that decide the speed, best first."""
    flags = set(cpu_info("(?:flags|Features)").split())
    return [flag for flag in _FAST_FLAGS if flag in flags]


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[Memory]:
    """Every GPU that PyTorch sees. PyTorch is imported only if there is a driver."""
    if not any(driver.exists() for driver in _GPU_DRIVERS):
        return []
    import torch

    found = (torch.cuda.get_device_properties(each) for each in range(torch.cuda.device_count()))
    return [Memory(properties.name, properties.total_memory) for properties in found]


def model_memory() -> Memory:
    """The first GPU's memory, or RAM without one."""
    return next(iter(gpus()), Memory(_RAM, psutil.virtual_memory().total))
