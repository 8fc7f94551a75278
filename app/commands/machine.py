"""What this machine is: processor, memory, GPUs. Reports facts and judges nothing."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil

from sequoia_core.model.loading.memory_plan import size_text as size_text

_CPU_INFO = Path("/proc/cpuinfo")
_RAM = "RAM"
_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_FAST_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")


@dataclass(frozen=True, slots=True)
class Memory:
    """Where a pair would lie, and how many bytes there are in all."""

    place: str
    total: int

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU's."""
        return self.place != _RAM


def processor() -> str:
    """The maker's name of the processor; "unknown" where the kernel does not say."""
    match = re.search(r"^model name\s*:\s*(.*)$", _cpu_info(), re.MULTILINE)
    return match[1].strip() if match else "unknown"


def fast_cpu_flags() -> list[str]:
    """The instruction sets that decide the speed, best first."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", _cpu_info(), re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return [flag for flag in _FAST_FLAGS if flag in flags]


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[Memory]:
    """Every GPU that PyTorch sees. PyTorch is imported only where a driver is."""
    if not any(driver.exists() for driver in _GPU_DRIVERS):
        return []
    import torch

    found = (torch.cuda.get_device_properties(each) for each in range(torch.cuda.device_count()))
    return [Memory(properties.name, properties.total_memory) for properties in found]


def model_memory() -> Memory:
    """The first GPU's memory, or RAM where there is none."""
    return next(iter(gpus()), Memory(_RAM, psutil.virtual_memory().total))


def _cpu_info() -> str:
    try:
        return _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
