"""One of the published testbeds: a tree decodes a data set, plain decoding the same in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.bench.findings import ratio
from sequoia_core.bench.own_systems import engine_system
from sequoia_core.bench.runs import Decode, NoSpeedError, Run, averaged, compare
from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.figures.charts import picture
from sequoia_core.files import encode
from sequoia_core.measure.acceptance import nucleus_sampler
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce import experiment
from sequoia_core.reproduce.bootstrap import LEVEL, Interval, tokens_per_step
from sequoia_core.reproduce.step_breakdown import BreakdownTimer, StepBreakdown
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

PLAIN, TREE = "plain", "tree"  # the names of the two systems


class Measured(StrEnum):
    TREE = "tree"  # with the tree and, for the speed-up, plainly
    BASELINE = "baseline"  # plainly alone
    BENCHMARK = "benchmark"  # with the tree alone, each part of a step timed


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What is decoded and how.

    Raises ParameterError if a mass is out of range, or the tree drafts nothing.
    """

    rule: Mode
    growmap: GrowMap  # the baseline ignores it
    params: SamplingParams  # the seed of each prompt follows from this one
    measured: Measured = Measured.TREE
    cache_length: int | None = None  # tokens of text and tree, the release's `--M`; None: as needed
    draft_top_p: float = DRAFT_TOP_P  # that children are drawn from; see `nucleus_sampler`

    def __post_init__(self) -> None:
        nucleus_sampler(self.draft_top_p)
        if self.measured is not Measured.BASELINE and self.growmap.size < 2:
            raise ParameterError(
                f"growmap {self.growmap.name} drafts nothing; name a larger one, or measure the "
                "baseline alone"
            )


def pairs_growmap(pair: Pair, named: str | None, temperature: float) -> GrowMap:
    """The tree of that name, or by default the packaged one that a chat of the pair starts with.

    `auto` is the one that the figures measured on this machine advise. Raises ParameterError if
    they advise none, GrowMapError if there is no such tree, or it is malformed.
    """
    if named is None:
        advised = BundledAdvisor(pair.acceptance_rates).advise(temperature, 0, False)
        assert advised.growmap is not None
        return advised.growmap
    if named != "auto":
        return find_growmap(named)
    from sequoia_core.measure.tuner import TYPICAL_CONTEXT, Tuner

    tuner = Tuner(pair)
    if tuner.online is None:
        raise ParameterError(
            "--growmap auto: this machine has not been measured; run `sequoia calibrate`"
        )
    growmap = tuner.online.advise(temperature, TYPICAL_CONTEXT, False).growmap
    if growmap is None:
        raise ParameterError(
            "--growmap auto: plain decoding is predicted to be the fastest here; name a growmap"
        )
    return growmap


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """One system over all prompts; times are of decoding, prompt by prompt."""

    tokens_per_step: Interval  # all tokens over all steps
    ms_per_token: Spread
    ms_per_step: Spread
    first_ms: float  # until the end of the first step, median
    speedup: Spread | None  # over plain decoding of the same prompt, if that was measured


@dataclass(frozen=True, slots=True)
class DecodingResults:
    """What an experiment measured; tokens and times are without the first step."""

    runs: dict[str, list[Run]]  # by system, one per prompt, in the same order
    breakdown: StepBreakdown | None = None  # medians over prompts, if it was measured

    @property
    def prompts(self) -> int:
        return len(next(iter(self.runs.values())))

    def figures(self, name: str) -> SystemFigures:
        runs, plain = self.runs[name], self.runs.get(PLAIN)
        return SystemFigures(
            tokens_per_step([(run.tokens, run.steps) for run in runs]),
            Spread.of([1e3 * run.seconds / run.tokens for run in runs]),
            Spread.of([1e3 * run.seconds / run.steps for run in runs]),
            1e3 * median(run.first_seconds for run in runs),
            ratio(runs, plain) if plain and name != PLAIN else None,
        )

    def draw(self, file: Path) -> None:
        """The parts of a step if they were timed, else tokens per step by prompt.

        Of the baseline alone, whose step is a token, milliseconds by prompt.
        """
        if self.breakdown is not None:
            self.breakdown.draw(file, self.prompts)
            return
        if TREE in self.runs:
            values = [run.tokens / run.steps for run in self.runs[TREE]]
            middle, what = self.figures(TREE).tokens_per_step.value, "tokens per step"
        else:
            values = [1e3 * run.seconds / run.tokens for run in self.runs[PLAIN]]
            middle, what = median(values), "milliseconds per token"
        with picture(file, 3.4) as (axes,):
            axes.bar(range(len(values)), sorted(values), label=f"{what}, one prompt")
            axes.axhline(middle, color="C1", linewidth=1.2, label=f"all: {middle:.2f}")
            axes.set_ylim(0, 1.25 * max(values))
            axes.set_xticks([])
            axes.set_xlabel(f"{len(values)} prompts, lowest first")
            axes.set_ylabel(what)


class DecodingExperiment(experiment.Experiment):
    """Decodes prompts, token ids of one text or more, with a tree, plainly, or both.

    Raises ParameterError if there is no draft or too little room.
    """

    def __init__(self, pair: Pair, plan: DecodingPlan, prompts: Sequence[Sequence[int]]) -> None:
        nodes = 0 if plan.measured is Measured.BASELINE else plan.growmap.size
        text = max(map(len, prompts)) + plan.params.max_new_tokens
        experiment.check_room(pair, text, nodes, plan.cache_length)
        self._pair, self._plan, self._prompts = pair, plan, prompts
        self._runs: dict[str, list[Run]] = {}
        self._breakdowns: list[StepBreakdown] = []

    @override
    def run(self, progress: Progress) -> None:
        alone = {Measured.BASELINE: (PLAIN,), Measured.BENCHMARK: (TREE,)}
        names = alone.get(self._plan.measured, (PLAIN, TREE))
        systems = {name: self._system(name) for name in names}
        samplings = [self._plan.params]
        try:
            found = compare(systems, self._prompts, samplings, progress, all_needed=True)
        except NoSpeedError as error:
            raise ParameterError(str(error)) from None
        self._runs = found.comparisons[0].runs
        if found.interrupted:
            raise KeyboardInterrupt

    def _system(self, name: str) -> Decode:
        plan, seed = self._plan, self._plan.params.seed or 0
        make_sampler, on_step, timer = nucleus_sampler(plan.draft_top_p), None, None
        if plan.measured is Measured.BENCHMARK:
            timer = BreakdownTimer(make_sampler)
            make_sampler, on_step = timer.sampler, timer.step
        advisor = BundledAdvisor(self._pair.acceptance_rates)
        choice = TreeChoice(plan.rule, plan.growmap) if name == TREE else TreeChoice(Mode.AR)
        decode = engine_system(self._pair, advisor, choice, make_sampler, on_step)

        def seeded(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
            run = decode(prompt_ids, replace(params, seed=experiment.prompt_seed(seed, prompt_ids)))
            if timer is not None:
                self._breakdowns.append(timer.answer())
            return run

        return seeded

    def results(self) -> DecodingResults:
        """Of the prompts that all systems have decoded. Raises SequoiaError if there is none."""
        if not self._runs:
            raise SequoiaError("nothing was measured: the first prompt was not decoded to its end")
        results = DecodingResults(self._runs)
        if not self._breakdowns:
            return results
        times = self._breakdowns[-results.prompts :]  # without the warm-up's
        return replace(results, breakdown=averaged(times, median))

    @override
    def report(self) -> experiment.Report:
        results, plan, pair = self.results(), self._plan, self._pair.description
        figures = {name: results.figures(name) for name in results.runs}
        values = {
            "measured": plan.measured.value,
            "rule": plan.rule.value,
            "growmap": experiment.growmap_values(plan.growmap) if TREE in figures else None,
            "temperature": plan.params.temperature,
            "top_p": plan.params.top_p,
            "draft_top_p": plan.draft_top_p,
            "seed": plan.params.seed,
            "tokens": plan.params.max_new_tokens,
            "pair": encode(pair),
            "threads": pair.threads,
            "prompts": results.prompts,
            "prompts_asked": len(self._prompts),
            "interval": LEVEL,
            "systems": encode(figures),
            "split_ms": encode(results.breakdown),
            "runs": encode(results.runs),
        }
        tables = [_figures_table(figures)]
        if results.breakdown is not None:
            tables.append(results.breakdown.table())
        return experiment.Report(tuple(tables), _summary(plan, results), values, results.draw)


def _figures_table(figures: dict[str, SystemFigures]) -> experiment.ReportTable:
    systems = figures.values()
    rows = [
        ("tokens/step", *(each.tokens_per_step.spread().text(2) for each in systems)),
        ("ms/token", *(each.ms_per_token.text(1) for each in systems)),
        ("ms/step", *(each.ms_per_step.text(1) for each in systems)),
        ("first step, ms", *(f"{each.first_ms:.0f}" for each in systems)),
    ]
    speedups = [each.speedup.text(2, "x") if each.speedup else "" for each in systems]
    if any(speedups):
        rows.append(("speed-up", *speedups))
    return experiment.ReportTable(("", *figures), tuple(rows), right=False)


def _summary(plan: DecodingPlan, results: DecodingResults) -> str:
    params, tree = plan.params, plan.growmap
    parts = [f"{results.prompts} prompts, {params.max_new_tokens} tokens each"]
    if TREE in results.runs:
        parts.append(f"{plan.rule.value}, {tree.name}: {tree.size} nodes, depth {tree.depth}")
    parts += [*experiment.sampling_words(params, plan.draft_top_p), f"seed {params.seed}"]
    return (
        " · ".join(parts) + "\n"
        "tokens/step with its 95 % interval over prompts; times: median, lowest and highest\n"
        "the first step, which reads the prompt, is apart; no end-of-sequence token ends an answer"
    )
