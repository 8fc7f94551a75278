"""One of the published testbeds: a tree decodes a data set, plain decoding the same in turns.

The order of the two alternates from prompt to prompt, after warm-ups. Both decode as many tokens
after a prompt, reading it is timed apart, and no end-of-sequence token ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sequoia_core.bench.comparison import WARM_UP_TOKENS
from sequoia_core.bench.own_systems import OwnSystem
from sequoia_core.bench.runs import NoSpeedError
from sequoia_core.bench.summary import ratio
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.files import encode
from sequoia_core.measure.draft_nucleus import DRAFT_TOP_P, DraftNucleus
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.bootstrap import LEVEL, Interval, tokens_per_step
from sequoia_core.reproduce.experiment import (
    Experiment,
    Report,
    ReportTable,
    growmap_values,
    prompt_seed,
    required_draft,
)
from sequoia_core.reproduce.step_breakdown import BreakdownTimer, StepBreakdown
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap

if TYPE_CHECKING:
    from sequoia_core.bench.runs import Run
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

PLAIN, TREE = "plain", "tree"
"""The names of the two systems."""


class Measured(StrEnum):
    """What is decoded.

    Attributes:
        TREE: with the tree and, for the speed-up, plainly.
        BASELINE: plainly alone.
        BENCHMARK: with the tree alone, each part of a step timed.
    """

    TREE = "tree"
    BASELINE = "baseline"
    BENCHMARK = "benchmark"

    @property
    def systems(self) -> tuple[str, ...]:
        """`PLAIN` and `TREE` as far as they run, in the order of the first prompt."""
        if self is Measured.TREE:
            return PLAIN, TREE
        return (PLAIN,) if self is Measured.BASELINE else (TREE,)


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What is decoded and how.

    Attributes:
        rule: how the tree's children are drawn and accepted.
        growmap: the tree; the baseline ignores it.
        params: sampling; `max_new_tokens` are decoded after each prompt, and the seed of each
            prompt follows from this one.
        measured: which systems run.
        cache_length: most tokens of text and tree in the cache, the release's `--M`; None is what
            is needed.
        draft_top_p: nucleus mass that children are drawn from; see `DraftNucleus`.

    Raises:
        ParameterError: there is no seed, a mass is out of range, or the tree drafts nothing.
    """

    rule: Mode
    growmap: GrowMap
    params: SamplingParams
    measured: Measured = Measured.TREE
    cache_length: int | None = None
    draft_top_p: float = DRAFT_TOP_P

    def __post_init__(self) -> None:
        DraftNucleus(self.draft_top_p)
        if self.params.seed is None:
            raise ParameterError("an experiment needs a seed")
        if self.measured is not Measured.BASELINE and self.growmap.size < 2:
            raise ParameterError(
                f"growmap {self.growmap.name} drafts nothing; name a larger one, or measure the "
                "baseline alone"
            )

    def check_room(self, prompts: Sequence[Sequence[int]], context_window: int) -> None:
        """Refuse what does not fit into the cache or the models, before anything is decoded.

        Args:
            prompts: token ids.
            context_window: the smallest of the models that run.

        Raises:
            ParameterError: names the smallest cache that works.
        """
        text = max(map(len, prompts)) + self.params.max_new_tokens
        tree = 0 if self.measured is Measured.BASELINE else self.growmap.size
        what = f"{text} tokens of text" + (f" and a tree of {tree} nodes" if tree else "")
        if self.cache_length is not None and self.cache_length < text + tree:
            raise ParameterError(
                f"--M is {self.cache_length}, but the smallest value that works is {text + tree}: "
                f"{what}"
            )
        if text + tree > context_window:
            raise ParameterError(
                f"{what} are more than the context window of {context_window}; take a smaller tree "
                "or fewer tokens"
            )

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "measured": self.measured.value,
            "rule": self.rule.value,
            "growmap": None if self.measured is Measured.BASELINE else growmap_values(self.growmap),
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "draft_top_p": self.draft_top_p,
            "seed": self.params.seed,
            "tokens": self.params.max_new_tokens,
        }


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """One system over all prompts.

    Attributes:
        tokens_per_step: all tokens over all steps; the interval is over prompts.
        ms_per_token: of decoding, prompt by prompt.
        ms_per_step: of decoding, prompt by prompt.
        first_ms: until the end of the first step, median; no part of the speed.
        speedup: over plain decoding of the same prompt; None if that was not measured.
    """

    tokens_per_step: Interval
    ms_per_token: Spread
    ms_per_step: Spread
    first_ms: float
    speedup: Spread | None


@dataclass(frozen=True, slots=True)
class DecodingResults:
    """What an experiment measured.

    Attributes:
        runs: by system, one per prompt, in the same order; tokens and times without the first step.
        breakdown: of a step's time, medians over prompts; None if it was not measured.
    """

    runs: dict[str, list[Run]]
    breakdown: StepBreakdown | None = None

    @property
    def prompts(self) -> int:
        """How many were decoded."""
        return len(next(iter(self.runs.values())))

    def figures(self, name: str) -> SystemFigures:
        """Of `PLAIN` or `TREE`.

        Raises:
            KeyError: that was not decoded.
        """
        runs, plain = self.runs[name], self.runs.get(PLAIN)
        return SystemFigures(
            tokens_per_step([(run.tokens, run.steps) for run in runs]),
            Spread.of([1e3 * run.seconds / run.tokens for run in runs]),
            Spread.of([1e3 * run.seconds / run.steps for run in runs]),
            1e3 * median(run.first_seconds for run in runs),
            ratio(runs, plain) if plain and name != PLAIN else None,
        )


class DecodingExperiment(Experiment):
    """Decodes prompts with a tree, plainly, or both.

    Args:
        pair: the models.
        plan: what is decoded.
        prompts: token ids, at least one.

    Raises:
        ParameterError: there is no draft or too little room.
    """

    def __init__(self, pair: Pair, plan: DecodingPlan, prompts: Sequence[Sequence[int]]) -> None:
        window = pair.target.context_window
        if plan.measured is not Measured.BASELINE:
            window = min(window, required_draft(pair).context_window)
        plan.check_room(prompts, window)
        self._pair, self._plan, self._prompts = pair, plan, prompts
        self._runs: dict[str, list[Run]] = {name: [] for name in plan.measured.systems}
        self._breakdowns: list[StepBreakdown] = []

    @override
    def run(self, progress: Progress) -> None:
        nucleus = DraftNucleus(self._plan.draft_top_p)
        timer = None
        if self._plan.measured is Measured.BENCHMARK:
            timer = BreakdownTimer(nucleus.sampler)
        advisor = BundledAdvisor.default(self._pair.acceptance_rates)
        tree = TreeChoice(self._plan.rule, self._plan.growmap)
        choices = {PLAIN: TreeChoice(Mode.AR), TREE: tree}
        systems = [
            OwnSystem(name, self._pair, advisor, choices[name], timer or nucleus)
            for name in self._runs
        ]
        for system in systems:
            progress(f"Warming up {system.name}", 0.0)
            with suppress(NoSpeedError):
                self._decode(system, self._prompts[0], WARM_UP_TOKENS)
        for at, prompt in enumerate(self._prompts):
            for system in systems if at % 2 == 0 else reversed(systems):
                message = f"Prompt {at + 1} of {len(self._prompts)}: {system.name}"
                progress(message, at / len(self._prompts))
                try:
                    run = self._decode(system, prompt, self._plan.params.max_new_tokens)
                except NoSpeedError as error:
                    raise ParameterError(str(error)) from None
                self._runs[system.name].append(run)
                if timer is not None:
                    self._breakdowns.append(timer.answer())

    def _decode(self, system: OwnSystem, prompt: Sequence[int], tokens: int) -> Run:
        params = self._plan.params
        assert params.seed is not None
        seed = prompt_seed(params.seed, prompt)
        return system.run(prompt, replace(params, seed=seed, max_new_tokens=tokens))

    def results(self) -> DecodingResults:
        """Of the prompts that all systems have decoded so far.

        Raises:
            SequoiaError: there is none yet.
        """
        done = min(map(len, self._runs.values()))
        if not done:
            raise SequoiaError("nothing was measured: the first prompt was not decoded to its end")
        runs = {name: runs[:done] for name, runs in self._runs.items()}
        times = self._breakdowns[:done]
        return DecodingResults(runs, StepBreakdown.median(times) if times else None)

    @override
    def report(self) -> Report:
        from sequoia_core.reproduce.pictures import draw_decoding

        results, plan, pair = self.results(), self._plan, self._pair.description
        figures = {name: results.figures(name) for name in results.runs}
        breakdown = results.breakdown
        values = {
            **plan.values(),
            "pair": encode(pair),
            "threads": pair.threads,
            "prompts": results.prompts,
            "prompts_asked": len(self._prompts),
            "interval": LEVEL,
            "systems": encode(figures),
            "split_ms": breakdown.parts if breakdown else None,
            "runs": encode(results.runs),
        }
        tables = [_figures_table(figures)]
        if breakdown is not None:
            tables.append(_breakdown_table(breakdown))
        return Report(
            tuple(tables), _summary(plan, results), values, partial(draw_decoding, results=results)
        )


def _figures_table(figures: dict[str, SystemFigures]) -> ReportTable:
    systems = figures.values()
    rows = [
        ("tokens/step", *(each.tokens_per_step.text() for each in systems)),
        ("ms/token", *(each.ms_per_token.text(1) for each in systems)),
        ("ms/step", *(each.ms_per_step.text(1) for each in systems)),
        ("first step, ms", *(f"{each.first_ms:.0f}" for each in systems)),
    ]
    speedups = [each.speedup.text(2, "x") if each.speedup else "" for each in systems]
    if any(speedups):
        rows.append(("speed-up", *speedups))
    return ReportTable(("", *figures), tuple(rows), right=False)


def _breakdown_table(breakdown: StepBreakdown) -> ReportTable:
    parts = breakdown.parts
    total = sum(parts.values())
    rows = (
        ("ms of a step", *(f"{part:.2f}" for part in parts.values())),
        ("share", *(f"{part / total:.1%}" for part in parts.values())),
    )
    return ReportTable(("", *parts), rows)


def _summary(plan: DecodingPlan, results: DecodingResults) -> str:
    params, tree = plan.params, plan.growmap
    parts = [f"{results.prompts} prompts, {params.max_new_tokens} tokens each"]
    if TREE in results.runs:
        parts.append(f"{plan.rule.value}, {tree.name}: {tree.size} nodes, depth {tree.depth}")
    parts.append(f"temperature {params.temperature:g}")
    if params.temperature and params.top_p < 1.0:
        parts.append(f"top-p {params.top_p:g}")
    if params.temperature and plan.draft_top_p < 1.0:
        parts.append(f"the draft's {plan.draft_top_p:g}")
    parts.append(f"seed {params.seed}")
    return (
        " · ".join(parts) + "\n"
        "tokens/step with its 95 % interval over prompts; times: median, lowest and highest\n"
        "the first step, which reads the prompt, is apart; no end-of-sequence token ends an answer"
    )


def pairs_growmap(pair: Pair, named: str | None, temperature: float) -> GrowMap:
    """The tree of that name, or by default the packaged one that a chat of the pair starts with.

    `auto` is the one that the figures measured on this machine advise.

    Raises:
        GrowMapError: there is no such tree, or it is malformed.
        ParameterError: `auto` advises none.
    """
    if named is None:
        advised = BundledAdvisor.default(pair.acceptance_rates).advise(temperature, 0, False)
        assert advised.growmap is not None
        return advised.growmap
    if named != "auto":
        return find_growmap(named)
    from sequoia_core.measure.online_advisor import TYPICAL_CONTEXT
    from sequoia_core.measure.tuner import Tuner

    tuner = Tuner(pair)
    if not tuner.measured:
        raise ParameterError(
            "--growmap auto: this machine has not been measured; run `sequoia calibrate`"
        )
    growmap = tuner.advise(temperature, TYPICAL_CONTEXT, False).growmap
    if growmap is None:
        raise ParameterError(
            "--growmap auto: plain decoding is predicted to be the fastest here; name a growmap"
        )
    return growmap
