"""One benchmark from beginning to end: who takes part, all runs, and what memory each needs.

Owns the order of things and what is found. Prints and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.bench import names
from sequoia_core.bench.lineup import OWN, PEERS, line_up
from sequoia_core.bench.memory import measure_memory, weight_bytes
from sequoia_core.bench.own import sized_systems
from sequoia_core.bench.parting import describe_partings, find_parting
from sequoia_core.bench.prompts import load_prompts
from sequoia_core.bench.report import Spread
from sequoia_core.bench.runner import Comparison, Progress, compare
from sequoia_core.bench.runs import PeerError, System
from sequoia_core.bench.workshop import Sources, Workshop
from sequoia_core.chat_template import ChatTemplate
from sequoia_core.config import SamplingParams
from sequoia_core.measure.calibration import Band

if TYPE_CHECKING:
    from sequoia_core.bench import BenchPlan
    from sequoia_core.pair import Pair
    from sequoia_core.protocols import PairDescription

SEED = 17
WEIGHED = (
    names.PLAIN, names.TREE, names.HF_PLAIN, names.HF_ASSISTED,
    names.LLAMA_CPP, names.OPENVINO, names.OPENVINO_SPECULATIVE,
)  # fmt: skip
"""Systems whose memory is measured; the others need what one of these does."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything a benchmark has found.

    Attributes:
        pair: what was decoded with.
        tuned: what the machine's figures predicted before anything was compared, one line.
        threads: of every system.
        comparisons: one for each way of sampling; plain decoding is the first system.
        sweeps: for each of them speed by a fixed tree's nodes, 1 being plain decoding; without
            another entry where no sizes were asked for.
        partings: where greedy texts part from plain decoding's, one line a system.
        absent: why a system, or its memory, was not measured, by name.
        memory: bytes at the peak by system; empty where it was not measured.
        weights: bytes of both models' weights in bfloat16.
    """

    pair: PairDescription
    tuned: str
    threads: int
    comparisons: tuple[Comparison, ...]
    sweeps: tuple[Mapping[int, Spread], ...]
    partings: tuple[str, ...]
    absent: Mapping[str, str]
    memory: Mapping[str, int]
    weights: int


def run_session(pair: Pair, plan: BenchPlan, progress: Progress) -> Findings:
    """Measure all that the plan asks for.

    Args:
        pair: loaded as the plan says.
        plan: what to measure.
        progress: told what runs and which part is done.

    Raises:
        ParameterError: the prompts cannot be read, or are fewer.
    """
    template = ChatTemplate(pair.tokenizer, None)
    prompts = [template.whole([], text) for text in load_prompts(plan.prompts, plan.count)]
    samplings = [
        SamplingParams(temperature, seed=SEED, max_new_tokens=plan.tokens)
        for temperature in plan.temperatures
    ]
    with Workshop(_sources(pair, plan), pair) as workshop:
        _calibrate(workshop, plan.temperatures, progress)
        tuned = workshop.tuner.summary(max(plan.temperatures))
        progress("Loading the other systems", None)
        lineup = line_up(workshop, (*OWN, *PEERS) if plan.peers else OWN)
        sized = sized_systems(pair, workshop.advisor, plan.tree_sizes if pair.draft else ())
        outcome = compare([*lineup.systems, *sized.values()], prompts, samplings, progress)
        kept = [system for system in lineup.systems if system.name not in outcome.broken]
        comparisons = tuple(_only(each, kept) for each in outcome.comparisons)
        weighed = [system.name for system in kept if system.name in WEIGHED and plan.memory]
        memory, failed = _memory(workshop, weighed, prompts[0], progress)
        return Findings(
            pair=pair.description,
            tuned=tuned,
            threads=workshop.sources.threads,
            comparisons=comparisons,
            sweeps=tuple(_sweep(each, sized) for each in outcome.comparisons),
            partings=tuple(_partings(pair, prompts, comparisons)),
            absent=lineup.absent | outcome.broken | failed,
            memory=memory,
            weights=weight_bytes(workshop),
        )


def _calibrate(workshop: Workshop, temperatures: Sequence[float], progress: Progress) -> None:
    """Measure the pair at these temperatures now: older figures may be of a busier machine."""
    if workshop.pair.draft is None:
        return
    wanted = {Band.of(each): each for each in sorted(temperatures)}
    if len(wanted) > 1:
        wanted.pop(Band.GREEDY, None)  # measured at any other too
    for temperature in reversed(wanted.values()):
        for message, fraction in workshop.tuner.measure(temperature):
            progress(message, fraction)


def _sources(pair: Pair, plan: BenchPlan) -> Sources:
    from sequoia_core.pair import embedded_target_path, tensor_format

    if plan.target is None:
        gguf: str | None = str(embedded_target_path())
    else:
        path = Path(plan.target).expanduser()
        gguf = str(path) if path.suffix.lower() == ".gguf" and path.is_file() else None
    return Sources(
        target=plan.target,
        draft=plan.draft,
        peer_draft=plan.peer_draft,
        device=pair.description.device,
        dtype=tensor_format(plan.dtype, pair.target.device),
        threads=pair.description.threads,
        weights=plan.weights.value,
        own_dtype=plan.dtype,
        offload=plan.offload.value,
        gguf=gguf,
    )


def _only(comparison: Comparison, systems: Sequence[System]) -> Comparison:
    runs = {system.name: comparison.runs[system.name] for system in systems}
    return Comparison(comparison.params, runs)


def _sweep(comparison: Comparison, sized: Mapping[int, System]) -> dict[int, Spread]:
    named = {1: names.PLAIN, **{size: system.name for size, system in sized.items()}}
    return {
        size: Spread.of([run.tokens_per_second for run in comparison.runs[name]])
        for size, name in named.items()
    }


def _memory(
    workshop: Workshop, systems: Sequence[str], prompt: Sequence[int], progress: Progress
) -> tuple[dict[str, int], dict[str, str]]:
    """Bytes by system, and why not of those that failed."""
    used: dict[str, int] = {}
    failed: dict[str, str] = {}
    for at, name in enumerate(systems):
        progress(f"Measuring memory: {name}", at / len(systems))
        try:
            used[name] = measure_memory(workshop.for_a_process(), name, prompt)
        except PeerError as error:
            failed[f"{name}, memory"] = str(error)
    return used, failed


def _partings(
    pair: Pair, prompts: Sequence[Sequence[int]], comparisons: Sequence[Comparison]
) -> Iterator[str]:
    for comparison in comparisons:
        if comparison.params.temperature == 0.0:
            baseline, *others = comparison.runs.items()
            for name, runs in others:
                texts = zip(prompts, baseline[1], runs, strict=True)
                yield describe_partings(name, [
                    find_parting(pair.target, ids, base.token_ids, run.token_ids)
                    for ids, base, run in texts
                ])  # fmt: skip
