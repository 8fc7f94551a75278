"""The devices and the number format that a pair computes in, and each device's share of a model."""

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.cpu import cpu_info, cpu_threads
from sequoia_core.model.tensor_names import layer_values, weight_values

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AMPERE = (8, 0)


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices of a target's layers, in order, and where the layers stay between their uses."""

    devices: tuple[torch.device, ...]  # the first has embedding, output head and the draft
    offload: Offload = Offload.NONE
    ranks: int = 1  # processes that divide every layer; `devices` is then that of rank 0
    layers: tuple[int, ...] = ()  # on each device; empty: as evenly as possible

    @property
    def device(self) -> torch.device:
        return self.devices[0]

    @property
    def is_one_cpu(self) -> bool:
        one = len(self.devices) == self.ranks == 1 and self.device.type == "cpu"
        return one and self.offload is Offload.NONE

    @property
    def name(self) -> str:
        """`cuda:0` of one device, `cuda:0+1` of several, `2 x cuda` of two processes."""
        if self.ranks > 1:
            return f"{self.ranks} x {self.device.type}"
        return devices_name(self.devices)


def torchrun_ranks() -> int | None:
    """How many processes torchrun has started, if it has started this one."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else None


def choose_placement(
    device: str = "auto", offload: Offload = Offload.NONE, ranks: int = 1
) -> Placement:
    """Raises ParameterError for what does not go together."""
    if ranks < 1:
        raise ParameterError(f"tensor_parallel is {ranks}; give 1, or how many processes compute")
    if (started := torchrun_ranks()) not in (None, ranks):
        raise ParameterError(
            f"tensor_parallel is {ranks}, but torchrun has started {started} processes; give the "
            "same number to both"
        )
    if ranks > 1:
        if offload is not Offload.NONE:
            raise ParameterError(
                f"tensor_parallel is {ranks}, which leaves no layers elsewhere; leave --offload out"
            )
        here = local_rank() if started else 0  # other launchers set it too
        return Placement((rank_device(device, 0, ranks, here),), offload, ranks)
    devices = choose_devices(device)
    if offload is not Offload.NONE and len(devices) > 1:
        raise ParameterError(
            f"offload is {offload.value}, which brings layers to one device, but "
            f"{len(devices)} devices are named; name one of them or leave --offload out"
        )
    if offload is Offload.CPU and devices[0].type == "cpu":
        raise ParameterError(
            "offload is cpu, but the model computes on the CPU, whose memory holds it anyway; "
            "give --offload disk, or leave it out"
        )
    return Placement(devices, offload)


def choose_device(name: str = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`. Raises ParameterError for others."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise ParameterError(f"device is {name!r}; give auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ParameterError(f"device is {name!r}, but PyTorch sees no GPU here; give auto or cpu")
    index, count = int(match[1] or 0), torch.cuda.device_count()
    if index >= count:
        raise ParameterError(
            f"device is {name!r}, but the GPUs here are cuda:0 to cuda:{count - 1}"
        )
    return torch.device("cuda", index)


def choose_devices(name: str = "auto") -> tuple[torch.device, ...]:
    """One device as in `choose_device`, or several; the CPU may be named more than once."""
    if "," not in name:
        return (choose_device(name),)
    parts = [part.strip() for part in name.split(",")]
    if any(not re.fullmatch(r"cpu|cuda(:\d+)?", part) for part in parts):
        raise ParameterError(
            f"device is {name!r}; give auto, cpu, cuda or cuda:N, or several GPUs as in "
            "cuda:0,cuda:1"
        )
    devices = tuple(map(choose_device, parts))
    if len({device.type for device in devices}) > 1:
        raise ParameterError(
            f"device is {name!r}, but a model lies on GPUs or on the CPU; for layers in main "
            "memory next to a GPU give one device and --offload cpu"
        )
    twice = [part for at, part in enumerate(parts) if devices[at] in devices[:at]]
    if twice and devices[0].type == "cuda":
        raise ParameterError(f"device is {name!r}, which names {twice[0]} twice; name it once")
    return devices


def local_rank() -> int:
    """This process's number on its machine, where torchrun or rank 0 has started it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank_device(name: str, rank: int, ranks: int, on_machine: int = 0) -> torch.device:
    """A rank's device: of a list its own entry, of `auto` and `cuda` the GPU of its number.

    Raises ParameterError if there are too few.
    """
    if "," in name:
        devices = choose_devices(name)
        if len(devices) != ranks:
            raise ParameterError(
                f"tensor_parallel is {ranks}, but {len(devices)} devices are named; name {ranks}, "
                "or leave --device out"
            )
        return devices[rank]
    if choose_device(name).type == "cpu":
        return torch.device("cpu")
    if ":" in name:
        raise ParameterError(
            f"tensor_parallel is {ranks}, but one GPU is named; name {ranks}, or leave --device out"
        )
    here = os.environ.get("LOCAL_WORLD_SIZE") if torchrun_ranks() else None
    needed, count = int(here or ranks), torch.cuda.device_count()
    if needed > count:
        raise ParameterError(
            f"tensor_parallel is {ranks}, but the GPUs here are {count}; give {count}, or "
            "--device cpu"
        )
    return torch.device("cuda", on_machine)


def devices_name(devices: Sequence[torch.device]) -> str:
    """`cuda:0` of one, `cuda:0+1` of several of a type."""
    first, *others = devices
    return "+".join([str(first), *(str(each).removeprefix("cuda:") for each in others)])


def choose_dtype(
    name: str, devices: Sequence[torch.device], stored: torch.dtype | None = None
) -> torch.dtype:
    """The number format called `auto`, `float32`, `bfloat16` or `float16`.

    `auto` is the format that the target's checkpoint is stored in. If the devices are slow in it,
    or it is unknown, it is bfloat16 where the hardware multiplies that (Ampere and later, CPUs with
    AMX or AVX512-BF16), else float16 on a GPU and float32 on a CPU. CPUs are slow in float16
    (docs/decisions/0040).
    """
    if name == "auto":
        on_gpu, preferred = devices[0].type == "cuda", _preferred_dtype(devices)
        fast = {torch.float32, preferred, *([torch.float16] if on_gpu else [])}
        return stored if stored in fast else preferred
    if name not in DTYPES:
        raise ParameterError(f"dtype is {name!r}; give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _preferred_dtype(devices: Sequence[torch.device]) -> torch.dtype:
    if devices[0].type == "cuda":
        ampere = min(map(torch.cuda.get_device_capability, devices)) >= AMPERE
        return torch.bfloat16 if ampere else torch.float16
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def cpu_multiplies_bfloat16() -> bool:
    """By PyTorch's own look at the CPU, which later versions show; else by the kernel's table."""
    look = getattr(torch.cpu, "get_capabilities", None)
    found = look() if look else dict.fromkeys(cpu_info("flags").split(), True)
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def prepare(devices: Sequence[torch.device]) -> None:
    """Set PyTorch's options for GPUs, for the whole process; on CPUs do nothing."""
    if devices[0].type != "cuda":
        return
    torch.cuda.set_device(devices[0])
    torch.cuda.empty_cache()  # what another pair left counts as free
    # sums in float32 depend less on the number of rows
    torch.set_float32_matmul_precision("highest")
    products = torch.backends.cuda.matmul
    products.allow_fp16_reduced_precision_reduction = False
    products.allow_bf16_reduced_precision_reduction = False
    if hasattr(products, "allow_fp16_accumulation"):  # from PyTorch 2.7 on
        products.allow_fp16_accumulation = False
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a plan for every new shape


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # not needed by what runs with torch alone

    return int(psutil.virtual_memory().available)


def free_before_loading(device: torch.device) -> int:
    """Bytes, if all that this process takes of a GPU are the pair's."""
    held = torch.cuda.memory_reserved(device) if device.type == "cuda" else 0
    return free_bytes(device) + held


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """The maker's name of the GPU or CPU, for reports and as a key of measured times."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = cpu_info("model name") or platform.processor() or platform.machine()
    return f"{name}, {cpu_threads()} threads"


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers of a model on one device. What is in no layer is on the first device."""

    device: torch.device
    layers: range
    values: int  # numbers of all weights there


def even_stages(
    config: ModelConfig, devices: Sequence[torch.device], other_values: int = 0
) -> tuple[Stage, ...]:
    """Divide a model among devices so that the fullest, and then the next, holds least.

    Every device but the first holds a layer at least; the first also holds `other_values` numbers
    of other models.
    """
    count, others = config.num_layers, len(devices) - 1
    if count < len(devices):
        raise ParameterError(
            f"the target has {count} layers, too few for the {len(devices)} devices named; "
            "name fewer of them"
        )
    layer = layer_values(config)
    outside = weight_values(config) - count * layer

    def shares_of(first: int) -> list[int]:
        return [first, *((count - first + at) // others for at in reversed(range(others)))]

    def fullest_first(first: int) -> list[int]:
        on_first, *on_others = (layer * share for share in shares_of(first))
        return sorted([other_values + outside + on_first, *on_others], reverse=True)

    least = 0 if others else count
    shares = shares_of(min(range(least, count - others + 1), key=fullest_first))
    return _stages(config, devices, shares)


def placed_stages(
    config: ModelConfig, placement: Placement, other_values: int = 0
) -> tuple[Stage, ...]:
    """The placement's layers on each of its devices; see `even_stages`."""
    if placement.layers:
        return _stages(config, placement.devices, placement.layers)
    return even_stages(config, placement.devices, other_values)


def _stages(
    config: ModelConfig, devices: Sequence[torch.device], shares: Sequence[int]
) -> tuple[Stage, ...]:
    """So many layers on each device, in order."""
    layer = layer_values(config)
    outside = weight_values(config) - config.num_layers * layer
    starts = accumulate(shares, initial=0)
    return tuple(
        Stage(device, range(start, start + share), layer * share + (0 if at else outside))
        for at, (device, start, share) in enumerate(zip(devices, starts, shares, strict=False))
    )


def moved(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. The host does not wait for the copy."""
    return x if x.device == device else x.to(device, non_blocking=True)
