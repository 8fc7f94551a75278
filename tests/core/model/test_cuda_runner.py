"""How graphs share memory on a device, with an allocator that is as strict as PyTorch's."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sequoia_core.model.graphs import CudaRunner

Pool = tuple[int, int]


class Allocator:
    """Counts the graphs of each pool; a pool that has lost all of them is never used again."""

    def __init__(self) -> None:
        self.graphs = Counter[Pool]()
        self.handles = count(1)

    @contextmanager
    def capture(self, graph: object, pool: Pool, *_: Any, **__: Any) -> Iterator[None]:
        if pool in self.graphs and not self.graphs[pool]:
            raise RuntimeError("it->second->use_count > 0 INTERNAL ASSERT FAILED")
        self.graphs[pool] += 1
        weakref.finalize(graph, self.graphs.subtract, [pool])
        yield


class Graph:
    def replay(self) -> None:
        """It does nothing."""


@contextmanager
def entered(_stream: object) -> Iterator[None]:
    yield


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    found, stream = Allocator(), SimpleNamespace(wait_stream=lambda _other: None)
    for name, value in {
        "Stream": lambda _device: stream,
        "current_stream": lambda _device: stream,
        "set_stream": lambda _stream: None,
        "stream": entered,
        "graph": found.capture,
        "graph_pool_handle": lambda: (0, next(found.handles)),
        "CUDAGraph": Graph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return found


def test_graphs_that_live_at_a_time_share_memory(allocator: Allocator) -> None:
    runner = CudaRunner(torch.device("cuda", 0))
    first = runner.record(lambda: 1)
    second = runner.record(lambda: 2)
    del first
    third = runner.record(lambda: 3)
    assert [second.outputs, third.outputs] == [2, 3]
    assert allocator.graphs == {(0, 1): 2}


def test_memory_of_graphs_that_are_gone_is_not_asked_for_again(allocator: Allocator) -> None:
    runner = CudaRunner(torch.device("cuda", 0))
    for turn in range(3):
        known = [runner.record(lambda: 1) for _ in range(2)]
        assert allocator.graphs[0, turn + 1] == len(known)
        del known
    assert set(allocator.graphs.values()) == {0}
