"""Keys and values that were kept, dropped or moved are those of a fresh pass."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sequoia_core.errors import ContextFullError
from sequoia_core.model import kv_cache
from sequoia_core.model.kv_cache import (
    CUDA_BUCKET,
    KEPT_LEASES,
    PART_LAYERS,
    LayeredKVCache,
    LeasePool,
    Move,
)
from tests.core.engines import tree_of
from tests.core.models import fresh_logits, path_to, tiny_config, tiny_llama

MODEL = tiny_llama(3)
CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def next_logits(token_ids: Sequence[int], cache: LayeredKVCache) -> Tensor:
    """Logits of tokens put after those of the cache."""
    ids = torch.tensor(token_ids)
    positions = torch.arange(cache.length, cache.length + len(ids))
    return MODEL.forward(ids, positions, None, cache)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=1e-4)


@given(prefix=TOKENS, parents=st.lists(st.integers(0, 30), max_size=10), pick=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_an_accepted_path_is_kept_as_if_it_had_been_read_alone(
    prefix: list[int], parents: list[int], pick: int
) -> None:
    growmap = tree_of(parents)
    cache = MODEL.new_cache()
    MODEL.extend(torch.tensor(prefix), cache)
    drafted = [(7 * node + 3) % 61 for node in range(growmap.size)]
    mask = torch.cat(
        (torch.ones(growmap.size, len(prefix), dtype=torch.bool), growmap.ancestor_mask()), dim=1
    )
    positions = torch.tensor(growmap.depths) + len(prefix)
    MODEL.forward(torch.tensor(drafted), positions, mask, cache)
    path = path_to(growmap.parents, pick % growmap.size)
    cache.keep(len(prefix), [len(prefix) + node for node in path])
    kept = [*prefix, *(drafted[node] for node in path)]
    assert cache.length == len(kept)
    close(next_logits([5], cache)[-1], fresh_logits(MODEL, torch.tensor([*kept, 5]))[-1])


@given(tokens=TOKENS, cut=st.integers(0, 12), more=TOKENS)
@settings(max_examples=40, deadline=None)
def test_what_was_truncated_is_forgotten(tokens: list[int], cut: int, more: list[int]) -> None:
    cache = MODEL.new_cache()
    MODEL.extend(torch.tensor(tokens), cache)
    length = min(cut, len(tokens))
    cache.truncate(length)
    assert cache.length == length
    close(
        next_logits(more, cache),
        fresh_logits(MODEL, torch.tensor([*tokens[:length], *more]))[length:],
    )


@given(pieces=st.lists(TOKENS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_growing_in_pieces_equals_one_pass(pieces: list[list[int]]) -> None:
    """From a capacity of four tokens on, so that the buffer moves several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_cache, "INITIAL_CAPACITY", 4)
        cache = MODEL.new_cache()
        assert cache.capacity == 4
        logits = [next_logits(piece, cache) for piece in pieces]
    whole = [token for piece in pieces for token in piece]
    assert cache.length == len(whole) <= cache.capacity <= MODEL.context_window
    close(torch.cat(logits), fresh_logits(MODEL, torch.tensor(whole)))


def test_leftovers_past_the_end_do_not_matter() -> None:
    """The tail is never cleared: even NaN in it must not show."""
    cache = MODEL.new_cache()
    MODEL.extend(torch.tensor([1, 2, 3, 4]), cache)
    for part in cache.lease.parts:
        part[:, :, :, 2:] = torch.nan
    cache.truncate(2)
    close(next_logits([5, 6], cache), fresh_logits(MODEL, torch.tensor([1, 2, 5, 6]))[2:])


@pytest.mark.parametrize("extra", [1, 50])
def test_past_the_window_is_refused_and_the_cache_is_unchanged(extra: int) -> None:
    model = tiny_llama(3, context_window=24)
    cache = model.new_cache()
    model.extend(torch.arange(20), cache)
    ids = torch.arange(4 + extra)
    with pytest.raises(ContextFullError, match="window of 24"):
        model.extend(ids, cache)
    with pytest.raises(ContextFullError, match="window of 24"):
        model.forward(ids, ids, None, cache)
    assert cache.length == 20
    logits = model.forward(torch.arange(20, 24), torch.arange(20, 24), None, cache)
    assert cache.length == 24
    fresh = fresh_logits(model, torch.arange(24))
    close(logits, fresh[20:])


def test_the_buffer_never_outgrows_the_window() -> None:
    cache = LayeredKVCache(tiny_config(context_window=1100), CPU, torch.float32)
    assert cache.capacity == 256
    cache.reserve(257)
    assert cache.capacity == 512
    cache.reserve(513)
    assert cache.capacity == 1024
    cache.reserve(1100)
    assert cache.capacity == 1100
    assert LayeredKVCache(tiny_config(), CPU, torch.float32).capacity == 256


@pytest.mark.parametrize(("rows", "span"), [(1, 1), (7, 7), (255, 255)])
def test_on_a_cpu_attention_spans_the_exact_length(rows: int, span: int) -> None:
    assert LayeredKVCache(tiny_config(), CPU, torch.float32).span(rows) == span


@given(rows=st.integers(1, 1500))
def test_on_cuda_attention_spans_whole_buckets(rows: int) -> None:
    cache = LayeredKVCache(tiny_config(context_window=2000), torch.device("meta"), torch.float32)
    cache._bucket = CUDA_BUCKET
    cache.reserve(rows)
    assert cache.span(rows) % CUDA_BUCKET == 0
    assert rows <= cache.span(rows) < rows + CUDA_BUCKET
    assert cache.span(rows) <= cache.capacity


def grown_buffers(monkeypatch: pytest.MonkeyPatch, allowed: int) -> list[int]:
    """Sizes asked for while caches grow; after so many buffers memory is full."""
    sizes: list[int] = []
    real = kv_cache.resized

    def resized(buffer: Tensor, axis: int, size: int, kept: int) -> Tensor:
        if buffer.shape[axis] != size:
            if len(sizes) == allowed:
                raise MemoryError
            sizes.append(buffer.nbytes * size // max(buffer.shape[axis], 1))
        return real(buffer, axis, size, kept)

    monkeypatch.setattr(kv_cache, "resized", resized)
    return sizes


LAYERS = 2 * PART_LAYERS + 1


def test_a_cache_grows_one_buffer_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that never more is held than what it grows to, and one buffer as it was."""
    cache = LayeredKVCache(tiny_config(num_layers=LAYERS, context_window=1024), CPU, torch.float32)
    before = sum(part.nbytes for part in cache.lease.parts)
    sizes = grown_buffers(monkeypatch, 99)
    cache.reserve(257)
    assert cache.capacity == 512
    assert sizes[:3] == [513 * before // 257 * layers // LAYERS for layers in (8, 8, 1)]


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_if_memory_ends_while_it_grows_the_tokens_stay(
    allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(3, num_layers=LAYERS, context_window=1024)
    tokens = torch.arange(300) % 61
    cache = model.new_cache()
    model.extend(tokens[:250], cache)
    with monkeypatch.context() as patch:
        grown_buffers(patch, allowed)
        with pytest.raises(MemoryError):
            model.extend(tokens[250:], cache)
    assert (cache.length, cache.capacity) == (250, 256)
    model.extend(tokens[250:], cache)
    assert (cache.length, cache.capacity) == (300, 512)
    whole = model.new_cache()
    model.extend(tokens, whole)
    row = torch.tensor([5])
    expected = model.forward(row, row * 60, None, whole)
    close(model.forward(row, row * 60, None, cache), expected)


@pytest.mark.parametrize(("held", "left"), [(0, 256), (100, 256), (700, 700), (900, 900)])
def test_memory_is_returned_but_for_what_the_tokens_need(held: int, left: int) -> None:
    cache = LayeredKVCache(tiny_config(context_window=4000), CPU, torch.float32, feature_slots=1)
    cache.reserve(2000)
    cache.advance(held)
    cache.release()
    assert cache.capacity == left
    assert {part.shape[3] for part in cache.lease.parts} == {left + 1}


@pytest.mark.parametrize(("share", "capacity"), [(4, 2048), (3, 256)])
def test_on_cuda_the_window_is_reserved_where_it_takes_a_quarter(
    share: int, capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it stays reserved: 2 layers of 2 KV heads of 8 numbers take 256 bytes a token."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (share * 2048 * 256, 0))
    with FakeTensorMode():
        gpu = torch.device("cuda", 0)
        cache = LayeredKVCache(tiny_config(context_window=2000), gpu, torch.float32)
        cache.release()
        assert cache.capacity == capacity


def grown_to(cache: LayeredKVCache, *needed: int) -> list[int]:
    capacities = []
    for tokens in needed:
        cache.reserve(tokens)
        capacities.append(cache.capacity)
    return capacities


def test_large_caches_grow_by_a_quarter() -> None:
    cache = LayeredKVCache(tiny_config(context_window=9000), torch.device("meta"), torch.float32)
    assert grown_to(cache, 1025, 1281, 1602, 1603) == [1025, 1281, 1602, 2002]


def test_leased_ones_take_powers_of_two_so_that_recordings_over_them_last() -> None:
    config, meta, retired = tiny_config(context_window=90_000), torch.device("meta"), list[int]()
    cache = LayeredKVCache(config, meta, torch.float32, pool=LeasePool(retired))
    first = cache.lease.number
    found = grown_to(cache, 257, 513, 700, 3000, 16_384, 16_385, 70_000)
    assert found == [512, 1024, 1024, 4096, 16_384, 32_768, 90_000]
    assert retired == [*range(first, first + 6)]
    cache.advance(600)
    cache.release()
    assert cache.capacity == 1024
    assert cache.lease.number not in retired


def read_tree_and_keep(cache: LayeredKVCache, path: Sequence[int]) -> None:
    """Eight tokens, a tree of nine nodes after them, and a branch of it kept."""
    MODEL.extend(torch.arange(8), cache)
    growmap = tree_of([0, 0, 0, 1, 1, 3, 4, 7])
    positions = torch.tensor(growmap.depths) + 8
    MODEL.forward(torch.arange(9) + 20, positions, growmap.ancestor_mask(), cache)
    cache.keep(8, [8 + node for node in path])


PATH = [0, 3, 6]


def test_a_move_that_nobody_takes_is_made_at_the_next_use() -> None:
    at_once, later = MODEL.new_cache(), MODEL.new_cache()
    later.defers = True
    read_tree_and_keep(at_once, PATH)
    read_tree_and_keep(later, PATH)
    assert at_once.length == later.length == 11
    assert at_once.take_move(9) is None
    assert torch.equal(next_logits([5, 6], later), next_logits([5, 6], at_once))
    assert later.take_move(9) is None


def test_who_takes_a_move_makes_it_on_the_device() -> None:
    at_once, later = MODEL.new_cache(), MODEL.new_cache()
    later.defers = True
    read_tree_and_keep(at_once, PATH)
    read_tree_and_keep(later, PATH)
    move = later.take_move(9)
    assert move == Move((11, 14), 9)  # the root lies where it stays
    filling = [later.scratch] * 2  # of a fixed shape
    later.move(torch.tensor([*move.rows, *filling]), torch.tensor([9, 10, *filling]))
    assert torch.equal(next_logits([5, 6], later), next_logits([5, 6], at_once))


def test_more_rows_than_are_taken_are_moved_at_once() -> None:
    at_once, later = MODEL.new_cache(), MODEL.new_cache()
    later.defers = True
    read_tree_and_keep(at_once, PATH)
    read_tree_and_keep(later, PATH)
    assert later.take_move(1) is None
    for one, other in zip(later.lease.parts, at_once.lease.parts, strict=True):
        assert torch.equal(one[:, :, :, :11], other[:, :, :, :11])


@pytest.mark.parametrize("length", [6, 9, 10])
def test_a_move_is_forgotten_with_its_rows(length: int) -> None:
    at_once, later = MODEL.new_cache(), MODEL.new_cache()
    later.defers = True
    for cache in (at_once, later):
        read_tree_and_keep(cache, PATH)
        cache.truncate(length)
    assert (later._move is None) == (length <= 9)
    assert torch.equal(next_logits([5], later), next_logits([5], at_once))


@pytest.mark.parametrize("use", ["release", "grow", "keep"])
def test_whatever_touches_a_cache_makes_its_move_first(use: str) -> None:
    at_once, later = MODEL.new_cache(), MODEL.new_cache()
    later.defers = True
    for cache in (at_once, later):
        read_tree_and_keep(cache, PATH)
        if use == "release":
            cache.release()
        elif use == "grow":
            cache._resize(2 * cache.capacity)
        else:
            cache.keep(9, [10])
    assert torch.equal(next_logits([5], later), next_logits([5], at_once))


def test_rows_go_where_slots_say() -> None:
    config = tiny_config()
    by_length, by_slots = (LayeredKVCache(config, CPU, torch.float32, 1) for _ in range(2))
    rows, states = torch.rand(2, config.num_kv_heads, 3, config.head_dim), torch.rand(3, 32)
    slots = torch.tensor([4, 5, by_slots.scratch])
    by_length.advance(4)
    by_length.write(0, rows[:, :, :2], 16)
    by_length.write_features(0, states[:2])
    by_slots.write(0, rows, 16, slots)
    by_slots.write_features(0, states, slots)
    for (one, axis), (other, _) in zip(
        by_length.lease.buffers, by_slots.lease.buffers, strict=True
    ):
        tokens = one.shape[axis] - 1
        assert torch.equal(one.narrow(axis, 0, tokens), other.narrow(axis, 0, tokens))


def test_memory_of_a_cache_that_is_garbage_is_leased_again_and_clean() -> None:
    retired = list[int]()
    pool, config = LeasePool(retired), tiny_config(context_window=1024)

    def leased() -> LayeredKVCache:
        return LayeredKVCache(config, CPU, torch.float32, pool=pool)

    first, second = leased(), leased()
    numbers = first.lease.number, second.lease.number
    first.lease.parts[0].fill_(torch.nan)
    del first
    third = leased()
    assert third.lease.number == numbers[0] != numbers[1]
    assert not third.lease.parts[0].any()
    third.reserve(1)
    assert third.lease.number == numbers[0]
    third.reserve(300)
    assert third.lease.number > max(numbers)
    assert retired == [numbers[0]]
    left = numbers[1], third.lease.number
    del third, second
    assert retired == [numbers[0]], "the next caches take them"
    pool.clear()
    assert sorted(retired) == sorted((numbers[0], *left))
    assert leased().lease.number > max(numbers) + 1


def test_memory_that_no_cache_takes_is_left() -> None:
    retired = list[int]()
    pool, config = LeasePool(retired), tiny_config(context_window=1024)
    caches = [LayeredKVCache(config, CPU, torch.float32, pool=pool) for _ in range(4)]
    numbers = [each.lease.number for each in caches]
    caches.clear()
    assert len(retired) == 4 - KEPT_LEASES
    assert set(retired) < set(numbers)


def test_memory_of_a_model_that_is_garbage_is_left() -> None:
    """A draft in whose place there is another one: nothing that was recorded over it is kept."""
    retired = list[int]()
    pool = LeasePool(retired)
    cache, other = (LayeredKVCache(tiny_config(), CPU, torch.float32, pool=pool) for _ in range(2))
    numbers = cache.lease.number, other.lease.number
    del other, pool
    assert not retired
    del cache
    assert sorted(retired) == sorted(numbers)
