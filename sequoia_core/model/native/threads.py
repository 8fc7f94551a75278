"""How many threads compute: one per physical core that this process may use."""

import os
from pathlib import Path

import torch

SYSTEM = Path("/")


def compute_threads(system: Path = SYSTEM) -> int:
    """Threads of a forward on this machine.

    At most one per physical core of the affinity mask, since two threads of a core share its
    vector units; at most the whole cores of a cgroup's quota, what is left of it being for the
    screen; and at most PyTorch's threads. `OMP_NUM_THREADS` sets the number.

    Args:
        system: where `proc` and `sys` lie.
    """
    asked = torch.get_num_threads()
    if os.environ.get("OMP_NUM_THREADS"):
        return asked
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    limits = (physical_cores(cpus, system), quota_cores(system), asked)
    return max(1, min(each for each in limits if each is not None))


def physical_cores(cpus: set[int], system: Path = SYSTEM) -> int | None:
    """Cores that the given processors are threads of; None where the system does not say."""
    if not cpus:
        return None
    cores = set()
    for cpu in cpus:
        topology = system / f"sys/devices/system/cpu/cpu{cpu}/topology"
        cores.add(_text(topology / "thread_siblings_list") or f"cpu {cpu}")
    return len(cores)


def quota_cores(system: Path = SYSTEM) -> int | None:
    """Whole cores of CPU time that a cgroup leaves this process; None without a limit."""
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
        # a group inside a container has a path that only the host sees; its own is the root
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
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None
