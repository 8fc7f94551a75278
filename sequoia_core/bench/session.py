"""One benchmark from beginning to end: all systems, all runs, and the memory each needs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sequoia_core.bench import BenchPlan, names, runs
from sequoia_core.bench.findings import (
    PREFILL_TOKENS,
    BenchFindings,
    best_tree,
    describe_divergences,
    speeds,
)
from sequoia_core.bench.own_systems import sized_systems
from sequoia_core.bench.process import WorkerProcess, start_systems
from sequoia_core.bench.systems import AVX2, BASELINES, OWN, PEERS, ModelFactory, Sources
from sequoia_core.config import SamplingParams
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.events import Progress
from sequoia_core.files import expanded
from sequoia_core.measure.calibration import Band
from sequoia_core.measure.spread import Spread
from sequoia_core.model.device import choose_dtype, dtype_name
from sequoia_core.model.loading.loader import embedded_target_path, open_draft, open_target
from sequoia_core.model.native.library import instruction_sets
from sequoia_core.model.tensor_names import weight_values
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

SEED = 17
PREFILL_ROUNDS = 3
PREFILL_PARAMS = SamplingParams(0.0, max_new_tokens=2)
"""One step reads the prompt; the clock needs a second one to know that it has ended."""
BUSY_PROMPTS = 5
READERS = (
    names.PLAIN, names.PYTORCH, names.HF_PLAIN, names.LLAMA_CPP, names.LLAMA_CPP_Q4_0,
    names.LLAMA_SERVER, names.OPENVINO,
)  # fmt: skip
"""Systems that read a long prompt; every other one reads it as one of these does."""
_SETTLE_SECONDS = 0.2
_BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def measure(pair: Pair, plan: BenchPlan, progress: Progress) -> BenchFindings:
    """Measure all that the plan asks for; the pair is loaded as it says.

    An interrupt ends the measuring; what all systems have decoded until then is the result. Raises
    KeyboardInterrupt if it comes before every system has decoded a prompt, ParameterError if the
    prompts cannot be read, or are fewer.
    """
    template = ChatTemplate(pair.tokenizer, None)
    prompts = [template.whole([], text) for text in prompt_texts(plan.prompts, plan.count)]
    with TemporaryDirectory() as folder:
        factory = ModelFactory(_sources(pair, plan, folder), pair)
        return BenchSession(factory, prompts, progress).run()


class BenchSession:
    """The parts of a benchmark, in order; an interrupt ends it and keeps what is complete."""

    def __init__(self, factory: ModelFactory, prompts: list[list[int]], progress: Progress) -> None:
        sources, pair = factory.sources, factory.pair.description
        self._factory, self._plan = factory, sources.plan
        self._prompts, self._progress = prompts, progress
        self._greedy = SamplingParams(0.0, seed=SEED, max_new_tokens=self._plan.tokens)
        self.findings = BenchFindings(pair, sources.threads, sources.dtype)
        room = pair.context_window - runs.WARM_UP_TOKENS
        self.findings.prefill_tokens = min(PREFILL_TOKENS, room)

    def run(self) -> BenchFindings:
        plan, factory, pair = self._plan, self._factory, self._factory.pair
        findings = self.findings
        findings.weights = weight_bytes(plan)
        calibrate(factory, plan.temperatures, self._progress)
        findings.tuned = factory.tuner.summary(max(plan.temperatures))
        self._progress("Loading the other systems", None)
        others = (*(BASELINES if pair.native else ()), *(PEERS if plan.peers else ()))
        sizes = plan.tree_sizes if pair.draft else ()
        samplings = [replace(self._greedy, temperature=each) for each in plan.temperatures]
        with start_systems(factory, (*OWN, *others)) as started:
            findings.absent |= started.absent
            sized = sized_systems(factory, sizes)
            systems = started.systems | sized
            found = self._compare(systems, self._prompts, samplings)
            swept = dict(zip((1, *sizes), (names.PLAIN, *sized), strict=True))
            kept = {name: systems[name] for name in started.systems if name in found[0].runs}
            findings.comparisons = tuple(
                runs.SpeedComparison(
                    each.params, {name: each.runs[name] for name in kept}, _sizes(each, swept)
                )
                for each in found
            )
            processes = {name: each for name, each in started.processes.items() if name in kept}
            try:
                self._measure_conditions(kept)
                self.measure_memory(processes)
            except KeyboardInterrupt:
                findings.interrupted = True
        texts = describe_divergences(pair.target, self._prompts, findings.comparisons)
        findings.divergences = tuple(texts)
        return findings

    def _compare(
        self,
        systems: Mapping[str, runs.Decode],
        prompts: Sequence[list[int]],
        samplings: Sequence[SamplingParams],
    ) -> tuple[runs.SpeedComparison, ...]:
        found = runs.compare(systems, prompts, samplings, self._progress)
        self.findings.absent |= found.broken
        self.findings.interrupted |= found.interrupted
        return found.comparisons

    def _one(
        self,
        systems: Mapping[str, runs.Decode],
        prompts: Sequence[list[int]],
        params: SamplingParams,
    ) -> runs.SpeedComparison | None:
        """A comparison in one way of sampling; None after an interrupt, or if no system is left."""
        if self.findings.interrupted:
            return None
        (found,) = self._compare(systems, prompts, [params])
        return found if found.runs else None

    def _measure_conditions(self, systems: Mapping[str, runs.Decode]) -> None:
        if not self._plan.conditions:
            return
        findings, prompts = self.findings, self._prompts
        readers = {name: systems[name] for name in systems if name in READERS}
        joined, length = [token for ids in prompts for token in ids], findings.prefill_tokens
        long = (joined * -(-length // len(joined)))[:length]
        findings.prefill = self._one(readers, [long] * PREFILL_ROUNDS, PREFILL_PARAMS)
        neighbours: dict[str, runs.Decode] = {}
        watched = (names.PLAIN, best_tree(findings.comparisons), names.LLAMA_CPP)
        for name, decode in systems.items():
            if name in watched:
                neighbours |= {name: decode, names.busy(name): with_busy_process(decode)}
        findings.busy = self._one(neighbours, prompts[:BUSY_PROMPTS], self._greedy)
        if self._factory.pair.native and "avx2" in instruction_sets() and not findings.interrupted:
            with start_systems(self._factory, AVX2) as started:
                findings.absent |= started.absent
                findings.avx2 = self._one(started.systems, prompts, self._greedy)

    def measure_memory(self, processes: Mapping[str, WorkerProcess]) -> None:
        """Of processes that have decoded.

        This engine's systems share a process, so plain decoding and the best tree are measured in
        new ones; its other trees need as much as that one.
        """
        if self.findings.interrupted or not self._plan.memory:
            return
        wanted = (names.PLAIN, best_tree(self.findings.comparisons))
        own = [replace(each, here=False) for each in OWN if each.name in wanted]
        with start_systems(self._factory, own) as started:
            for name, process in {**started.processes, **processes}.items():
                try:
                    if name in started.processes:
                        self._progress(f"Measuring memory: {name}", None)
                        with suppress(runs.NoSpeedError):
                            process.decode(self._prompts[0], self._greedy)
                    self.findings.memory[name] = int(process.ask(peak_memory=True))
                except runs.PeerError as error:
                    self.findings.absent[f"{name}, memory"] = str(error)


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


def _sizes(comparison: runs.SpeedComparison, swept: Mapping[int, str]) -> dict[int, Spread]:
    by_name = speeds(comparison)
    return {size: by_name[name] for size, name in swept.items() if name in by_name}


def _sources(pair: Pair, plan: BenchPlan, folder: str) -> Sources:
    path = embedded_target_path() if plan.target is None else expanded(plan.target)
    is_gguf = path.suffix.lower() == ".gguf" and path.is_file()
    return Sources(
        plan=plan,
        device=pair.description.device,
        dtype=dtype_name(choose_dtype(plan.dtype, (pair.target.device,))),
        threads=pair.description.threads,
        gguf=str(path) if is_gguf else None,
        folder=folder,
    )


def weight_bytes(plan: BenchPlan) -> int:
    """Size of the pair's weights in bfloat16, a borrowed embedding counted once."""
    opened = (open_target(plan.target), open_draft(plan.target, plan.draft))
    return 2 * sum(weight_values(model.config) for model in opened if model is not None)


def with_busy_process(decode: runs.Decode) -> runs.Decode:
    """The system, while another process keeps one core busy."""

    def decode_in_company(prompt_ids: Sequence[int], params: SamplingParams) -> runs.Run:
        with busy_cores(1):
            return decode(prompt_ids, params)

    return decode_in_company


@contextmanager
def busy_cores(processes: int) -> Iterator[None]:
    """Run other processes that each keep a core busy; they end with this one, however it ends."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY_LOOP]) for _ in range(processes)]
    try:
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()
