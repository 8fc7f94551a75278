"""Offloading to a CUDA device, as far as it can be seen without one; see `test_cuda_fake`.

The streams and events here keep a log, and the laws of the two buffers are checked in it.
"""

import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sequoia_core.config import Offload
from sequoia_core.errors import MemoryFullError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement
from sequoia_core.model.loading.weights import SafetensorsWeights, Weights
from sequoia_core.model.offload import model as offload_model
from sequoia_core.model.offload.model import (
    Buffer,
    GpuLoader,
    OffloadedLlama,
    layer_buffer,
    layer_bytes,
    layer_matrices,
    load_offloaded,
)
from sequoia_core.model.offload.pinned import PinnedMemory
from tests.core.model.test_cuda_fake import CUDA, WithoutGuards, check
from tests.core.models import random_weights, tiny_config

Given = ParamSpec("Given")
Result = TypeVar("Result")

LAYERS = 3


@dataclass
class Log:
    """What was issued, in order: (stream, verb, event or slot)."""

    entries: list[tuple[str, str, str]] = field(default_factory=list)
    current: str = "compute"
    events: int = 0


class Event:
    """Named after its turn: the first two say that a slot's copy arrived, the others free it."""

    def __init__(self, log: Log) -> None:
        self.name = f"{'free' if log.events > 1 else 'arrived'} {log.events % 2}"
        self._log = log
        log.events += 1

    def record(self, stream: "Stream") -> None:
        self._log.entries.append((stream.name, "record", self.name))

    def synchronize(self) -> None:
        self._log.entries.append(("host", "wait", self.name))


class Stream:
    def __init__(self, log: Log, name: str) -> None:
        self._log, self.name = log, name

    def wait_event(self, event: Event) -> None:
        self._log.entries.append((self.name, "wait", event.name))

    def synchronize(self) -> None:
        self._log.entries.append(("host", "wait", self.name))


class SameThread(Executor):
    """Does at once what it is given: fake tensors exist in the thread that made them only."""

    def __init__(self, _workers: int, _name: str) -> None:
        pass

    def submit(
        self, fn: Callable[Given, Result], /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        log.current, before = stream.name, log.current
        yield
        log.current = before

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: Stream(log, "copies"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream(log, log.current))
    monkeypatch.setattr(torch.cuda, "Event", lambda: Event(log))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(offload_model, "ThreadPoolExecutor", SameThread)
    return log


class Host:
    """Layers of zeros in main memory."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def host(self, layer: int, slot: int) -> Buffer:
        self._log.entries.append(("host", "take", f"{layer} {slot}"))
        return {"down": torch.zeros(2, 4)}

    def close(self) -> None:
        self._log.entries.append(("host", "close", ""))


def test_a_copy_waits_for_the_computation_and_the_computation_for_the_copy(log: Log) -> None:
    host, buffers = Host(log), [{"down": torch.ones(2, 4)} for _ in range(2)]
    loader = GpuLoader(host.host, buffers, (host.close,))
    stream = offload_model.LayerStream(loader, LAYERS)
    for _ in range(2):
        for layer in stream.iterate(range(LAYERS)):
            log.entries.append((log.current, "compute", f"{layer} {stream.slot}"))
    stream.close()
    issued = log.entries
    for at, (place, verb, what) in enumerate(issued):
        if verb == "compute":  # after its arrival, and its buffer is freed right afterwards
            assert place == "compute"
            slot = what[-1]
            assert issued[at - 1] == ("compute", "wait", f"arrived {slot}")
            assert issued[at + 1] == ("compute", "record", f"free {slot}")
        if verb == "take":  # the buffer of main memory is free, then that of the GPU
            slot = what[-1]
            assert issued[at - 1] == ("host", "wait", f"arrived {slot}")
            assert issued[at + 1] == ("copies", "wait", f"free {slot}")
            assert issued[at + 2] == ("copies", "record", f"arrived {slot}")
    computed = [what for _, verb, what in issued if verb == "compute"]
    taken = [what for _, verb, what in issued if verb == "take"]
    assert computed == ["0 0", "1 1", "2 0", "0 1", "1 0", "2 1"]
    assert taken == [*computed, "0 0", "1 1"], "and the next pass's first layers are on their way"
    assert issued[-2:] == [("host", "wait", "copies"), ("host", "close", "")]


def test_what_arrives_is_what_was_sent(log: Log) -> None:
    buffers = [{"down": torch.ones(2, 4)} for _ in range(2)]
    GpuLoader(Host(log).host, buffers).load(0, 1)
    assert buffers[0]["down"].sum() == 8
    assert buffers[1]["down"].sum() == 0


@pytest.fixture
def in_main_memory() -> Weights:
    return Weights(random_weights(CONFIG, 0), "memory")


@pytest.fixture
def on_disk(tmp_path: Path) -> Weights:
    save_file(random_weights(CONFIG, 0), tmp_path / "a.safetensors")
    return SafetensorsWeights([tmp_path / "a.safetensors"])


CONFIG = tiny_config(num_layers=LAYERS, context_window=1024)


class PlainMemory:
    """Blocks of ordinary memory: fake ones have no address that could be locked."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.closed = False

    def block(self, size: int) -> Tensor:
        assert not self.closed
        self.sizes.append(size)
        return torch.empty(size, dtype=torch.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> PlainMemory:
    """What a model takes of page-locked memory."""
    memory = PlainMemory()
    monkeypatch.setattr(offload_model, "PinnedMemory", lambda: memory)
    return memory


def offloaded(
    weights: Weights, offload: Offload, dtype: torch.dtype, resident: int = 0
) -> OffloadedLlama:
    placement = Placement((CUDA,), offload)
    return load_offloaded(CONFIG, dtype, weights, placement, resident=resident)


@pytest.mark.parametrize("resident", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_forward_passes_through_on_the_device(
    dtype: torch.dtype, resident: int, in_main_memory: Weights, log: Log, locked: PlainMemory
) -> None:
    """With layers in main memory: nothing is on a wrong device, and nothing is read back."""
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutGuards():
        model = offloaded(in_main_memory, Offload.CPU, dtype, resident)
        cache = model.new_cache()
        model.extend(torch.ones(600, dtype=torch.int64, device=CUDA), cache)
        row = torch.ones(1, dtype=torch.int64, device=CUDA)
        check(model.forward(row, row * 600, None, cache), 1, 61)
    assert locked.sizes == [layer_bytes(CONFIG, dtype)] * (LAYERS - resident)
    assert ("compute", "wait", "arrived 0") in log.entries
    model.layer_stream.close()
    assert locked.closed


def test_from_disk_two_buffers_of_main_memory_lie_between(
    on_disk: Weights, log: Log, locked: PlainMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they hold reaches the buffers of the device, which stands on the CPU here."""
    made: dict[str, Any] = {}

    def keep(_config: ModelConfig, _weights: Weights, stream: Any, buffers: Any, *_: Any) -> None:
        made.update(stream=stream, buffers=buffers)

    monkeypatch.setattr(offload_model, "OffloadedLlama", keep)
    anywhere = offload_model.layer_buffer
    monkeypatch.setattr(
        offload_model,
        "layer_buffer",
        lambda config, dtype, _device=None, **memory: anywhere(config, dtype, **memory),
    )
    offloaded(on_disk, Offload.DISK, torch.float32)
    assert locked.sizes == [layer_bytes(CONFIG, torch.float32)] * 2
    stream, buffers = made["stream"], made["buffers"]
    for layer in stream.iterate(range(LAYERS)):
        for name, place in layer_matrices(CONFIG, buffers[stream.slot], layer):
            assert torch.equal(place, on_disk[name])
    stream.close()
    assert locked.closed


class Runtime:
    """Registers ranges of memory as CUDA does: by pages, none twice."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.ranges: dict[int, int] = {}
        self.most = most
        self.last_error = 0

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        assert flags == 1
        assert address % mmap.PAGESIZE == size % mmap.PAGESIZE == 0
        if sum(self.ranges.values()) + size > self.most:
            self.last_error = 2  # cudaErrorMemoryAllocation
            return self.last_error
        assert all(
            address + size <= first or first + length <= address
            for first, length in self.ranges.items()
        ), "a page is locked twice"
        self.ranges[address] = size
        return 0

    def cudaGetLastError(self) -> int:  # noqa: N802
        found, self.last_error = self.last_error, 0
        return found

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.ranges[address]
        return 0


def with_runtime(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> PinnedMemory:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    return PinnedMemory()


@pytest.mark.parametrize("size", [1, mmap.PAGESIZE, 5 * mmap.PAGESIZE + 3, (1 << 20) + 8])
def test_memory_is_locked_to_the_page(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the next power of two."""
    runtime = Runtime()
    memory = with_runtime(runtime, monkeypatch)
    blocks = [memory.block(size) for _ in range(3)]
    for at, block in enumerate(blocks):
        block.fill_(at)
        assert block.data_ptr() in runtime.ranges
        assert len(block) == size <= runtime.ranges[block.data_ptr()] < size + mmap.PAGESIZE
    assert [int(block[-1]) for block in blocks] == [0, 1, 2]
    memory.close()
    assert not runtime.ranges
    memory.close()


def test_a_layer_lies_in_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = with_runtime(Runtime(), monkeypatch)
    buffer, like = (
        layer_buffer(CONFIG, torch.bfloat16, memory=memory),
        layer_buffer(CONFIG, torch.bfloat16),
    )
    assert {kind: part.shape for kind, part in buffer.items()} == {
        kind: part.shape for kind, part in like.items()
    }
    for at, part in enumerate(buffer.values()):
        part.fill_(at)
    assert [float(part.mean()) for part in buffer.values()] == [0.0, 1.0, 2.0, 3.0]
    memory.close()


@pytest.mark.parametrize("offload", [Offload.CPU, Offload.DISK])
def test_memory_that_cannot_be_locked_is_a_line_and_is_given_back(
    offload: Offload, on_disk: Weights, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(most=layer_bytes(CONFIG, torch.float32) + mmap.PAGESIZE)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    anywhere = offload_model.layer_buffer
    monkeypatch.setattr(
        offload_model,
        "layer_buffer",
        lambda config, dtype, _device=None, **memory: anywhere(config, dtype, **memory),
    )
    with pytest.raises(MemoryFullError, match=r"cannot be locked .* --offload disk") as caught:
        offloaded(on_disk, offload, torch.float32)
    assert "\n" not in str(caught.value)
    assert not runtime.ranges
    assert runtime.last_error == 0, "the next kernel would be said to have failed"
