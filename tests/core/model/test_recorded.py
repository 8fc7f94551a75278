"""Forwards by recordings give what forwards without them do, with a runner that is as blind as a
CUDA graph; see `tests.tape_runner`.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.graphs import EagerRunner, Graphs, Rung, row_bucket, span_bucket
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import PLAIN_SPAN, RecordedForward, _Shape, same_logits
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import random_weights, tiny_config
from tests.tape_runner import CaptureError, TapeRunner

CPU = torch.device("cpu")
TREE = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))
OTHER = GrowMap((-1, 0, 1, 2, 2, 0))
FEATURES = (0, 1)


def llama(runner: TapeRunner | EagerRunner | None = None, seed: int = 0, **changes: Any) -> Llama:
    """A model that computes by recordings if there is a runner."""
    config = tiny_config(**{"context_window": 1024} | changes)
    model = Llama(config, random_weights(config, seed), CPU, torch.float32, FEATURES)
    if runner is not None:
        model.recorded = RecordedForward(Graphs(runner, CPU))
    return model


def graphs_of(model: Llama) -> Graphs:
    assert model.recorded is not None
    return model.recorded.graphs


def filled(model: Llama, length: int) -> LayeredKVCache:
    cache = model.new_cache()
    model.extend(torch.arange(length) % 61, cache)
    return cache


def tree_logits(
    model: Llama, cache: LayeredKVCache, growmap: GrowMap = TREE, mask: Tensor | None = None
) -> Tensor:
    ids = (torch.arange(growmap.size) * 7 + cache.length) % 61
    positions = torch.tensor(growmap.depths) + cache.length
    mask = growmap.ancestor_mask() if mask is None else mask
    return model.forward(ids, positions, mask, cache).clone()


def text_logits(model: Llama, cache: LayeredKVCache, count: int) -> Tensor:
    ids = torch.arange(count) + cache.length % 50
    positions = torch.arange(cache.length, cache.length + count)
    return model.forward(ids, positions, None, cache).clone()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_one_recording_serves_every_step_of_a_span(kv_heads: int) -> None:
    """Trees of which branches are kept, and single rows; nothing of the length is in it."""
    runner = TapeRunner()
    model, reference = llama(runner, num_kv_heads=kv_heads), llama(num_kv_heads=kv_heads)
    found, expected = filled(model, 40), filled(reference, 40)
    mask = TREE.ancestor_mask()
    for step in range(60):
        start = found.length
        close(tree_logits(model, found, TREE, mask), tree_logits(reference, expected))
        for cache in (found, expected):
            cache.keep(start, [start + node for node in (0, 1, 4)[: 1 + step % 3]])
        close(text_logits(model, found, 1), text_logits(reference, expected, 1))
    assert 200 < found.length == expected.length < 256
    assert runner.recorded == 2
    assert runner.replayed == 120
    assert graphs_of(model).rung is Rung.LOOPS
    close(found.features(0, found.length), expected.features(0, expected.length))


def test_shapes_of_one_bucket_share_a_recording() -> None:
    runner = TapeRunner()
    model, reference = llama(runner), llama()
    found, expected = filled(model, 20), filled(reference, 20)
    for count in (5, 8, 6, 2, 7):
        close(text_logits(model, found, count), text_logits(reference, expected, count))
    for growmap in (OTHER, TREE, OTHER, GrowMap.chain(5)):
        start = found.length
        close(tree_logits(model, found, growmap), tree_logits(reference, expected, growmap))
        for cache in (found, expected):
            cache.keep(start, [start])
    assert runner.recorded == 3  # of 2, 8 and 16 rows


def test_a_mask_over_more_than_the_rows(runner: TapeRunner) -> None:
    """As a level of a draft has it, which sees the levels above."""
    model, reference = llama(runner), llama()
    found, expected = filled(model, 20), filled(reference, 20)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    mask[:, 0] = True
    mask[[0, 1, 2], [1, 1, 2]] = True
    mask[[0, 1, 2], [4, 5, 6]] = True
    ids, positions = torch.tensor([3, 4, 5]), torch.tensor([18, 18, 18])
    expected_logits = reference.forward(ids, positions, mask, expected)
    close(model.forward(ids, positions, mask, found), expected_logits)
    assert runner.recorded == 1


@pytest.fixture
def runner() -> TapeRunner:
    return TapeRunner()


def test_a_longer_text_takes_a_longer_span_and_a_grown_cache_other_memory(
    runner: TapeRunner,
) -> None:
    model, reference = llama(runner), llama()
    found, expected = filled(model, 250), filled(reference, 250)
    numbers = {found.lease.number}
    for _ in range(20):
        close(tree_logits(model, found), tree_logits(reference, expected))
        numbers.add(found.lease.number)
    assert len(numbers) == 2
    assert found.length == 430
    assert runner.recorded == 1  # of 512 tokens: the cache had grown before
    assert graphs_of(model).rung is Rung.LOOPS


def conditioned(seed: int = 1) -> ConditionedLlama:
    config = tiny_config(context_window=1024, num_layers=1, feature_layers=FEATURES)
    return ConditionedLlama(config, random_weights(config, seed), CPU, torch.float32)


def test_a_conditioned_draft_reads_the_targets_states_and_its_own(runner: TapeRunner) -> None:
    logits: list[list[Tensor]] = []
    for recorded in (True, False):
        target, draft = llama(runner if recorded else None), conditioned()
        if recorded:
            draft.recorded = RecordedForward(graphs_of(target))
        big, found = filled(target, 40), []
        cache = draft.new_cache(big)
        draft.extend(torch.arange(30), cache)
        for _ in range(12):
            root = cache.length + 2
            found.append(text_logits(draft, cache, 3))
            ids, positions = torch.tensor([4, 9]), torch.full((2,), root + 1)
            mask = torch.tensor([[1, 1, 0], [1, 0, 1]], dtype=torch.bool)
            above = torch.tensor([-1, -1])
            found.append(draft.forward(ids, positions, mask, cache, above).clone())
            mask = torch.tensor([[1, 0, 1, 1]], dtype=torch.bool)
            row = torch.tensor([6])
            found.append(draft.forward(row, positions[:1] + 1, mask, cache, above[:1]).clone())
            found.append(tree_logits(target, big))
            start = big.length - TREE.size
            big.keep(start, [start, start + 1, start + 4])
            cache.keep(root, [root])
        logits.append(found)
    for each, expected in zip(*logits, strict=True):
        close(each, expected)
    assert runner.recorded == 4
    assert runner.replayed == len(logits[0])


def test_memory_of_an_earlier_chat_needs_no_new_recordings(runner: TapeRunner) -> None:
    model = llama(runner)
    cache = filled(model, 30)
    first = tree_logits(model, cache)
    del cache
    again = filled(model, 30)
    assert torch.equal(tree_logits(model, again), first)
    assert runner.recorded == 1
    beside = filled(model, 30)  # the other side of a race
    assert torch.equal(tree_logits(model, beside), first)
    assert runner.recorded == 2


def test_memory_that_has_grown_is_leased_again(runner: TapeRunner) -> None:
    model, reference = llama(runner), llama()
    cache = filled(model, 500)
    grown = cache.lease.number
    del cache
    found, expected = filled(model, 20), filled(reference, 20)
    assert (found.lease.number, found.capacity) == (grown, 512)
    close(tree_logits(model, found), tree_logits(reference, expected))


def test_recording_disturbs_no_cache(runner: TapeRunner) -> None:
    """Its warm-ups write to the scratch row, whatever the inputs held before."""
    model = llama(runner)
    cache = filled(model, 30)
    tree_logits(model, cache)
    before = [buffer.clone() for buffer, _ in cache.lease.buffers]
    assert model.recorded is not None
    rows = model.recorded._rows[16, 16]
    shape = _Shape(cache.lease_numbers, 16, 16, 256, with_parents=True)
    with torch.inference_mode():
        assert model.recorded._recording(model, cache, rows, shape) is not None
    for (buffer, axis), old in zip(cache.lease.buffers, before, strict=True):
        tokens = buffer.shape[axis] - 1
        assert torch.equal(buffer.narrow(axis, 0, tokens), old.narrow(axis, 0, tokens))


def test_the_next_span_is_recorded_in_idle_time(runner: TapeRunner) -> None:
    model, reference = llama(runner), llama()
    found, expected = filled(model, 300), filled(reference, 300)
    tree_logits(model, found)
    text_logits(model, found, 1)
    assert model.recorded is not None
    prepare = model.recorded.prepare
    assert not prepare(model, found)  # half of the span is free
    model.extend(torch.arange(190) % 61, found)
    reference.extend(torch.arange(10) % 61, expected)
    found._resize(1024)
    assert not prepare(model, found)  # nothing is recorded over the memory that it has now
    tree_logits(model, found)
    assert found.length == 509
    assert runner.recorded == 3
    assert prepare(model, found)
    assert not prepare(model, found)
    tree_logits(model, found)
    assert runner.recorded == 4


@pytest.mark.parametrize("spoiled", [0.5, float("nan")])
def test_a_recording_that_computes_something_else_is_noticed(spoiled: float) -> None:
    runner = TapeRunner(spoils=spoiled)
    model, reference = llama(runner), llama()
    found, expected = filled(model, 20), filled(reference, 20)
    for _ in range(3):
        close(tree_logits(model, found), tree_logits(reference, expected))
    assert graphs_of(model).rung is Rung.EAGER
    assert (runner.recorded, runner.replayed) == (1, 1)
    (notice,) = graphs_of(model).notices
    assert "something else" in notice


def test_a_recording_with_a_stale_length_is_noticed_at_the_second_replay() -> None:
    """The harness and the check: such is a forward that is recorded as it is written on CPUs."""
    runner = TapeRunner()
    model = llama()
    cache = filled(model, 20)
    ids, mask = torch.arange(TREE.size), TREE.ancestor_mask()
    positions = torch.tensor(TREE.depths) + 20

    def work() -> Tensor:
        cache.truncate(20)
        return model.forward_eagerly(ids, positions, mask, cache)

    stale = runner.record(work)
    assert torch.equal(stale.replay().clone(), work())
    cache.keep(20, [20, 23])
    positions.add_(2)
    found = stale.replay().clone()
    whole = filled(model, 20)
    model.extend(torch.tensor([0, 3]), whole)
    logits = model.forward(ids, positions, mask, whole)
    assert not same_logits(found, logits, torch.float32)
    assert same_logits(logits + 1e-5, logits, torch.float32)


def test_a_recording_is_compared_at_two_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A calibration, which stays at one length, leaves the second to the chat."""
    model = llama(TapeRunner())
    cache, compared = filled(model, 20), list[int]()
    eagerly = model.forward_eagerly

    def forward_eagerly(*given: Any) -> Tensor:
        compared.append(cache.length)
        return eagerly(*given)

    monkeypatch.setattr(model, "forward_eagerly", forward_eagerly)
    for length in (20, 20, 20, 21, 20, 22):
        cache.truncate(20)
        cache.advance(length - 20)
        tree_logits(model, cache)
    assert compared == [20, 21]


def test_what_is_recorded_again_is_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequoia_core.model.graphs.LEAST_RECORDINGS", 1)
    runner = TapeRunner()
    model, reference = llama(runner), llama()
    found, expected = filled(model, 20), filled(reference, 20)
    for _ in range(4):
        close(tree_logits(model, found), tree_logits(reference, expected))
    close(text_logits(model, found, 1), text_logits(reference, expected, 1))
    graphs_of(model).shrink()
    runner.spoils = 0.5
    close(tree_logits(model, found), tree_logits(reference, expected))
    assert graphs_of(model).rung is Rung.EAGER
    assert runner.recorded == 3


def test_where_recording_fails_kernels_are_launched_one_by_one() -> None:
    runner = TapeRunner(fails="operation not permitted\nwhen stream is capturing")
    model, reference = llama(runner), llama()
    found, expected = filled(model, 20), filled(reference, 20)
    for _ in range(2):
        close(tree_logits(model, found), tree_logits(reference, expected))
    assert graphs_of(model).rung is Rung.EAGER
    (notice,) = graphs_of(model).notices
    assert notice == (
        "CUDA graphs: recording fails (operation not permitted); kernels are launched one by one "
        "from now on"
    )


def test_the_ladder_goes_down_step_by_step() -> None:
    graphs = Graphs(EagerRunner(), CPU)
    found = graphs.recording("loop", lambda: 1, Rung.LOOPS)
    assert found is not None
    assert found.replay() == 1
    graphs.step_down(Rung.FORWARDS, "loops differ")
    assert graphs.recording("loop", lambda: 1, Rung.LOOPS) is None
    assert graphs.recording("forward", lambda: 2) is not None
    graphs.step_down(Rung.LOOPS, "this is no step down")
    graphs.step_down(Rung.EAGER, "the memory is full")
    assert graphs.recording("forward", lambda: 2) is None
    assert not graphs.known
    assert len(graphs.notices) == 2


def test_the_least_recently_used_recording_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequoia_core.model.graphs.KEPT_RECORDINGS", 2)
    graphs = Graphs(EagerRunner(), CPU)
    for key in "abac":
        graphs.recording(key, lambda: 0)
    assert set(graphs.known) == {"a", "c"}


def test_prompts_and_long_plain_steps_are_not_recorded(runner: TapeRunner) -> None:
    model = llama(runner, context_window=2 * PLAIN_SPAN)
    cache = model.new_cache()
    text_logits(model, cache, 100 - 50)
    assert runner.recorded == 1
    model.forward(torch.zeros(100, dtype=torch.int64), torch.arange(50, 150), None, cache)
    assert runner.recorded == 1
    cache.reserve(PLAIN_SPAN)
    cache.advance(PLAIN_SPAN)
    model.forward(torch.tensor([0]), torch.tensor([150 + PLAIN_SPAN]), None, cache)
    assert runner.recorded == 1


@pytest.mark.parametrize("harm", ["read", "draw", "upload"])
def test_the_harness_refuses_what_a_capture_does(harm: str) -> None:
    x = torch.ones(3)
    works = {
        "read": lambda: x * float(x.sum()),
        "draw": lambda: torch.rand_like(x).uniform_(),
        "upload": lambda: x + torch.tensor([1.0, 2.0, 3.0]),
    }
    with pytest.raises(CaptureError, match=harm):
        TapeRunner().record(works[harm])


def test_buckets() -> None:
    found = [row_bucket(rows) for rows in (1, 3, 9, 17, 65, 768, 769)]
    assert found == [1, 4, 16, 24, 96, 768, None]
    assert [span_bucket(tokens, 3000) for tokens in (1, 257, 2048, 2049)] == [256, 512, 2048, 3000]
