"""Layers pass two buffers in order, each filled while the other is read, also after failures."""

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures.thread import _global_shutdown_lock
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.offload.model import SLOTS, THREAD, LayerStream, resident_layers

PATIENCE = 30.0
"""Seconds after which a thread that should have moved is taken to hang."""


class Log:
    """Loads layer numbers, and notices a buffer that changes while it is read."""

    def __init__(self, check: Callable[[int], None] = lambda _layer: None) -> None:
        self.buffers: list[int | None] = [None] * SLOTS
        self.reading: int | None = None
        self.brought: list[int] = []
        self.threads: set[str] = set()
        self.closed = False
        self._check = check

    def load(self, layer: int, slot: int) -> None:
        assert slot != self.reading, "a buffer was filled while it was read"
        self.threads.add(threading.current_thread().name)
        self._check(layer)
        self.buffers[slot] = layer
        self.brought.append(layer)

    def acquire(self, slot: int) -> None:
        self.reading = slot

    def release(self, slot: int) -> None:
        self.reading = None

    def close(self) -> None:
        self.closed = True


def one_pass(stream: LayerStream, log: Log, layers: int) -> list[int | None]:
    """What lay in the buffer at hand at each layer."""
    return [log.buffers[stream.slot] for _ in stream.iterate(range(layers))]


@pytest.mark.parametrize("layers", range(1, 8))
def test_every_layer_comes_in_order_pass_after_pass(layers: int) -> None:
    log = Log()
    stream = LayerStream(log, layers)
    for _ in range(4):
        assert one_pass(stream, log, layers) == list(range(layers))
    stream.close()
    # the first layers are on their way again after each pass
    assert log.brought == [*range(layers)] * 4 + [at % layers for at in range(SLOTS)]


@pytest.mark.parametrize("resident", [{0}, {2}, {4}, {0, 2, 4}, {1, 2, 3}, {0, 1, 2, 3}])
def test_resident_layers_are_never_loaded(resident: set[int]) -> None:
    log = Log()
    stream = LayerStream(log, 5, resident)
    streamed = [layer for layer in range(5) if layer not in resident]
    for _ in range(3):
        found = one_pass(stream, log, 5)
        assert [found[layer] for layer in streamed] == streamed
    stream.close()
    coming = [streamed[at % len(streamed)] for at in range(SLOTS)]
    assert log.brought == streamed * 3 + coming


def test_a_buffer_is_filled_again_while_resident_layers_are_computed() -> None:
    """Not only when the next streamed layer is due."""
    third = threading.Event()
    log = Log(lambda layer: third.set() if layer == 5 else None)
    stream = LayerStream(log, 6, {1, 2, 4})
    for layer in stream.iterate(range(6)):
        if layer == 1:
            assert third.wait(PATIENCE), "the buffer of layer 0 is free"
    stream.close()


@given(st.data())
def test_resident_layers_are_spread_evenly(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 90))
    count = data.draw(st.integers(0, layers))
    resident = sorted(resident_layers(layers, count))
    assert len(resident) == count
    assert set(resident) <= set(range(layers))
    around = [*resident, *(layer + layers for layer in resident[:1])]  # the next pass follows
    gaps = {after - before for before, after in itertools.pairwise(around)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.data())
def test_passes_that_take_turns_each_get_their_layers(data: st.DataObject) -> None:
    """As a prompt that is read while another conversation asks for the model."""
    layers = data.draw(st.integers(1, 7))
    resident = data.draw(st.sets(st.integers(0, layers - 1), max_size=layers - 1))
    turns = data.draw(st.lists(st.integers(0, 2), max_size=4 * layers))
    log = Log()
    with closing(LayerStream(log, layers, resident)) as stream:
        passes = [stream.iterate(range(layers)) for _ in range(3)]
        for turn in [*turns, *[0, 1, 2] * (layers + 1)]:
            layer = next(passes[turn], None)
            assert layer is None or layer in resident or log.buffers[stream.slot] == layer
        assert not any(list(each) for each in passes)


@pytest.mark.parametrize("layers", [3, 4])
def test_the_next_layer_arrives_while_one_is_computed(layers: int) -> None:
    """The thread needs no help of the caller, who waits here in the middle of every layer."""
    arrived = [threading.Event() for _ in range(layers)]
    log = Log(lambda layer: arrived[layer].set())
    stream = LayerStream(log, layers)
    for _ in range(3):
        for layer in stream.iterate(range(layers)):
            following = arrived[(layer + 1) % layers]
            assert following.wait(PATIENCE)
            following.clear()
    assert all(name.startswith(THREAD) for name in log.threads)
    stream.close()


@pytest.mark.parametrize("layers", [1, 2, 3, 5])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_an_abandoned_pass_does_not_confuse_the_next(layers: int, stop: int) -> None:
    log = Log()
    stream = LayerStream(log, layers)
    for layer in stream.iterate(range(layers)):
        if layer == stop:
            break
    for _ in range(2):
        assert one_pass(stream, log, layers) == list(range(layers))
    stream.close()


@pytest.mark.parametrize(
    ("layers", "bad"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (5, 0), (5, 1), (5, 4)]
)
def test_a_failure_is_raised_where_its_layer_is_wanted_and_may_pass(layers: int, bad: int) -> None:
    broken = [True]

    def check(layer: int) -> None:
        if layer == bad and broken:
            raise ModelLoadError("the disk is gone")

    log = Log(check)
    stream = LayerStream(log, layers)
    for _ in range(2):
        layer_by_layer = stream.iterate(range(layers))
        assert list(itertools.islice(layer_by_layer, bad)) == list(range(bad))
        with pytest.raises(ModelLoadError, match="the disk is gone"):
            next(layer_by_layer)
    broken.clear()
    assert one_pass(stream, log, layers) == list(range(layers))
    stream.close()


def test_closing_waits_for_the_thread_and_closes_the_loader() -> None:
    before = threading.active_count()
    log = Log()
    stream = LayerStream(log, 3)
    one_pass(stream, log, 3)
    assert threading.active_count() == before + 1
    stream.close()
    assert threading.active_count() == before
    assert log.closed
    stream.close()


def test_a_garbage_stream_ends_its_thread() -> None:
    before = threading.active_count()
    log = Log()
    stream = LayerStream(log, 3)
    one_pass(stream, log, 3)
    gone = weakref.ref(stream)
    del stream
    gc.collect()
    assert gone() is None
    assert threading.active_count() == before
    assert log.closed


def test_a_stream_may_be_collected_in_its_own_thread() -> None:
    """Cycles are collected by whoever allocates; a thread that waited for itself would raise."""
    cycle: list[object] = []
    closed = threading.Event()

    class Last(Log):
        def load(self, layer: int, slot: int) -> None:
            super().load(layer, slot)
            if self.brought.count(0) == 2:  # of the coming pass, when nobody holds the stream
                released.wait(PATIENCE)
                gc.collect()

        def close(self) -> None:
            closed.set()

    released = threading.Event()
    stream = LayerStream(Last(), 3)
    cycle += [stream, cycle]
    for _ in stream.iterate(range(3)):
        pass
    del stream, cycle
    released.set()
    assert closed.wait(PATIENCE)


def test_a_stream_may_become_garbage_while_another_submits_a_layer() -> None:
    """As when garbage is collected in the midst of it: one lock is that of all executors."""
    log, freed = Log(), threading.Event()
    streams = [LayerStream(log, 3)]
    one_pass(streams[0], log, 3)

    def collect() -> None:
        with _global_shutdown_lock:
            streams.clear()
            gc.collect()
        freed.set()

    threading.Thread(target=collect, daemon=True).start()
    assert freed.wait(PATIENCE)
    assert log.closed
