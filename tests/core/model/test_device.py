"""Devices, placements and number formats are chosen by what the machine has."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.model import cpu
from sequoia_core.model import device as device_module
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.device import (
    Placement,
    choose_device,
    choose_devices,
    choose_dtype,
    choose_placement,
    cpu_multiplies_bfloat16,
    device_name,
    devices_name,
    dtype_name,
    prepare,
)

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
CPU_INFO = "processor\t: 0\nmodel name\t: Fast CPU 9000\nflags\t\t: fpu sse {}\n"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel table to fill in."""
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # as before PyTorch had it
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("auto", "cuda:0"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")],
)
def test_with_gpus(name: str, expected: str, two_gpus: None) -> None:
    assert str(choose_device(name)) == expected


@pytest.mark.parametrize(("name", "expected"), [("auto", "cpu"), ("cpu", "cpu")])
def test_without_a_gpu(name: str, expected: str, no_gpu: None) -> None:
    assert str(choose_device(name)) == expected


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_named(name: str, no_gpu: None) -> None:
    with pytest.raises(ParameterError, match=f"device is '{name}', but PyTorch sees no GPU"):
        choose_device(name)


def test_a_gpu_beyond_the_last_is_named(two_gpus: None) -> None:
    with pytest.raises(ParameterError, match="cuda:0 to cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:1:2", "CPU "])
def test_an_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="give auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_a_gpu_takes_bfloat16_from_ampere_on(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype("auto", (GPU,)) is expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_cpu_takes_bfloat16_where_it_multiplies_it(
    native: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "cpu_multiplies_bfloat16", lambda: native)
    assert dtype_name(choose_dtype("auto", (CPU,))) == expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_a_named_dtype_is_taken_as_it_is(name: str, device: torch.device) -> None:
    assert dtype_name(choose_dtype(name, (device,))) == name


@pytest.mark.parametrize("name", ["", "fp32", "int8", "Float32"])
def test_an_unknown_dtype_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match="give auto, float32, bfloat16, float16"):
        choose_dtype(name, (CPU,))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx2 avx512f amx_tile", False)],
)
def test_the_kernel_says_what_the_cpu_multiplies(
    flags: str, expected: bool, cpu_info: Path
) -> None:
    cpu_info.write_text(CPU_INFO.format(flags))
    assert cpu_multiplies_bfloat16() is expected


@pytest.mark.parametrize("found", [{"avx512_bf16": True}, {"avx512_bf16": False}, {}])
def test_pytorch_says_what_the_cpu_multiplies_where_it_looks(
    found: dict[str, bool], cpu_info: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_info.write_text(CPU_INFO.format("avx512_bf16"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert cpu_multiplies_bfloat16() is found.get("avx512_bf16", False)


def test_a_machine_without_a_kernel_table_counts_as_without(cpu_info: Path) -> None:
    assert not cpu_info.exists()
    assert cpu_multiplies_bfloat16() is False
    assert device_name(CPU).endswith("threads")


def test_a_cpu_is_called_by_its_makers_name(cpu_info: Path) -> None:
    cpu_info.write_text(CPU_INFO.format(""))
    assert device_name(CPU) == f"Fast CPU 9000, {cpu_threads()} threads"


def test_a_gpu_is_called_by_its_makers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Fast GPU 9000")
    assert device_name(GPU) == "Fast GPU 9000"


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("device", "native", "stored", "expected"),
    [
        (GPU, True, F16, F16),
        (GPU, True, BF16, BF16),
        (GPU, True, F32, F32),
        (GPU, True, None, BF16),
        (GPU, False, BF16, F16),
        (GPU, False, F16, F16),
        (CPU, True, F32, F32),
        (CPU, True, BF16, BF16),
        (CPU, True, F16, BF16),
        (CPU, False, BF16, F32),
        (CPU, False, F16, F32),
        (CPU, True, torch.float64, BF16),
    ],
)
def test_a_checkpoint_is_computed_as_it_is_stored_where_that_is_fast(
    device: torch.device,
    native: bool,
    stored: torch.dtype | None,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    capability = (9, 0) if native else (7, 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(device_module, "cpu_multiplies_bfloat16", lambda: native)
    assert choose_dtype("auto", (device,), stored=stored) is expected
    assert choose_dtype("float32", (device,), stored=stored) is F32


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Settings of PyTorch for the whole process are restored."""
    products, cuda = torch.backends.cuda.matmul, torch.backends.cuda
    names = [
        "allow_fp16_reduced_precision_reduction",
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_accumulation",
    ]
    before = {name: getattr(products, name) for name in names}
    precision, cudnn = torch.get_float32_matmul_precision(), torch._C._get_cudnn_sdp_enabled()
    yield
    for name, value in before.items():
        setattr(products, name, value)
    torch.set_float32_matmul_precision(precision)
    cuda.enable_cudnn_sdp(cudnn)


@pytest.mark.usefixtures("as_it_was")
def test_a_gpu_sums_in_full_and_plans_no_kernel_for_each_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    products = torch.backends.cuda.matmul
    products.allow_fp16_reduced_precision_reduction = True
    products.allow_bf16_reduced_precision_reduction = True
    torch.set_float32_matmul_precision("high")
    torch.backends.cuda.enable_cudnn_sdp(True)
    prepare((CPU,))
    assert not current
    assert torch._C._get_cudnn_sdp_enabled()
    prepare((torch.device("cuda", 1), GPU))
    assert current == [torch.device("cuda", 1)]
    assert products.allow_fp16_reduced_precision_reduction is False
    assert products.allow_bf16_reduced_precision_reduction is False
    assert products.allow_fp16_accumulation is False
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch._C._get_cudnn_sdp_enabled() is False


@pytest.mark.usefixtures("as_it_was")
def test_an_option_that_an_older_pytorch_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:  # PyTorch 2.6 raises for names that it does not know
        __slots__ = (
            "allow_bf16_reduced_precision_reduction",
            "allow_fp16_reduced_precision_reduction",
        )
        allow_bf16_reduced_precision_reduction: bool

    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.backends.cuda, "matmul", older := Older())
    prepare((GPU,))
    assert older.allow_bf16_reduced_precision_reduction is False


@pytest.mark.parametrize(
    ("name", "places", "written"),
    [
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"], "cuda:0+1"),
        ("cuda:1, cuda", ["cuda:1", "cuda:0"], "cuda:1+0"),
        ("cpu,cpu", ["cpu", "cpu"], "cpu+cpu"),
        ("cuda:1", ["cuda:1"], "cuda:1"),
        ("auto", ["cuda:0"], "cuda:0"),
        ("cpu", ["cpu"], "cpu"),
    ],
)
def test_devices_are_named_in_order(
    name: str, places: list[str], written: str, two_gpus: None
) -> None:
    devices = choose_devices(name)
    assert list(map(str, devices)) == places
    assert devices_name(devices) == written


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:0,cuda:2", "device is 'cuda:2', but the GPUs here are cuda:0 to cuda:1"),
        ("cuda:0,cuda", "names cuda twice"),
        ("cuda:1,cuda:0,cuda:1", "names cuda:1 twice"),
        ("cpu,cuda:0", "a model lies on GPUs or on the CPU"),
        ("auto,cuda:1", "give auto, cpu, cuda or cuda:N, or several GPUs as in cuda:0,cuda:1"),
        ("cuda:0,", "give auto"),
        (",", "give auto"),
        ("0,1", "give auto"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(name: str, message: str, two_gpus: None) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)) as caught:
        choose_devices(name)
    assert "\n" not in str(caught.value)


def test_gpus_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match="PyTorch sees no GPU here"):
        choose_devices("cuda:0,cuda:1")


@pytest.mark.parametrize(("older", "expected"), [((7, 5), torch.float16), ((8, 6), torch.bfloat16)])
def test_the_number_format_is_one_that_every_device_is_fast_in(
    older: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = [torch.device("cuda", index) for index in range(2)]
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: older if device.index else (9, 0)
    )
    assert choose_dtype("auto", devices) is expected
    assert choose_dtype("auto", devices[:1]) is torch.bfloat16


def test_an_offload_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"offload is cpu, .* give --offload disk") as caught:
        choose_placement("cpu", Offload.CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("offload", [Offload.NONE, Offload.DISK])
def test_other_offloads_of_a_cpu_are_placed(offload: Offload) -> None:
    assert choose_placement("cpu", offload) == Placement((CPU,), offload)


@pytest.mark.parametrize("offload", Offload)
def test_a_gpu_takes_every_offload(offload: Offload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "choose_devices", lambda _: (GPU,))
    assert choose_placement("cuda:0", offload) == Placement((GPU,), offload)
