"""The CPU: the kernel's table of it, and how many threads compute. Loads no torch when imported."""

import os
import platform
import re
from functools import lru_cache
from pathlib import Path

CPU_INFO, SYSTEM = Path("/proc/cpuinfo"), Path("/")


def cpu_info(entry: str) -> str:
    """First value of an entry of the kernel's CPU table, a regular expression; "" if missing."""
    match = re.search(rf"^(?:{entry})\s*:\s*(.*)$", _text(CPU_INFO) or "", re.MULTILINE)
    return match[1].strip() if match else ""


def processor_name() -> str:
    """The maker's name of the processor, without the signs of its trade marks."""
    name = cpu_info("model name") or platform.processor() or platform.machine()
    return re.sub(r"\((?:R|TM)\)| CPU\b| Processor\b", "", name).strip()


@lru_cache(maxsize=1)
def cpu_threads() -> int:
    """`compute_threads` at the first call: the native library leaves PyTorch one thread later."""
    return compute_threads()


def compute_threads(system: Path = SYSTEM) -> int:
    """Threads of a forward on this machine, whose `proc` and `sys` are below `system`.

    At most one per physical core, since two threads of a core share its vector units; at most the
    whole cores of a cgroup's quota; and at most PyTorch's threads. `OMP_NUM_THREADS` overrides the
    first two.
    """
    import torch

    most = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return most
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    limits = (physical_cores(cpus, system), quota_cores(system), most)
    return max(1, min(each for each in limits if each is not None))


def physical_cores(cpus: set[int], system: Path = SYSTEM) -> int | None:
    """Number of cores that the processors belong to; None where the system does not say."""
    folder = system / "sys/devices/system/cpu"
    siblings = (folder / f"cpu{cpu}/topology/thread_siblings_list" for cpu in cpus)
    return len({_text(file) or file for file in siblings}) or None


def quota_cores(system: Path = SYSTEM) -> int | None:
    """Whole cores of CPU time that cgroups allow this process; None without a limit."""
    found = []
    for line in (_text(system / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, read = system / "sys/fs/cgroup", _quota_v2
        elif "cpu" in controllers.split(","):
            root, read = system / "sys/fs/cgroup/cpu", _quota_v1
        else:
            continue
        group = root / path.lstrip("/")
        # a container sees the host's path of its group, but its files at the root
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (cores := read(folder)) is not None:
                found.append(cores)
    return max(1, int(min(found))) if found else None


def _quota_v2(folder: Path) -> float | None:
    quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")
    return None if quota == "max" else int(quota) / int(period or 100_000)


def _quota_v1(folder: Path) -> float | None:
    quota = int(_text(folder / "cpu.cfs_quota_us") or -1)
    return None if quota <= 0 else quota / int(_text(folder / "cpu.cfs_period_us") or 100_000)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
