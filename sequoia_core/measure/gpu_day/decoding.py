"""Tokens per second of this engine: plain, a chain, trees; and plain decoding by others' means."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from sequoia_core.config import SamplingParams
from sequoia_core.decode.step import MOST_PENDING, Sampler, Speculator
from sequoia_core.decode.timed_model import timed
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.measure.gpu_day.day import TEMPERATURES, GpuDay, best_tree, eagerly, rates
from sequoia_core.measure.gpu_day.scale import Workload
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import graphs_of
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.verify import Verdict
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Of one step, in milliseconds; `draft` and `verify` are of the models' forwards."""

    tokens: int
    whole: float
    draft: float
    verify: float


@dataclass(frozen=True, slots=True)
class DecodedText:
    token_ids: list[int]
    steps: list[StepTimes]

    @property
    def tokens_per_step(self) -> float:
        return len(self.token_ids) / len(self.steps)

    def row(self) -> dict[str, float]:
        """Without the first step, which reads what the draft had not."""
        steps = self.steps[1:] or self.steps
        tokens, whole = sum(each.tokens for each in steps), math.fsum(s.whole for s in steps)
        draft, verify, middle = (
            median(getattr(each, name) for each in steps) for name in ("draft", "verify", "whole")
        )
        return {
            "tokens/step": tokens / len(steps),
            "ms/step": middle,
            "draft ms": draft,
            "verify ms": verify,
            "rest ms": middle - draft - verify,
            "ms/token": whole / tokens,
            "tokens/s": 1e3 * tokens / whole,
        }


class PairDecoder:
    """Decodes as the engine does, without text and events."""

    def __init__(self, target: Llama, draft: Llama | None) -> None:
        self._target, self._draft = timed(target), timed(draft) if draft else None
        self.cache = TokenCache(target, draft)
        drafts = DraftModel(self._draft) if self._draft else None
        graphs = graphs_of(target)
        self._speculator = Speculator(self._target, drafts, self.cache, graphs=graphs)

    def read(self, prompt: Sequence[int]) -> None:
        self.cache.start(prompt)
        for _ in self.cache.read_prompt():
            pass
        if self._draft is not None:
            for _ in self.cache.read_draft_prompt(MOST_PENDING):
                pass
        self._target.wait()

    def step(self, tree: GrowMap, sampler: Sampler) -> tuple[ScoredTree, Verdict]:
        """One step; nothing of it is kept until `keep`."""
        return self._speculator.step(tree, sampler)

    def keep(self, scored: ScoredTree, verdict: Verdict) -> list[int]:
        emitted = scored.emitted(verdict.path, verdict.bonus_token)
        self._speculator.commit(scored, verdict.path, emitted)
        return emitted

    def decode(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        tree: GrowMap,
        count: int,
        go_on: Callable[[], bool] = lambda: True,
    ) -> DecodedText:
        """At least so many tokens, or fewer where it is not to go on."""
        self.read(prompt)
        sampler = Sampler.of(params, self._target.device)
        found, steps = list[int](), list[StepTimes]()
        self._take_times()
        while len(found) < count and (go_on() or not steps):
            began = perf_counter()
            emitted = self.keep(*self.step(tree, sampler))
            whole = (perf_counter() - began) * 1e3
            found += emitted
            steps.append(StepTimes(len(emitted), whole, *self._take_times()))
        return DecodedText(found, steps)

    def _take_times(self) -> tuple[float, float]:
        return self._draft.take_ms() if self._draft else 0.0, self._target.take_ms()


def shapes(workload: Workload, temperature: float) -> dict[str, GrowMap]:
    """Plain decoding, a chain and the trees, by name."""
    trees = {
        f"tree {nodes}x{depth}": best_tree(nodes, depth, temperature)
        for nodes, depth in workload.trees
    }
    return {"plain": ROOT, f"chain {workload.chain}": GrowMap.chain(workload.chain), **trees}


def decoding(day: GpuDay) -> None:
    decode_all(day, day.scale.workloads[0])


def large_vocabulary(day: GpuDay) -> None:
    decode_all(day, day.scale.workloads[1])


def decode_all(day: GpuDay, workload: Workload) -> None:
    """Each shape at each temperature by graphs, as the engine decodes, and some without."""
    for temperature in TEMPERATURES:
        pair = day.pair(workload, temperature)
        known = shapes(workload, temperature)
        for name, tree in known.items():
            decode_one(day, workload, pair, (temperature, name, tree))
        judged = "tree {}x{}".format(*workload.judged)
        with eagerly(*pair):
            for name in ("plain", judged):
                decode_one(day, workload, pair, (temperature, f"{name}, eager", known[name]))
        day.report_graphs(label(temperature, "graphs"))
    if memory := day.clock.memory():
        day.report.row("memory", memory)


def decode_one(
    day: GpuDay, workload: Workload, pair: tuple[Llama, Llama], way: tuple[float, str, GrowMap]
) -> None:
    """Decode the text that the pair knows, twice: the first time records and chooses kernels."""
    (target, draft), (temperature, name, tree) = pair, way
    prompt, params = workload.prompt_ids, SamplingParams(temperature=temperature, seed=5)
    decoder = PairDecoder(target, draft if tree.size > 1 else None)
    for _ in range(2):
        if not day.has(15):
            return
        found = decoder.decode(prompt, params, tree, workload.tokens, lambda: day.has(10))
    expected = tree.expected_tokens(rates(temperature))
    values: dict[str, float | bool] = {"expected": expected, **found.row()}
    if temperature == 0.0:
        length = workload.text_length
        following = [(prompt[-1] + 1 + at) % length for at in range(len(found.token_ids))]
        values["lossless"] = found.token_ids == following
    day.report.row(label(temperature, name), values)


def label(temperature: float, name: str) -> str:
    """The row of a shape."""
    return f"T={temperature:g} {name}"


@torch.inference_mode()
def graphed_plain(day: GpuDay) -> None:
    """Plain decoding at its best, as what trees are compared with: a token is one graph.

    The graph reads the token that it wrote last; the host waits for each of them.
    """
    workload = day.scale.workloads[0]
    target, length = day.target(workload), workload.text_length
    count = day.scale.calls
    for context in workload.contexts:
        cache = target.new_cache()
        target.extend(torch.arange(context, device=day.device) % length, cache)
        token = torch.full((1,), context % length, device=day.device)
        position = torch.full((1,), context, device=day.device)

        def work() -> None:
            cache.truncate(context)  # noqa: B023  used in this turn
            logits = target.forward_eagerly(token, position, None, cache)  # noqa: B023
            token.copy_(logits.argmax(-1))  # noqa: B023

        recording = day.clock.runner.record(work)
        before, right = int(token), 0
        began = perf_counter()
        for _ in range(count):
            recording.replay()
            after = int(token)
            right += after == (before + 1) % length
            before = after
        taken = (perf_counter() - began) * 1e3 / count
        values = {"ms/token": taken, "tokens/s": 1e3 / taken, "right": right == count}
        day.report.row(f"{context} tokens", values)


def hugging_face(day: GpuDay) -> None:
    """The paper's baseline: `generate` of transformers, on the same shape with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    workload = day.scale.workloads[0]
    entries = {key: value for key, value in workload.target.items() if key != "model_type"}
    day.forget_models()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(day.dtype)
    try:
        with day.device:
            model: Any = LlamaForCausalLM(LlamaConfig(**entries)).eval()
    finally:
        torch.set_default_dtype(usual)
    ids = torch.ones((1, workload.prompt), dtype=torch.int64, device=day.device)

    def generate(count: int) -> float:
        """Milliseconds of so many tokens after the prompt."""
        day.clock.wait()
        began = perf_counter()
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        day.clock.wait()
        return (perf_counter() - began) * 1e3

    few = 4
    many = few + day.scale.checked
    generate(few)
    taken = (generate(many) - generate(few)) / (many - few)
    day.report.row("generate", {"ms/token": taken, "tokens/s": 1e3 / taken})


def memory(day: GpuDay) -> None:
    """The most that a sampled step takes with large trees, and the cache of the whole window."""
    for workload in day.scale.workloads:
        target, draft = day.pair(workload)
        for nodes, depth in day.scale.largest_trees:
            if not day.has(15):
                return
            day.clock.forget_peak()
            decoder = PairDecoder(target, draft)
            decoder.read(workload.prompt_ids)
            sampler = Sampler.of(SamplingParams(temperature=0.6, seed=1), day.device)
            decoder.keep(*decoder.step(best_tree(nodes, depth, 0.6), sampler))
            values = {"nodes": nodes, **day.clock.memory()}
            day.report.row(f"{workload.name}, {nodes} nodes", values)
        day.clock.forget_peak()
        cache = target.new_cache()
        cache.reserve(target.context_window)
        values = {"tokens": target.context_window, **day.clock.memory()}
        day.report.row(f"{workload.name}, whole window", values)
        del target, draft, decoder, cache
