"""Which kernels of attention a GPU is fastest with: measured once for a number of heads."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from sequoia_core.model.attention import BLOCK, AttentionChoice, MaskedKernel, attend
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import device_name, dtype_name, free_bytes

ROWS = 64  # of a tree of the usual size
CONTEXTS = (1024, 4096, 16384)  # visible keys; longer ones than the model's window are left out
MEMORY_SHARE = 0.125  # of what is free: contexts that take more are left out
REPEATS, CALLS = 7, 5  # medians over so many times of so many calls
SLEEP = 20_000_000  # cycles in which the host launches what is timed
TOLERANCE = 0.02  # of values around 1: a larger difference from float32 is no rounding

Clock = Callable[[Callable[[], Tensor], torch.device], float]  # milliseconds of work on a device

_log = logging.getLogger(__name__)


class Kernels(NamedTuple):
    masked: MaskedKernel
    split: bool  # keys that all rows see are taken by a kernel without a mask


Times = Mapping[int, Mapping[Kernels, float]]
"""Milliseconds by visible keys; without kernels that a device or a number format lacks."""


def attention_choice(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> AttentionChoice:
    """The fastest kernels, as measured here or before; off CUDA always the same.

    Scores with a softcap have one kernel, and keys before a sliding window are not visible to all.
    """
    if device.type != "cuda" or config.attention_softcap is not None:
        return AttentionChoice()
    import platformdirs  # here and below: what measures alone needs no library but torch

    heads = (config.num_heads, config.num_kv_heads, config.head_dim)
    named = (device_name(device), torch.__version__, torch.version.cuda, dtype_name(dtype), *heads)
    digest = hashlib.sha256(repr(named).encode()).hexdigest()[:16]
    path = platformdirs.user_cache_path("sequoia") / "attention" / f"{digest}.json"
    found = _kept(path)
    if found is None:
        found = fastest(measure(config, device, dtype))
        torch.cuda.empty_cache()  # what it took counts as free
        _keep(found, path)
    return found if config.sliding_window is None else replace(found, split_from=None)


def fastest(times: Times) -> AttentionChoice:
    """The kernels for all contexts: a kernel under a mask, and from which length on to split.

    That is the least length at which splitting is faster, there and at all longer ones.
    """
    if not times:
        return AttentionChoice()
    shortest = times[min(times)]
    whole = [kernels for kernels in shortest if not kernels.split]
    masked = min(whole, key=shortest.__getitem__).masked if whole else MaskedKernel.EFFICIENT
    split_from = None
    for visible in sorted(times, reverse=True):
        one, two = (times[visible].get(Kernels(masked, split)) for split in (False, True))
        if two is None or (one is not None and one <= two):
            break
        split_from = visible
    return AttentionChoice(masked, split_from)


@torch.inference_mode()
def measure(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, clock: Clock | None = None
) -> dict[int, dict[Kernels, float]]:
    """Times of the rows of a tree; what computes something else than float32 does is left out."""
    clock = clock or device_ms
    found: dict[int, dict[Kernels, float]] = {}
    room = MEMORY_SHARE * free_bytes(device)
    groups = config.num_heads // config.num_kv_heads
    for visible in CONTEXTS:
        span = visible + BLOCK
        size = 2 * config.num_kv_heads * span * config.head_dim * dtype.itemsize
        if span > config.context_window or size > room:
            break
        generator = torch.Generator().manual_seed(visible)
        queries, keys, values = (
            torch.randn((1, config.num_kv_heads, count, config.head_dim), generator=generator)
            .to(dtype)
            .to(device)
            for count in (groups * ROWS, span, span)
        )
        bias = torch.zeros((ROWS, span), device=device, dtype=dtype)
        sees = torch.ones((ROWS, ROWS), device=device, dtype=torch.bool).tril()
        bias[:, visible : visible + ROWS].masked_fill_(~sees, float("-inf"))
        bias[:, visible + ROWS :].fill_(float("-inf"))
        bias = bias.repeat(groups, 1)
        expected = attend(queries.float(), keys.float(), values.float(), bias.float(), groups)
        found[visible] = {}
        for kernels in (Kernels(each, split) for each in MaskedKernel for split in (False, True)):
            whole = (visible - 1) // BLOCK * BLOCK if kernels.split else 0
            tail = bias[:, whole:]

            def work(masked: MaskedKernel = kernels.masked, tail: Tensor = tail) -> Tensor:
                return attend(queries, keys, values, tail, groups, masked)  # noqa: B023

            try:
                difference = float((work().float() - expected).abs().amax())
                if not difference <= TOLERANCE:
                    _log.info("attention by %s is off by %s", kernels, difference)
                    continue
                found[visible][kernels] = clock(work, device)
            except RuntimeError as error:  # no such kernel, or no memory for it
                _log.info("attention by %s: %s", kernels, error)
    return found


def device_ms(work: Callable[[], Tensor], device: torch.device) -> float:
    """The time of a GPU, without that of the host: it sleeps until everything is launched."""
    stream, taken = torch.cuda.current_stream(device), []
    for _ in range(1 + REPEATS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda._sleep(SLEEP)  # type: ignore[no-untyped-call]
        began.record(stream)
        for _ in range(CALLS):
            work()
        ended.record(stream)
        ended.synchronize()
        taken.append(float(began.elapsed_time(ended)) / CALLS)
    return median(taken[1:])


def _kept(path: Path) -> AttentionChoice | None:
    from sequoia_core.files import decode, parse_json

    try:
        found: AttentionChoice = decode(AttentionChoice, parse_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.info("%s is damaged; attention is measured again: %s", path, error)
        return None
    return found


def _keep(choice: AttentionChoice, path: Path) -> None:
    from sequoia_core.files import encode, write_whole

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(encode(choice)))
    except OSError as error:
        _log.info("what was measured of attention is not kept: %s", error)
