"""How works are captured as CUDA graphs, by what is asked of a pretended `torch.cuda`."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import pytest
import torch

from sequoia_core.model.graphs import LEAST_RECORDINGS, CudaRunner, Graphs, Rung
from sequoia_core.model.loading.memory_plan import RECORDING_BYTES

DEVICE = torch.device("cuda", 1)
TAKEN = 3 << 20  # bytes by a capture


class Stream:
    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait_stream(self, other: "Stream") -> None:
        assert other.device == self.device


class Graph:
    """Nothing is captured."""

    def replay(self) -> None:
        """Nothing is computed."""


class Cuda:
    """Streams, devices and pools of memory as PyTorch 2.12 keeps them.

    Attributes:
        fails: the next capture ends with an error.
        recording: pools that captures are under way in, as the allocator sees it.
        used: pools of captures, in order.
        free: bytes; each capture takes some.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.main = Stream(DEVICE)
        self.stream, self.device = self.main, torch.device("cuda", 0)
        self.fails = False
        self.recording: list[int] = []
        self.used: list[int] = []
        self.free = 1 << 30
        numbers = count(1)
        patch.setattr(torch.cuda, "current_stream", lambda _device: self.stream)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: next(numbers))
        patch.setattr(torch.cuda, "Stream", Stream)
        patch.setattr(torch.cuda, "CUDAGraph", Graph)
        patch.setattr(torch.cuda, "stream", self.in_stream)
        patch.setattr(torch.cuda, "graph", self.graph)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (self.free, 1 << 40))
        patch.setattr(torch.cuda, "memory_reserved", lambda _: 500)
        patch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)

    @contextmanager
    def in_stream(self, stream: Stream) -> Iterator[None]:
        before = self.stream, self.device
        self.stream, self.device = stream, stream.device
        try:
            yield
        finally:
            self.stream, self.device = before

    @contextmanager
    def graph(
        self, graph: Graph, pool: int, stream: Stream, capture_error_mode: str
    ) -> Iterator[None]:
        assert self.device == DEVICE, "the device that is waited for is another one"
        assert capture_error_mode == "thread_local"
        assert isinstance(graph, Graph)
        assert self.stream is stream
        if pool in self.recording:
            raise RuntimeError("already recording to mempool_id")
        self.recording.append(pool)
        self.used.append(pool)
        self.free -= TAKEN
        try:
            yield
        finally:
            if self.fails:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.end(DEVICE.index, pool)

    def end(self, device: int, pool: int) -> None:
        assert device == DEVICE.index
        if pool not in self.recording:
            raise RuntimeError("not currently recording to mempool_id")
        self.recording.remove(pool)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    return Cuda(monkeypatch)


def works(cuda: Cuda) -> Any:
    """What fails in a capture only, if it does."""

    def work() -> int:
        if cuda.fails and cuda.recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        return 7

    return work


def test_recordings_share_a_pool_for_as_long_as_one_of_them_is_alive(cuda: Cuda) -> None:
    """PyTorch refuses a pool that all graphs have left."""
    runner = CudaRunner(DEVICE)
    first, second = (runner.record(works(cuda)) for _ in range(2))
    assert (first.replay(), second.outputs) == (7, 7)
    del first
    third = runner.record(works(cuda))
    assert cuda.used == [1, 1, 1]
    del second, third
    runner.record(works(cuda))
    assert cuda.used == [1, 1, 1, 2]
    assert cuda.stream is cuda.main
    assert cuda.device == torch.device("cuda", 0)


def test_a_failed_capture_leaves_the_next_rung_usable(cuda: Cuda) -> None:
    """The allocator does not go on as if it was under way, and the first error is named."""
    graphs = Graphs(CudaRunner(DEVICE), torch.device("cpu"))
    kept = graphs.recording("before", works(cuda))
    cuda.fails = True
    assert graphs.recording("loop", works(cuda), Rung.LOOPS) is None
    assert (cuda.recording, cuda.stream) == ([], cuda.main)
    cuda.fails = False
    assert graphs.recording("forward", works(cuda)) is not None
    assert kept is not None
    assert cuda.used == [1, 1, 2]
    assert (graphs.rung, len(graphs.notices)) == (Rung.FORWARDS, 1)
    assert "(operation not permitted when stream is capturing)" in graphs.notices[0]


def test_what_a_recording_takes_is_an_estimate_until_one_was_measured(cuda: Cuda) -> None:
    graphs = Graphs(CudaRunner(DEVICE), torch.device("cpu"))
    assert (graphs.recording_bytes, graphs.nbytes) == (RECORDING_BYTES, 0)
    for key in range(3):
        assert graphs.recording(key, works(cuda)) is not None
    assert (graphs.recording_bytes, graphs.nbytes) == (TAKEN, 3 * TAKEN)
    assert CudaRunner(DEVICE).free() == cuda.free + 300, "what PyTorch keeps is free for it as well"


def test_where_memory_is_full_fewer_recordings_are_kept_and_at_last_none(cuda: Cuda) -> None:
    graphs = Graphs(CudaRunner(DEVICE), torch.device("cpu"))
    for key in range(2 * LEAST_RECORDINGS):
        assert graphs.recording(key, works(cuda)) is not None
    cuda.free = TAKEN - 400  # with what PyTorch keeps not enough for one more
    assert graphs.recording("next", works(cuda)) is not None
    assert set(graphs.known) == {"next"}
    assert (graphs.rung, graphs.notices) == (Rung.LOOPS, ())
    cuda.free = 1 << 30
    for key in range(2 * LEAST_RECORDINGS):
        graphs.recording(key, works(cuda))
    assert set(graphs.known) == set(range(LEAST_RECORDINGS, 2 * LEAST_RECORDINGS))
    cuda.free = 0
    assert graphs.recording("next", works(cuda)) is None
    assert (graphs.rung, len(graphs.known)) == (Rung.EAGER, 0)
    assert "the memory is full" in graphs.notices[0]


def test_memory_that_ends_in_a_capture_leaves_this_work_unrecorded(cuda: Cuda) -> None:
    graphs = Graphs(CudaRunner(DEVICE), torch.device("cpu"))
    for key in range(2 * LEAST_RECORDINGS):
        graphs.recording(key, works(cuda))

    def full() -> None:
        if cuda.recording:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert graphs.recording("full", full) is None
    assert (graphs.rung, len(graphs.known)) == (Rung.LOOPS, 0)
    assert graphs.recording("next", works(cuda)) is not None


def test_what_is_recorded_over_memory_that_is_left_is_forgotten(cuda: Cuda) -> None:
    class Over(NamedTuple):
        leases: tuple[int, ...]

    graphs = Graphs(CudaRunner(DEVICE), torch.device("cpu"))
    keys = Over((1,)), Over((2, 1)), Over((2,)), "over none"
    for key in keys:
        graphs.recording(key, works(cuda))
    graphs.retired.append(1)
    graphs.recording("next", works(cuda))
    assert set(graphs.known) == {keys[2], "over none", "next"}
