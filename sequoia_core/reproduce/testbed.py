"""One of the published testbeds: a tree decodes a data set, plain decoding the same in turns.

The order of the two alternates from prompt to prompt, after warm-ups. Both decode as many tokens
after a prompt, reading it is timed apart, and no end-of-sequence token ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.bench.comparison import WARM_UP_TOKENS
from sequoia_core.bench.own_systems import OwnSystem
from sequoia_core.bench.runs import NoSpeedError
from sequoia_core.bench.summary import ratio
from sequoia_core.config import Mode
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.files import encode
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.bootstrap import LEVEL, Interval, tokens_per_step
from sequoia_core.reproduce.decoding_plan import PLAIN, TREE, DecodingPlan, Measured
from sequoia_core.reproduce.experiment import (
    Experiment,
    Report,
    ReportTable,
    prompt_seed,
    required_draft,
)
from sequoia_core.reproduce.step_breakdown import BreakdownTimer, StepBreakdown
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice

if TYPE_CHECKING:
    from sequoia_core.bench.runs import Run
    from sequoia_core.model.loading.pair import Pair


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
