"""Offloading to a CUDA device, as far as it can be seen without one; see `test_cuda_fake`.

The streams and events here keep a log, and the laws of the two buffers are checked in it.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from sequoia_core.config import Offload
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement
from sequoia_core.model.loading.weights import SafetensorsWeights, Weights
from sequoia_core.model.offload import model as offload_model
from sequoia_core.model.offload.model import (
    Buffer,
    GpuLoader,
    OffloadedLlama,
    layer_matrices,
    load_offloaded,
)
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
    loader = GpuLoader(host.host, buffers, host.close)
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


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[Buffer]:
    """The pinned buffers, which a build without CUDA cannot make."""
    made: list[Buffer] = []
    plain = offload_model.layer_buffer

    def layer_buffer(config: ModelConfig, dtype: torch.dtype, *place: Any, pinned: Any = 0) -> Any:
        buffer = plain(config, dtype, *place)
        if pinned:
            made.append(buffer)
        return buffer

    monkeypatch.setattr(offload_model, "layer_buffer", layer_buffer)
    return made


def offloaded(weights: Weights, offload: Offload, dtype: torch.dtype) -> OffloadedLlama:
    return load_offloaded(CONFIG, dtype, weights, Placement((CUDA,), offload))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_forward_passes_through_on_the_device(
    dtype: torch.dtype, in_main_memory: Weights, log: Log, pinned: list[Buffer]
) -> None:
    """With every layer in main memory: nothing is on a wrong device, and nothing is read back."""
    with FakeTensorMode(allow_non_fake_inputs=True), WithoutGuards():
        model = offloaded(in_main_memory, Offload.CPU, dtype)
        cache = model.new_cache()
        model.extend(torch.ones(40, dtype=torch.int64, device=CUDA), cache)
        row = torch.ones(1, dtype=torch.int64, device=CUDA)
        check(model.forward(row, row * 40, None, cache), 1, 61)
    assert len(pinned) == LAYERS
    assert ("compute", "wait", "arrived 0") in log.entries


def test_from_disk_two_buffers_of_main_memory_lie_between(
    on_disk: Weights, log: Log, pinned: list[Buffer], monkeypatch: pytest.MonkeyPatch
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
        lambda config, dtype, _device=None, **pinned: anywhere(config, dtype, **pinned),
    )
    offloaded(on_disk, Offload.DISK, torch.float32)
    assert len(pinned) == 2
    stream, buffers = made["stream"], made["buffers"]
    for layer in stream.iterate(range(LAYERS)):
        for name, place in layer_matrices(CONFIG, buffers[stream.slot], layer):
            assert torch.equal(place, on_disk[name])
    stream.close()
