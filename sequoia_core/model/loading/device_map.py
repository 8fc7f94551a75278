"""Where `--device auto` puts a target on a machine with GPUs, by accelerate's device map.

The map fills the GPUs one after the other, then main memory, then the disk. Our own forward moves
what has to be moved, so accelerate is given sizes alone.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from sequoia_core.config import Offload
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, free_bytes
from sequoia_core.model.loading.backend import Backend, config_of, pair_plans
from sequoia_core.model.loading.loader import Checkpoint
from sequoia_core.model.loading.memory_plan import MemoryPlan

DISK_BYTES = 1 << 60  # as good as no limit
CPU = torch.device("cpu")

Plans = Callable[[Placement], Mapping[torch.device, MemoryPlan]]
"""What each device must have room for, by where the layers of a target are."""


class SizedLayer(nn.Module):
    """A layer that has a size and no values."""

    def __init__(self, size: int) -> None:
        super().__init__()
        values = torch.empty(size, dtype=torch.uint8, device="meta")
        self.values = nn.Parameter(values, requires_grad=False)


def placed(
    backend: Backend,
    device: str,  # the setting
    target: Checkpoint | ModelConfig,
    draft: Checkpoint | ModelConfig | None,
    free: Callable[[torch.device], int] = free_bytes,
) -> Backend:
    """The backend with the place that `auto` means for a pair; other devices are those named."""
    now = backend.placement
    if device != "auto" or now.device.type != "cuda" or now != Placement((now.device,)):
        return backend
    others = range(1, torch.cuda.device_count())
    gpus = [now.device, *(torch.device("cuda", index) for index in others)]
    layers = config_of(target).num_layers

    def plans(placement: Placement) -> Mapping[torch.device, MemoryPlan]:
        # graphs, larger trees and resident layers get what is left
        planned = replace(backend, placement=placement, graphs=False)
        return pair_plans(target, draft, planned, lambda _: 0)

    return replace(backend, placement=auto_placement(plans, layers, gpus, free))


def auto_placement(
    plans: Plans,
    layers: int,  # of the target
    gpus: Sequence[torch.device],
    free: Callable[[torch.device], int] = free_bytes,
) -> Placement:
    """The first GPU if the pair fits there; else several, or one and main memory or the disk.

    Several GPUs are taken to keep the whole context window, main memory and the disk only to keep
    the least. If nothing has room it is the first GPU, which loading then refuses.
    """
    first = Placement((gpus[0],))
    alone, have = plans(first)[gpus[0]], free(gpus[0])
    for context in (alone.window, alone.least_context):
        if alone.needed(context) <= have:
            return first
        if len(gpus) > 1 and (spread := _spread(plans, layers, gpus, context, free)):
            return spread
    return _offloaded(plans, layers, gpus[0], free) or first


def _spread(
    plans: Plans,
    layers: int,
    gpus: Sequence[torch.device],
    context: int,
    free: Callable[[torch.device], int],
) -> Placement | None:
    """On as few GPUs as hold the layers with so much context; None if all of them do not."""
    size, room = 0, {}
    for at, gpu in enumerate(gpus):
        # with no layer and with one, which differ by what a layer takes
        none, one = (plans(_on_two(gpus, at, count, layers))[gpu] for count in (0, 1))
        size = one.needed(context) - none.needed(context)
        room[at] = free(gpu) - none.needed(context)
    found = _device_map(layers, size, room, main_memory=0)
    used = [at for at in range(len(gpus)) if found[at] or at == 0]
    counts = tuple(found[at] for at in used)
    if sum(counts) < layers:
        return None
    return Placement(tuple(gpus[at] for at in used), layers=counts)


def _on_two(gpus: Sequence[torch.device], at: int, count: int, layers: int) -> Placement:
    """So many layers on one of the GPUs and the others on another."""
    counts = [0] * len(gpus)
    counts[at], counts[at - 1] = count, layers - count
    return Placement(tuple(gpus), layers=tuple(counts))


def _offloaded(
    plans: Plans, layers: int, gpu: torch.device, free: Callable[[torch.device], int]
) -> Placement | None:
    """Layers that the GPU has no room for in main memory, if that has, else on the disk."""
    placement = Placement((gpu,), Offload.CPU)
    plan, have = plans(placement)[gpu], free(gpu)
    if plan.least > have:
        return None
    needed = next(
        needed for context in (plan.window, plan.least_context)
        if (needed := plan.needed(context)) <= have
    )  # fmt: skip
    found = _device_map(layers, plan.layer, {0: have - needed}, free(CPU))
    return replace(placement, offload=Offload.DISK) if found["disk"] else placement


def _device_map(
    layers: int, size: int, room: Mapping[int, int], main_memory: int
) -> Counter[int | str]:
    """How many layers of so many bytes lie on each GPU, which have room, on `cpu` and on `disk`."""
    from accelerate.utils import infer_auto_device_map

    places: Mapping[str, int | str] = infer_auto_device_map(
        nn.ModuleList(SizedLayer(size) for _ in range(layers)),
        {at: max(bytes_, 0) for at, bytes_ in room.items()}
        | {"cpu": main_memory, "disk": DISK_BYTES},
        [SizedLayer.__name__],
        clean_result=False,
    )
    return Counter(places.values())
