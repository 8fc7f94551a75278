"""What forwards take by their rows, drafting by its tree, and what a whole step is made of."""

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, supported_activities

from sequoia_core.config import SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.measure.gpu_day.clock import CallTime
from sequoia_core.measure.gpu_day.day import TEMPERATURES, GpuDay, best_tree, eagerly
from sequoia_core.measure.gpu_day.decoding import PairDecoder, label
from sequoia_core.measure.gpu_day.scale import Workload
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.speculate.draft import DraftModel, GrowPlan, grow
from sequoia_core.speculate.draft_loop import Grow, grower
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap

MOST_DRAFTED = 64  # rows of a level
PROFILED, WARM_UPS = 4, 3  # steps, and as many rounds of them before
SHOWN = 12  # kernels
CALLS = {
    "launches": ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"),
    "graph launches": ("cudaGraphLaunch",),
    "copies": ("cudaMemcpyAsync", "cudaMemcpy"),
    "waits": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
}
"""Calls of CUDA that are counted together."""


def forwards(day: GpuDay) -> None:
    """t(n) of the target and of the draft: eager, as a graph, and as the engine replays graphs."""
    workload = day.scale.workloads[0]
    target, draft = day.pair(workload)
    _curve(day, "target", target, workload, 10**6)
    _curve(day, "draft", draft, workload, MOST_DRAFTED)
    day.report_graphs()


def large_vocabulary_forwards(day: GpuDay) -> None:
    workload = day.scale.workloads[1]
    _curve(day, "target", day.pair(workload)[0], workload, 10**6)
    day.report_graphs()


def device_ms(events: Iterable[Any]) -> dict[str, float]:
    """Milliseconds a step of each kernel and copy, by averaged events of the profiler.

    Operators state the time of the kernels that they launched, too; only the device's own events
    are counted.
    """
    return {
        event.key: event.self_device_time_total / 1e3 / PROFILED
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    }


@torch.inference_mode()
def _curve(day: GpuDay, name: str, model: Llama, workload: Workload, most: int) -> None:
    for context in workload.contexts:
        cache, ids = model.new_cache(), _text(day, workload, context)
        taken = day.clock.time(lambda: _read(model, cache, ids), 1).whole  # noqa: B023
        values = {"ms": taken, "tokens/s": 1e3 * context / taken}
        day.report.row(f"{name}, prompt of {context} tokens", values)
        for rows in workload.rows:
            if not day.has(20):
                return
            if rows <= most:
                forward(day, f"{name}, {rows} rows, {context} tokens", (model, cache), rows)


def _text(day: GpuDay, workload: Workload, count: int) -> Tensor:
    return torch.arange(count, device=day.device) % workload.text_length


def _read(model: Llama, cache: LayeredKVCache, token_ids: Tensor) -> None:
    cache.truncate(0)
    model.extend(token_ids, cache)


def forward(day: GpuDay, name: str, at: tuple[Llama, LayeredKVCache], rows: int) -> None:
    """Time it, and whether its graph computes the same; `recorded` is of any length, in buckets."""
    model, cache = at
    context = cache.length
    ids = torch.arange(rows, device=day.device) % model.vocab_size
    positions = torch.arange(context, context + rows, device=day.device)
    mask = None
    if rows > 1:
        mask = torch.ones((rows, rows), dtype=torch.bool, device=day.device).tril()

    def call() -> Tensor:
        cache.truncate(context)
        return model.forward_eagerly(ids, positions, mask, cache)

    def replayed() -> Tensor:
        cache.truncate(context)
        return model.forward(ids, positions, mask, cache)

    repeats = day.scale.repeats
    eager = day.clock.time(call, repeats)
    expected, graph = call().clone(), day.clock.runner.record(call)
    graph.outputs.fill_(-1.0)
    graph.replay()
    largest = float((graph.outputs - expected).abs().max())
    values = {
        **eager.row(),
        "graph ms": day.clock.time(graph.replay, repeats).whole,
        "graph differs by": largest,
        "recorded ms": day.clock.time(replayed, repeats).whole,
        "recorded differs by": float((replayed() - expected).abs().max()),
    }
    day.report.row(name, values)


@torch.inference_mode()
def drafting(day: GpuDay) -> None:
    """A whole tree by the draft, from one pending token: as one recording, and eager."""
    workload = day.scale.workloads[0]
    context = workload.contexts[0]
    for temperature in TEMPERATURES:
        _, draft = day.pair(workload, temperature)
        drafts, cache = DraftModel(draft), draft.new_cache()
        _read(draft, cache, _text(day, workload, context))
        params = SamplingParams(temperature=temperature, seed=1)
        choose = Sampler.of(params, day.device).choose
        for nodes, depth in workload.trees:
            plan = GrowPlan(best_tree(nodes, depth, temperature), day.device)
            pending = torch.zeros(1, dtype=torch.int64, device=day.device)

            def timed(draw: Grow) -> CallTime:
                def call() -> None:
                    cache.truncate(context)  # noqa: B023  called in this turn
                    draw(plan, pending, cache, choose)  # noqa: B023

                return day.clock.time(call, day.scale.repeats)

            with eagerly(draft):
                eager = timed(partial(grow, drafts))
            values = {**timed(grower(drafts)).row(), "eager ms": eager.whole}
            day.report.row(label(temperature, f"tree {nodes}x{depth}"), values)
        day.report_graphs(label(temperature, "graphs"))


def profiled(day: GpuDay) -> None:
    """Steps under PyTorch's profiler: calls a step, and what the device computes."""
    workload = day.scale.workloads[0]
    nodes, depth = workload.judged
    for temperature in reversed(TEMPERATURES):
        pair = day.pair(workload, temperature)
        judged = f"tree {nodes}x{depth}", best_tree(nodes, depth, temperature)
        for name, tree in (judged, ("plain", ROOT)):
            if day.has(15):
                _profile(day, pair, (temperature, name, tree))
        with eagerly(*pair):
            if day.has(15):
                _profile(day, pair, (temperature, f"{judged[0]}, eager", judged[1]))


def _profile(day: GpuDay, pair: tuple[Llama, Llama], way: tuple[float, str, GrowMap]) -> None:
    (target, draft), (temperature, name, tree) = pair, way
    decoder = PairDecoder(target, draft if tree.size > 1 else None)
    decoder.read(day.scale.workloads[0].prompt_ids)
    sampler = Sampler.of(SamplingParams(temperature=temperature, seed=5), day.device)

    def steps() -> None:
        for _ in range(PROFILED):
            decoder.keep(*decoder.step(tree, sampler))
        day.clock.wait()

    for _ in range(WARM_UPS):  # in which recordings are made
        steps()
    decoder.read(day.scale.workloads[0].prompt_ids)  # the same spans again, none of them new
    if day.clock.on_gpu:  # before CUDA 12.6, graphs crash without (PyTorch's PR 112507)
        os.environ |= {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}
    wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & supported_activities()  # type: ignore[no-untyped-call]
    with profile(activities=wanted) as seen:
        steps()
    events = seen.key_averages()
    calls = {event.key: event.count / PROFILED for event in events}
    counts = {kind: sum(calls.get(each, 0.0) for each in names) for kind, names in CALLS.items()}
    operators = sum(count for key, count in calls.items() if key.startswith("aten::"))
    busy = device_ms(events)
    total = sum(busy.values())
    values = {"operators": operators, **counts, **({"device ms": total} if total > 0 else {})}
    day.report.row(label(temperature, name), values)
    if tree.size > 1 and total > 0:
        for key in sorted(busy, key=busy.__getitem__, reverse=True)[:SHOWN]:
            row = f"{label(temperature, name)}: {key[:90]}"
            day.report.row(row, {"device ms": busy[key], "calls": calls[key]})
