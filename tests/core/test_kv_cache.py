"""Keys and values that were kept, dropped or moved are those of a fresh pass."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.errors import ContextFullError
from sequoia_core.model import kv_cache
from sequoia_core.model.kv_cache import CUDA_BUCKET, LayeredKVCache
from tests.core.engines import tree_of
from tests.core.models import tiny_config, tiny_llama

MODEL = tiny_llama(3)
CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def fresh_logits(token_ids: Sequence[int]) -> Tensor:
    ids = torch.tensor(token_ids)
    return MODEL.forward(ids, torch.arange(len(ids)), None, MODEL.new_cache())


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
    path = [pick % growmap.size]
    while path[0]:
        path.insert(0, growmap.parents[path[0]])
    cache.keep(len(prefix), [len(prefix) + node for node in path])
    kept = [*prefix, *(drafted[node] for node in path)]
    assert cache.length == len(kept)
    close(next_logits([5], cache)[-1], fresh_logits([*kept, 5])[-1])


@given(tokens=TOKENS, cut=st.integers(0, 12), more=TOKENS)
@settings(max_examples=40, deadline=None)
def test_what_was_truncated_is_forgotten(tokens: list[int], cut: int, more: list[int]) -> None:
    cache = MODEL.new_cache()
    MODEL.extend(torch.tensor(tokens), cache)
    length = min(cut, len(tokens))
    cache.truncate(length)
    assert cache.length == length
    close(next_logits(more, cache), fresh_logits([*tokens[:length], *more])[length:])


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
    close(torch.cat(logits), fresh_logits(whole))


def test_leftovers_past_the_end_do_not_matter() -> None:
    """The tail is never cleared: even NaN in it must not show."""
    cache = MODEL.new_cache()
    MODEL.extend(torch.tensor([1, 2, 3, 4]), cache)
    cache._buffer[:, :, :, 2:] = torch.nan
    cache.truncate(2)
    close(next_logits([5, 6], cache), fresh_logits([1, 2, 5, 6])[2:])


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
    fresh = model.forward(torch.arange(24), torch.arange(24), None, model.new_cache())
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
