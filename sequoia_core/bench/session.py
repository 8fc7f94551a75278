"""One benchmark from beginning to end: who takes part, all runs, and what memory each needs.

Owns the order of things and what is found. Prints and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from sequoia_core.bench import names
from sequoia_core.bench.conditions import (
    PREFILL_PARAMS,
    PREFILL_TOKENS,
    WithBusyProcess,
    long_prompt,
)
from sequoia_core.bench.contenders import AVX2, BASELINES, OWN, PEERS, Contender
from sequoia_core.bench.findings import Conditions, Findings
from sequoia_core.bench.lineup import Lineup, line_up
from sequoia_core.bench.memory import weight_bytes
from sequoia_core.bench.own import sized_systems
from sequoia_core.bench.parting import describe_partings, find_parting
from sequoia_core.bench.report import best_tree
from sequoia_core.bench.runner import WARM_UP_TOKENS, Comparison, Outcome, compare
from sequoia_core.bench.runs import NoSpeedError, PeerError, System
from sequoia_core.bench.worker import ProcessSystem
from sequoia_core.bench.workshop import Sources, Workshop
from sequoia_core.config import SamplingParams
from sequoia_core.data.prompts import load_prompts
from sequoia_core.events import Progress
from sequoia_core.measure.calibration import Band
from sequoia_core.measure.spread import Spread
from sequoia_core.model.loading.pair import instruction_sets
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from sequoia_core.bench import BenchPlan
    from sequoia_core.model.loading.pair import Pair

SEED = 17
PREFILL_ROUNDS = 3
BUSY_PROMPTS = 5
READERS = (
    names.PLAIN, names.PYTORCH, names.HF_PLAIN, names.LLAMA_CPP, names.LLAMA_CPP_Q4_0,
    names.LLAMA_SERVER, names.OPENVINO,
)  # fmt: skip
"""Systems that read a long prompt; the others read it as one of these does."""

_Found = TypeVar("_Found")


def run_session(pair: Pair, plan: BenchPlan, progress: Progress) -> Findings:
    """Measure all that the plan asks for.

    An interrupt ends the measuring; what all systems have decoded until then is the result.

    Args:
        pair: loaded as the plan says.
        plan: what to measure.
        progress: told what runs and which part is done.

    Raises:
        KeyboardInterrupt: it comes before every system has decoded a prompt.
        ParameterError: the prompts cannot be read, or are fewer.
    """
    template = ChatTemplate(pair.tokenizer, None)
    prompts = [template.whole([], text) for text in load_prompts(plan.prompts, plan.count)]
    with TemporaryDirectory() as folder:
        workshop = Workshop(_sources(pair, plan, folder), pair)
        return _Session(workshop, plan, prompts, progress).run()


class _Session:
    """The parts of a benchmark, in order."""

    def __init__(
        self, workshop: Workshop, plan: BenchPlan, prompts: list[list[int]], progress: Progress
    ) -> None:
        self._workshop, self._plan = workshop, plan
        self._prompts, self._progress = prompts, progress
        self._native = workshop.pair.native
        self._greedy = SamplingParams(0.0, seed=SEED, max_new_tokens=plan.tokens)
        self._absent: dict[str, str] = {}
        self._interrupted = False

    def run(self) -> Findings:
        """Everything."""
        plan, workshop, pair = self._plan, self._workshop, self._workshop.pair
        _calibrate(workshop, plan.temperatures, self._progress)
        tuned = workshop.tuner.summary(max(plan.temperatures))
        self._progress("Loading the other systems", None)
        others = (*(BASELINES if self._native else ()), *(PEERS if plan.peers else ()))
        with line_up(workshop, (*OWN, *others)) as lineup:
            self._absent |= lineup.absent
            sized = sized_systems(pair, workshop.advisor, plan.tree_sizes if pair.draft else ())
            samplings = [replace(self._greedy, temperature=each) for each in plan.temperatures]
            outcome = self._compare([*lineup.systems, *sized.values()], self._prompts, samplings)
            kept = [system for system in lineup.systems if system.name not in outcome.broken]
            comparisons = tuple(_only(each, kept) for each in outcome.comparisons)
            conditions = self._conditions(kept, comparisons)
            memory = self._unless_interrupted(lambda: self._memory(kept, comparisons)) or {}
        return Findings(
            pair=pair.description,
            tuned=tuned,
            threads=workshop.sources.threads,
            comparisons=comparisons,
            sweeps=tuple(_sweep(each, sized) for each in outcome.comparisons),
            partings=tuple(_partings(pair, self._prompts, comparisons)),
            absent=self._absent,
            memory=memory,
            weights=weight_bytes(workshop),
            conditions=conditions,
            peer_dtype=workshop.sources.dtype,
            interrupted=self._interrupted,
        )

    def _compare(
        self,
        systems: Sequence[System],
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[SamplingParams],
    ) -> Outcome:
        outcome = compare(systems, prompts, samplings, self._progress)
        self._absent |= outcome.broken
        self._interrupted |= outcome.interrupted
        return outcome

    def _conditions(
        self, systems: Sequence[System], comparisons: Sequence[Comparison]
    ) -> Conditions:
        if not self._plan.conditions:
            return Conditions()
        window = self._workshop.pair.description.context_window
        length = min(PREFILL_TOKENS, window - WARM_UP_TOKENS)
        readers = [system for system in systems if system.name in READERS]
        prompts = [long_prompt(self._prompts, length)] * PREFILL_ROUNDS
        tree = best_tree(comparisons)
        watched = [each for each in systems if each.name in (names.PLAIN, tree, names.LLAMA_CPP)]
        neighbours = [each for one in watched for each in (one, WithBusyProcess(one))]
        return Conditions(
            prefill=self._one(readers, prompts, PREFILL_PARAMS),
            busy=self._one(neighbours, self._prompts[:BUSY_PROMPTS], self._greedy),
            avx2=self._unless_interrupted(self._avx2),
            prefill_tokens=length,
        )

    def _one(
        self,
        systems: Sequence[System],
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
    ) -> Comparison | None:
        """A comparison in one way of sampling; None where it was interrupted at once."""
        outcome = self._unless_interrupted(lambda: self._compare(systems, prompts, [sampling]))
        return outcome.comparisons[0] if outcome else None

    def _avx2(self) -> Comparison | None:
        """Plain decoding with AVX2 alone, where the native library has it."""
        if not self._native or "avx2" not in instruction_sets():
            return None
        with line_up(self._workshop, AVX2) as lineup:
            self._absent |= lineup.absent
            return self._one(lineup.systems, self._prompts, self._greedy)

    def _memory(
        self, systems: Sequence[System], comparisons: Sequence[Comparison]
    ) -> dict[str, int]:
        """Bytes by system: of processes that have decoded, and of new ones for those that run here.

        Of this engine plain decoding and the best tree are measured; its other trees need the same.
        """
        used: dict[str, int] = {}
        wanted = {names.PLAIN, best_tree(comparisons)} if self._plan.memory else set()
        own = [each for each in OWN if each.name in wanted]
        if self._plan.memory:
            with _elsewhere(self._workshop, own) as lineup:
                for system in lineup.systems:
                    self._progress(f"Measuring memory: {system.name}", None)
                    self._weigh(system, used, self._prompts[0])
            for system in systems:
                self._weigh(system, used)
        return used

    def _weigh(
        self, system: System, used: dict[str, int], prompt: Sequence[int] | None = None
    ) -> None:
        """Ask a process for its peak, after an answer if it has given none."""
        if not isinstance(system, ProcessSystem):
            return
        try:
            if prompt is not None:
                _answer(system, prompt, self._greedy)
            used[system.name] = system.peak_memory()
        except PeerError as error:
            self._absent[f"{system.name}, memory"] = str(error)

    def _unless_interrupted(self, measure: Callable[[], _Found]) -> _Found | None:
        if self._interrupted:
            return None
        try:
            return measure()
        except KeyboardInterrupt:
            self._interrupted = True
            return None


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


def _sources(pair: Pair, plan: BenchPlan, folder: str) -> Sources:
    from sequoia_core.model.loading.pair import embedded_target_path, tensor_format

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
        folder=folder,
    )


def _elsewhere(workshop: Workshop, contenders: Sequence[Contender]) -> Lineup:
    """Systems that run in this process, in processes of their own."""
    return line_up(workshop, [replace(each, here=False) for each in contenders])


def _answer(system: System, prompt: Sequence[int], params: SamplingParams) -> None:
    """A run, for which no speed is needed."""
    with suppress(NoSpeedError):
        system.run(prompt, params)


def _only(comparison: Comparison, systems: Sequence[System]) -> Comparison:
    runs = {system.name: comparison.runs[system.name] for system in systems}
    return Comparison(comparison.params, runs)


def _sweep(comparison: Comparison, sized: Mapping[int, System]) -> dict[int, Spread]:
    named = {1: names.PLAIN, **{size: system.name for size, system in sized.items()}}
    return {
        size: Spread.of([run.tokens_per_second for run in comparison.runs[name]])
        for size, name in named.items()
    }


def _partings(
    pair: Pair, prompts: Sequence[Sequence[int]], comparisons: Sequence[Comparison]
) -> Iterator[str]:
    for comparison in comparisons:
        if comparison.params.temperature == 0.0:
            baseline, *others = comparison.runs.items()
            for name, runs in others:
                texts = zip(prompts[: len(runs)], baseline[1], runs, strict=True)
                yield describe_partings(name, [
                    find_parting(pair.target, ids, base.token_ids, run.token_ids)
                    for ids, base, run in texts
                ])  # fmt: skip
