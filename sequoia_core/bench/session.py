"""One benchmark from beginning to end: all systems, all runs, and the memory each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from sequoia_core.bench import BenchPlan, names
from sequoia_core.bench.comparison import WARM_UP_TOKENS, ComparisonSet, SpeedComparison, compare
from sequoia_core.bench.conditions import (
    PREFILL_PARAMS,
    PREFILL_TOKENS,
    WithBusyProcess,
    long_prompt,
)
from sequoia_core.bench.divergence import describe_divergences, find_divergence
from sequoia_core.bench.findings import BenchFindings, Conditions
from sequoia_core.bench.memory import weight_bytes
from sequoia_core.bench.model_factory import ModelFactory, Sources
from sequoia_core.bench.own_systems import sized_systems
from sequoia_core.bench.process import ProcessSystem, start_systems
from sequoia_core.bench.runs import NoSpeedError, PeerError, System
from sequoia_core.bench.summary import best_tree, speeds
from sequoia_core.bench.systems import AVX2, BASELINES, OWN, PEERS
from sequoia_core.config import SamplingParams
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.events import Progress
from sequoia_core.measure.calibration import Band
from sequoia_core.measure.spread import Spread
from sequoia_core.model.native.library import instruction_sets
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

SEED = 17
PREFILL_ROUNDS = 3
BUSY_PROMPTS = 5
READERS = (
    names.PLAIN, names.PYTORCH, names.HF_PLAIN, names.LLAMA_CPP, names.LLAMA_CPP_Q4_0,
    names.LLAMA_SERVER, names.OPENVINO,
)  # fmt: skip
"""Systems that read a long prompt; every other one reads it as one of these does."""

_Result = TypeVar("_Result")


def measure(pair: Pair, plan: BenchPlan, progress: Progress) -> BenchFindings:
    """Measure all that the plan asks for.

    An interrupt ends the measuring; what all systems have decoded until then is the result. The
    pair is loaded as the plan says.

    Raises:
        KeyboardInterrupt: it comes before every system has decoded a prompt.
        ParameterError: the prompts cannot be read, or are fewer.
    """
    template = ChatTemplate(pair.tokenizer, None)
    prompts = [template.whole([], text) for text in prompt_texts(plan.prompts, plan.count)]
    with TemporaryDirectory() as folder:
        factory = ModelFactory(_sources(pair, plan, folder), pair)
        return BenchSession(factory, plan, prompts, progress).run()


class BenchSession:
    """The parts of a benchmark, in order."""

    def __init__(
        self, factory: ModelFactory, plan: BenchPlan, prompts: list[list[int]], progress: Progress
    ) -> None:
        self._factory, self._plan = factory, plan
        self._prompts, self._progress = prompts, progress
        self._greedy = SamplingParams(0.0, seed=SEED, max_new_tokens=plan.tokens)
        self.absent: dict[str, str] = {}
        self._interrupted = False

    def run(self) -> BenchFindings:
        """Measure everything."""
        plan, factory, pair = self._plan, self._factory, self._factory.pair
        calibrate(factory, plan.temperatures, self._progress)
        tuned = factory.tuner.summary(max(plan.temperatures))
        self._progress("Loading the other systems", None)
        others = (*(BASELINES if pair.native else ()), *(PEERS if plan.peers else ()))
        with start_systems(factory, (*OWN, *others)) as started:
            self.absent |= started.absent
            sized = sized_systems(pair, factory.advisor, plan.tree_sizes if pair.draft else ())
            samplings = [replace(self._greedy, temperature=each) for each in plan.temperatures]
            found = self._compare([*started.systems, *sized.values()], self._prompts, samplings)
            kept = [system for system in started.systems if system.name not in found.broken]
            comparisons = tuple(_only(each, kept) for each in found.comparisons)
            conditions = self._conditions(kept, comparisons)
            memory = self._unless_interrupted(lambda: self.memory(kept, comparisons)) or {}
        return BenchFindings(
            pair=pair.description,
            tuned=tuned,
            threads=factory.sources.threads,
            comparisons=comparisons,
            sweeps=tuple(_sweep(each, sized) for each in found.comparisons),
            divergences=tuple(_divergences(pair, self._prompts, comparisons)),
            absent=self.absent,
            memory=memory,
            weights=weight_bytes(factory.sources),
            conditions=conditions,
            peer_dtype=factory.sources.dtype,
            interrupted=self._interrupted,
        )

    def _compare(
        self,
        systems: Sequence[System],
        prompts: Sequence[list[int]],
        samplings: Sequence[SamplingParams],
    ) -> ComparisonSet:
        found = compare(systems, prompts, samplings, self._progress)
        self.absent |= found.broken
        self._interrupted |= found.interrupted
        return found

    def _conditions(
        self, systems: Sequence[System], comparisons: Sequence[SpeedComparison]
    ) -> Conditions:
        if not self._plan.conditions:
            return Conditions()
        window = self._factory.pair.description.context_window
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
        self, systems: Sequence[System], prompts: Sequence[list[int]], sampling: SamplingParams
    ) -> SpeedComparison | None:
        """A comparison in one way of sampling; None where it was interrupted at once."""
        found = self._unless_interrupted(lambda: self._compare(systems, prompts, [sampling]))
        return found.comparisons[0] if found else None

    def _avx2(self) -> SpeedComparison | None:
        """Plain decoding with AVX2 alone, where the native library has it."""
        if not self._factory.pair.native or "avx2" not in instruction_sets():
            return None
        with start_systems(self._factory, AVX2) as started:
            self.absent |= started.absent
            return self._one(started.systems, self._prompts, self._greedy)

    def memory(
        self, systems: Sequence[System], comparisons: Sequence[SpeedComparison]
    ) -> dict[str, int]:
        """Bytes by system, of processes that have decoded.

        This engine's systems share a process, so plain decoding and the best tree are measured in
        new ones; its other trees need as much as that one.
        """
        if not self._plan.memory:
            return {}
        used: dict[str, int] = {}
        wanted = {names.PLAIN, best_tree(comparisons)}
        own = [replace(each, here=False) for each in OWN if each.name in wanted]
        with start_systems(self._factory, own) as started:
            for system in started.systems:
                self._progress(f"Measuring memory: {system.name}", None)
                self._measure_memory(system, used, self._prompts[0])
        for system in systems:
            self._measure_memory(system, used)
        return used

    def _measure_memory(
        self, system: System, used: dict[str, int], prompt: Sequence[int] | None = None
    ) -> None:
        """Ask a process for its peak, after an answer if it is given a prompt."""
        if not isinstance(system, ProcessSystem):
            return
        try:
            if prompt is not None:
                with suppress(NoSpeedError):
                    system.run(prompt, self._greedy)
            used[system.name] = system.peak_memory()
        except PeerError as error:
            self.absent[f"{system.name}, memory"] = str(error)

    def _unless_interrupted(self, part: Callable[[], _Result]) -> _Result | None:
        if self._interrupted:
            return None
        try:
            return part()
        except KeyboardInterrupt:
            self._interrupted = True
            return None


def calibrate(factory: ModelFactory, temperatures: Sequence[float], progress: Progress) -> None:
    """Measure the pair at these temperatures now: older figures may be of a busier machine."""
    if factory.pair.draft is None:
        return
    wanted = {Band.of(each): each for each in sorted(temperatures)}
    if len(wanted) > 1:
        wanted.pop(Band.GREEDY, None)  # measured at any other too
    for temperature in reversed(wanted.values()):
        for message, fraction in factory.tuner.measure(temperature):
            progress(message, fraction)


def _sources(pair: Pair, plan: BenchPlan, folder: str) -> Sources:
    from sequoia_core.model.device import choose_dtype, dtype_name
    from sequoia_core.model.loading.sources import embedded_target_path

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
        dtype=dtype_name(choose_dtype(plan.dtype, (pair.target.device,))),
        threads=pair.description.threads,
        weights=plan.weights,
        own_dtype=plan.dtype,
        offload=plan.offload,
        gguf=gguf,
        folder=folder,
    )


def _only(comparison: SpeedComparison, systems: Sequence[System]) -> SpeedComparison:
    runs = {system.name: comparison.runs[system.name] for system in systems}
    return SpeedComparison(comparison.params, runs)


def _sweep(comparison: SpeedComparison, sized: Mapping[int, System]) -> dict[int, Spread]:
    by_name = speeds(comparison)
    systems = {1: names.PLAIN, **{size: system.name for size, system in sized.items()}}
    return {size: by_name[name] for size, name in systems.items() if name in by_name}


def _divergences(
    pair: Pair, prompts: Sequence[Sequence[int]], comparisons: Sequence[SpeedComparison]
) -> Iterator[str]:
    for comparison in comparisons:
        if comparison.params.temperature == 0.0:
            baseline, *others = comparison.runs.items()
            for name, runs in others:
                texts = zip(prompts[: len(runs)], baseline[1], runs, strict=True)
                yield describe_divergences(name, [
                    find_divergence(pair.target, ids, base.token_ids, run.token_ids)
                    for ids, base, run in texts
                ])  # fmt: skip
