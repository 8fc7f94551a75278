"""Which device and number format to compute in. Knows nothing of models.

`auto` takes a GPU where there is one, and the number format that a checkpoint is stored in where
the device is fast in it; see `choose_dtype`.
"""

import platform
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import psutil
import torch

from sequoia_core.errors import ParameterError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AMPERE = (8, 0)
CPU_INFO = Path("/proc/cpuinfo")


def choose_device(name: str = "auto") -> torch.device:
    """The device called `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ParameterError: another name, or a GPU that PyTorch does not see.
    """
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
    """One device as `choose_device` takes it, or several, separated by commas.

    A CPU may be named more than once, which only divides the work: a way to see whether it can be.

    Raises:
        ParameterError: another name, a GPU that PyTorch does not see or that is named twice, or
            CPU and GPU in one list.
    """
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
            "memory beside a GPU give one device and --offload cpu"
        )
    twice = [part for at, part in enumerate(parts) if devices[at] in devices[:at]]
    if twice and devices[0].type == "cuda":
        raise ParameterError(f"device is {name!r}, which names {twice[0]} twice; name it once")
    return devices


def devices_name(devices: Sequence[torch.device]) -> str:
    """`cuda:0` of one, `cuda:0+1` of several of a type."""
    first, *others = devices
    return "+".join(
        [str(first), *(str(each if each.index is None else each.index) for each in others)]
    )


def choose_dtype(
    name: str,
    device: torch.device,
    others: Sequence[torch.device] = (),
    stored: torch.dtype | None = None,
) -> torch.dtype:
    """The number format called `auto`, `float32`, `bfloat16` or `float16`.

    `auto` is the format that the checkpoint is stored in. Where the device is slow in that one, or
    nothing is known of it, it is the device's own: bfloat16 where the hardware multiplies it
    (Ampere and later, CPUs with AMX or AVX512-BF16), else float16 on a GPU and float32 on a CPU.
    CPUs are slow in float16 (docs/decisions/0040).

    Args:
        name: of the format.
        device: where it is computed.
        others: where else.
        stored: of the target's weights on disk.

    Raises:
        ParameterError: another name.
    """
    if name == "auto":
        own = _own_dtype(device, others)
        # every device computes float32, and a GPU float16
        well = {torch.float32, own} | ({torch.float16} if device.type == "cuda" else set())
        return stored if stored in well else own
    if name not in DTYPES:
        raise ParameterError(f"dtype is {name!r}; give auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _own_dtype(device: torch.device, others: Sequence[torch.device]) -> torch.dtype:
    """The format of 16 bits that the devices multiply fast; float32 on a CPU without one."""
    if device.type == "cuda":
        ampere = min(map(torch.cuda.get_device_capability, (device, *others))) >= AMPERE
        return torch.bfloat16 if ampere else torch.float16
    return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32


def prepare(devices: Sequence[torch.device]) -> None:
    """Make PyTorch compute on GPUs as the engine wants it; on CPUs there is nothing to do.

    For the whole process: sums of products stay in float32, so that they depend less on the number
    of rows, and cuDNN's attention is off, which builds a plan for every new shape.
    """
    if devices[0].type != "cuda":
        return
    torch.cuda.set_device(devices[0])
    torch.set_float32_matmul_precision("highest")
    products = torch.backends.cuda.matmul
    products.allow_fp16_reduced_precision_reduction = False
    products.allow_bf16_reduced_precision_reduction = False
    products.allow_fp16_accumulation = False
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.bfloat16` -> `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has AMX or AVX512-BF16."""
    # not in PyTorch's public interface, so an absent probe means asking the kernel instead
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    answers = [getattr(torch.cpu, probe)() for probe in probes if hasattr(torch.cpu, probe)]
    if answers:
        return any(answers)
    return bool({"avx512_bf16", "amx_bf16"} & set(_cpu_info("flags").split()))


def device_name(device: torch.device) -> str:
    """The maker's name of the GPU or CPU, for reports and for keys of measured figures."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    return f"{name}, {cpu_threads()} threads"


@lru_cache(maxsize=1)
def cpu_threads() -> int:
    """Threads that a forward on a CPU is computed with: as many as PyTorch began with.

    The native library takes them over, and leaves PyTorch one.
    """
    return torch.get_num_threads()


def _cpu_info(entry: str) -> str:
    """First value of an entry of the kernel's CPU table; "" where there is none."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    match = re.search(rf"^{entry}\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""
