"""Attention in two parts, merged, is attention; measured times say which kernels take it."""

import math
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.model import attention, attention_probe
from sequoia_core.model.attention import (
    BLOCK,
    MOST_SCORES,
    AttentionChoice,
    MaskedKernel,
    attend,
)
from sequoia_core.model.attention_probe import (
    CONTEXTS,
    Kernels,
    attention_choice,
    fastest,
    measure,
)
from sequoia_core.model.graphs import Graphs, least_tokens, span_bucket
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import RecordedForward
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import tree_of
from tests.core.models import random_weights, tiny_config
from tests.tape_runner import TapeRunner

CPU = torch.device("cpu")
EFFICIENT, MATH = MaskedKernel
SPLIT = AttentionChoice(split_from=1)


def heads(kv_heads: int, rows: int, span: int, dim: int) -> tuple[Tensor, ...]:
    """Queries, keys and values in float64; the queries are large, so that few keys decide."""
    generator = torch.Generator().manual_seed(0)
    sizes = (rows, span, span)
    queries, keys, values = (
        torch.randn((1, kv_heads, size, dim), generator=generator, dtype=torch.float64)
        for size in sizes
    )
    return 2 * queries, keys, values


def exact(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, groups: int) -> Tensor:
    """By its definition, [n, H D]."""
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1]) + bias
    mixed = scores.softmax(-1) @ values
    rows = queries.shape[2] // groups
    return mixed.view(keys.shape[1], groups, rows, -1).permute(2, 0, 1, 3).reshape(rows, -1)


def tree_bias(growmap: GrowMap, prefix: int, groups: int, unused: int = 0) -> Tensor:
    """Of a tree's rows after a prefix; the last keys are used by nobody."""
    bias = torch.zeros(growmap.size, prefix + growmap.size + unused, dtype=torch.float64)
    tree = bias[:, prefix : prefix + growmap.size]
    tree.masked_fill_(~growmap.ancestor_mask(), float("-inf"))
    bias[:, prefix + growmap.size :] = float("-inf")
    return bias.repeat(groups, 1)


@pytest.mark.parametrize("masked", MaskedKernel)
@given(
    parents=st.lists(st.integers(0, 30), max_size=14),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    prefix=st.integers(2, 60),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_two_parts_merged_are_one(
    masked: MaskedKernel,
    parents: list[int],
    kv_heads: int,
    groups: int,
    prefix: int,
    data: st.DataObject,
) -> None:
    growmap = tree_of(parents)
    bias = tree_bias(growmap, prefix, groups, unused=data.draw(st.integers(0, 5)))
    queries, keys, values = heads(kv_heads, groups * growmap.size, bias.shape[1], 8)
    whole = data.draw(st.integers(0, prefix - 1))
    tail = bias[:, whole:].float()
    found = attend(queries.float(), keys.float(), values.float(), tail, groups, masked)
    expected = exact(queries, keys, values, bias, groups)
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("masked", MaskedKernel)
def test_a_context_of_32768_tokens(
    masked: MaskedKernel, dtype: torch.dtype, allowed: float
) -> None:
    """Two query heads share the keys of one; either part may hold most keys."""
    growmap, span = GrowMap((-1, 0, 0, 1, 3)), 32768
    prefix = span - growmap.size
    bias = tree_bias(growmap, prefix, 2)
    queries, keys, values = (each.to(dtype) for each in heads(2, 2 * growmap.size, span, 16))
    expected = exact(queries.double(), keys.double(), values.double(), bias, 2)
    for whole in (BLOCK, span // 2, SPLIT.whole(prefix)):
        tail = bias[:, whole:].to(dtype)
        found = attend(queries, keys, values, tail, 2, masked)
        assert found.dtype is dtype
        assert (found.double() - expected).abs().max() < allowed


def test_large_scores_are_left_to_the_other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Math would make all of them at once."""
    monkeypatch.setattr(attention, "_by_math", lambda *_: pytest.fail("it was made"))
    keys = MOST_SCORES // 64 + 1
    queries, *others = (each.float() for each in heads(1, 64, keys, 1))
    attend(queries, others[0], others[1], torch.zeros(64, keys), 1, MATH)


@given(visible=st.integers(0, 100_000), split_from=st.integers(1, 20_000))
def test_one_block_at_most_of_what_all_see_stays_under_the_mask(
    visible: int, split_from: int
) -> None:
    whole = AttentionChoice(split_from=split_from).whole(visible)
    assert whole % BLOCK == 0
    if visible < split_from:
        assert whole == 0
    else:
        assert 0 < visible - whole <= BLOCK
    assert AttentionChoice().whole(visible) == 0


# in a model

TREE = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))


def llama(choice: AttentionChoice, kv_heads: int = 2) -> Llama:
    config = tiny_config(context_window=2048, num_kv_heads=kv_heads)
    model = Llama(config, random_weights(config, 0), CPU, torch.float32)
    model.attention = choice
    return model


def filled(model: Llama, length: int) -> LayeredKVCache:
    cache = model.new_cache()
    model.extend(torch.arange(length) * 5 % 61, cache)
    return cache


def answers(model: Llama, cache: LayeredKVCache) -> list[Tensor]:
    """Logits of trees, chains and rows in turn."""
    logits = []
    mask = TREE.ancestor_mask()
    for _ in range(2):
        ids = (torch.arange(TREE.size) * 7 + cache.length) % 61
        positions = torch.tensor(TREE.depths) + cache.length
        start = cache.length
        logits.append(model.forward(ids, positions, mask, cache).clone())
        cache.keep(start, [start, start + 3])
        for count in (4, 1):
            ids = torch.arange(count) + 3
            positions = torch.arange(count) + cache.length
            logits.append(model.forward(ids, positions, None, cache).clone())
    return logits


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Keys of each part that is taken without a mask."""
    found: list[int] = []
    real = attention._without_mask

    def counted(
        queries: Tensor, keys: Tensor, values: Tensor, scores: attention.Scores
    ) -> attention.Part:
        found.append(keys.shape[2])
        return real(queries, keys, values, scores)

    monkeypatch.setattr(attention, "_without_mask", counted)
    return found


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 255, 256, 257, 700, 1290])
@pytest.mark.parametrize("masked", MaskedKernel)
def test_a_model_with_split_attention_computes_the_same(
    masked: MaskedKernel, length: int, kv_heads: int, parts: list[int]
) -> None:
    model = llama(AttentionChoice(), kv_heads)
    split = llama(AttentionChoice(masked, split_from=1), kv_heads)
    expected = answers(model, filled(model, length))
    assert not parts
    found = answers(split, filled(split, length))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert bool(parts) == (length > 240)
    assert all(keys % BLOCK == 0 for keys in parts)


@pytest.mark.parametrize(("length", "whole"), [(40, 0), (300, 0), (600, 256), (1290, 768)])
def test_recorded_forwards_split_alike(length: int, whole: int, parts: list[int]) -> None:
    """At a place that follows from the span alone, since the length is on the device.

    Spans are powers of two, so about half of one is surely visible.
    """
    runner = TapeRunner()
    model, reference = llama(SPLIT), llama(AttentionChoice())
    model.recorded = RecordedForward(Graphs(runner, CPU))
    expected = answers(reference, filled(reference, length))
    cache = filled(model, length)
    parts.clear()
    torch.testing.assert_close(answers(model, cache), expected, atol=1e-4, rtol=1e-4)
    assert runner.replayed == 6
    checks = SPLIT.whole(length)  # of the first replays are computed without recordings
    assert set(parts) == {whole, checks} - {0}


@given(tokens=st.integers(1, 5000), capacity=st.integers(1, 5000))
def test_the_fewest_tokens_of_a_span(tokens: int, capacity: int) -> None:
    span = span_bucket(min(tokens, capacity), capacity)
    least = least_tokens(span)
    assert least <= min(tokens, capacity)
    assert span_bucket(least, capacity) == span
    assert least == 1 or span_bucket(least - 1, capacity) < span


# the choice


def times(*rows: tuple[float, float, float]) -> attention_probe.Times:
    """Of masked kernels and the split one, by context."""
    return {
        context: {
            Kernels(EFFICIENT, False): efficient,
            Kernels(MATH, False): math,
            Kernels(EFFICIENT, True): split,
            Kernels(MATH, True): split,
        }
        for context, (efficient, math, split) in zip(CONTEXTS, rows, strict=True)
    }


@pytest.mark.parametrize(
    ("measured", "choice"),
    [
        (times((1, 2, 3), (2, 3, 1), (9, 9, 2)), AttentionChoice(EFFICIENT, CONTEXTS[1])),
        (times((1, 2, 0.5), (2, 3, 1), (9, 9, 2)), AttentionChoice(EFFICIENT, CONTEXTS[0])),
        (times((1, 2, 0.5), (2, 3, 4), (9, 9, 2)), AttentionChoice(EFFICIENT, CONTEXTS[2])),
        (times((1, 2, 0.5), (2, 3, 1), (2, 9, 9)), AttentionChoice(EFFICIENT, None)),
        (times((2, 1, 3), (2, 3, 1), (9, 9, 2)), AttentionChoice(MATH, CONTEXTS[1])),
        ({1024: {Kernels(EFFICIENT, False): 1.0}}, AttentionChoice(EFFICIENT, None)),
        ({1024: {Kernels(MATH, False): 1.0}}, AttentionChoice(MATH, None)),
        ({1024: {}}, AttentionChoice()),
        ({}, AttentionChoice()),
    ],
    ids=str,
)
def test_the_fastest_kernels_are_chosen(
    measured: attention_probe.Times, choice: AttentionChoice
) -> None:
    assert fastest(measured) == choice


def probe(monkeypatch: pytest.MonkeyPatch, window: int = 3000) -> attention_probe.Times:
    config = tiny_config(context_window=window)
    monkeypatch.setattr(attention_probe, "CONTEXTS", (300, 1000, 4000))
    return measure(config, CPU, torch.float32, lambda work, _: float(work().shape[0]))


def test_every_kernel_is_timed_at_contexts_of_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {Kernels(masked, split) for masked in MaskedKernel for split in (False, True)}
    found = probe(monkeypatch)
    assert {visible: set(each) for visible, each in found.items()} == {
        300: everything,
        1000: everything,
    }
    assert all(ms == attention_probe.ROWS for each in found.values() for ms in each.values())
    assert not probe(monkeypatch, window=500)


def test_contexts_that_memory_is_short_for_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_probe, "free_bytes", lambda _: 8 * 2 * 2 * 700 * 8 * 4)
    assert list(probe(monkeypatch)) == [300]


@pytest.mark.parametrize("harm", ["wrong", "missing", "not a number"])
def test_a_kernel_that_cannot_be_used_is_left_out(
    harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attention._without_mask

    def broken(*heads: Any) -> attention.Part:
        if harm == "missing":
            raise RuntimeError("No available kernel")
        mixed, log_sums = real(*heads)
        return mixed, log_sums + (1.0 if harm == "wrong" else float("nan"))

    monkeypatch.setattr(attention, "_without_mask", broken)
    for each in probe(monkeypatch).values():
        assert set(each) == {Kernels(EFFICIENT, False), Kernels(MATH, False)}


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often a pretended GPU is measured, whose fastest kernel is math."""
    measured: list[int] = []

    def math_is_fastest(*_: Any) -> attention_probe.Times:
        measured.append(1)
        return {1024: {Kernels(MATH, False): 1.0, Kernels(MATH, True): 0.5}}

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda _: tmp_path)
    monkeypatch.setattr(attention_probe, "device_name", lambda _: "a GPU")
    monkeypatch.setattr(attention_probe, "measure", math_is_fastest)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return measured


def test_a_gpu_is_measured_once_for_a_shape_of_heads(gpu: list[int], tmp_path: Path) -> None:
    cuda, config = torch.device("cuda"), tiny_config()
    for _ in range(3):
        choice = attention_choice(config, cuda, torch.bfloat16)
        assert choice == AttentionChoice(MATH, 1024)
    assert len(gpu) == 1
    attention_choice(tiny_config(num_layers=7), cuda, torch.bfloat16)
    assert len(gpu) == 1
    attention_choice(config, cuda, torch.float16)
    attention_choice(tiny_config(num_kv_heads=4), cuda, torch.bfloat16)
    assert len(gpu) == 3
    for file in (tmp_path / "attention").iterdir():
        file.write_text('{"masked": "cudnn"}')
    assert attention_choice(config, cuda, torch.bfloat16) == AttentionChoice(MATH, 1024)
    assert len(gpu) == 4


def test_a_cpu_is_not_measured(gpu: list[int]) -> None:
    assert attention_choice(tiny_config(), CPU, torch.float32) == AttentionChoice()
    assert not gpu


def test_the_clock_begins_when_everything_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Event:
        def record(self, _stream: object) -> None:
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, _ended: object) -> float:
            return 10.0

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event() if enable_timing else 0)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda _: log.append("sleep"))

    def work() -> Tensor:
        log.append("work")
        return torch.zeros(1)

    assert attention_probe.device_ms(work, torch.device("cuda")) == 10.0 / attention_probe.CALLS
    once = ["sleep", "event", *["work"] * attention_probe.CALLS, "event", "wait"]
    assert log == once * (1 + attention_probe.REPEATS)
