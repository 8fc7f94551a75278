"""The memory that a loaded pair takes, as it is now."""

import resource
from collections import Counter
from collections.abc import Iterable, Mapping

import torch

from sequoia_core.events import DeviceMemory, MemoryUse
from sequoia_core.model.device import free_bytes
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.interface import KVCache, SizedCache

KIB = 1 << 10  # `ru_maxrss` counts in it


def memory_use(
    weights: Mapping[torch.device, int], caches: Iterable[KVCache], graphs: Graphs | None
) -> MemoryUse:
    """Of each device on which there are weights, the first with what is recorded."""
    used, reserved = Counter[torch.device](), Counter[torch.device]()
    for cache in caches:
        if isinstance(cache, SizedCache):
            for device, (of_tokens, of_all) in cache.held_bytes().items():
                used[device] += of_tokens
                reserved[device] += of_all
    recordings = graphs.nbytes if graphs else 0
    devices = tuple(
        DeviceMemory(
            device=str(device),
            weights=size,
            cache_used=used[device],
            cache_reserved=reserved[device],
            recordings=0 if at else recordings,
            peak=_peak(device),
            free=free_bytes(device),
        )
        for at, (device, size) in enumerate(weights.items())
    )
    return MemoryUse(devices)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
