"""Tokens per step of several rules over temperature and top-p, on one fixed tree; untimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from typing_extensions import override

from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress, Step
from sequoia_core.figures.charts import picture, plot_spreads
from sequoia_core.files import encode
from sequoia_core.measure.acceptance import nucleus_sampler
from sequoia_core.reproduce import bootstrap, experiment
from sequoia_core.reproduce.bootstrap import LEVEL, Interval
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

RULES = (Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK)
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
TOP_PS = (0.8, 0.9, 1.0)


class Cell(NamedTuple):
    rule: Mode
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is decoded.

    Raises ParameterError if a value is out of range, given twice or missing.
    """

    growmap: GrowMap  # of all rules
    rules: tuple[Mode, ...] = RULES  # the first is compared with each other
    temperatures: tuple[float, ...] = TEMPERATURES  # above 0, where the rules differ
    top_ps: tuple[float, ...] = TOP_PS
    tokens: int = 64  # per prompt and cell; end-of-sequence tokens end nothing
    seed: int = 17
    draft_top_p: float = DRAFT_TOP_P  # that children are drawn from; see `nucleus_sampler`

    def __post_init__(self) -> None:
        given = {"temperature": self.temperatures, "top-p": self.top_ps, "rule": self.rules}
        for name, values in given.items():
            if not values or len(set(values)) < len(values):
                raise ParameterError(f"give one {name} or more, each once")
        if {Mode.GREEDY, Mode.AR}.intersection(self.rules):
            raise ParameterError("the modes greedy and ar do not sample a tree; name other rules")
        if len(self.rules) < 2:
            raise ParameterError("give two rules or more, the one that is compared first")
        if Mode.CHAIN in self.rules and self.growmap.branching > 1:
            raise ParameterError(
                f"the mode chain takes one path of growmap {self.growmap.name}; name a chain"
            )
        if 0.0 in self.temperatures:
            raise ParameterError("at temperature 0 all rules are one; give temperatures above 0")
        if self.growmap.size < 2:
            raise ParameterError(f"growmap {self.growmap.name} drafts nothing; name a larger one")
        for cell in self.cells():
            self.sampling(cell, ())
        nucleus_sampler(self.draft_top_p)

    def cells(self) -> list[Cell]:
        """All combinations, the rules of one setting next to each other."""
        settings = product(self.top_ps, self.temperatures, self.rules)
        return [Cell(rule, temperature, top_p) for top_p, temperature, rule in settings]

    def sampling(self, cell: Cell, prompt_ids: Sequence[int]) -> SamplingParams:
        """How a prompt is decoded in a cell; its seed is the same in all cells."""
        seed = experiment.prompt_seed(self.seed, prompt_ids)
        return SamplingParams(cell.temperature, cell.top_p, seed=seed, max_new_tokens=self.tokens)


@dataclass(frozen=True, slots=True)
class PromptCount:
    """One prompt decoded in one cell: a line of the result file."""

    rule: Mode
    temperature: float
    top_p: float
    prompt: str  # its digest
    tokens: int  # that whole steps emitted
    steps: int

    @property
    def cell(self) -> Cell:
        return Cell(self.rule, self.temperature, self.top_p)


@dataclass(frozen=True, slots=True)
class RuleSetting:
    temperature: float
    top_p: float
    tokens_per_step: dict[Mode, Interval]
    ahead: dict[Mode, Interval]  # of the first rule; the intervals of all settings hold at once


@dataclass(frozen=True, slots=True)
class RuleComparison:
    prompts: int  # decoded in every cell
    settings: tuple[RuleSetting, ...]  # in the sweep's order
    overall_ahead: dict[Mode, Interval]  # mean lead over all settings

    @classmethod
    def of(cls, sweep: Sweep, counts: Sequence[PromptCount]) -> RuleComparison:
        """From prompts that were decoded in every cell. Raises SequoiaError if there is none."""
        known = {(count.cell, count.prompt): (count.tokens, count.steps) for count in counts}
        prompts = [
            prompt
            for prompt in dict.fromkeys(count.prompt for count in counts)
            if all((cell, prompt) in known for cell in sweep.cells())
        ]
        if not prompts:
            raise SequoiaError("no prompt was decoded in every way yet; run it again to continue")
        settings = list(product(sweep.top_ps, sweep.temperatures))
        by_rule = {
            rule: [
                [known[Cell(rule, temperature, top_p), prompt] for prompt in prompts]
                for top_p, temperature in settings
            ]
            for rule in sweep.rules
        }
        first, *others = sweep.rules
        counted = [each for rule in others for each in by_rule[rule]]
        leads = bootstrap.simultaneous_differences(by_rule[first] * len(others), counted)
        return cls(
            len(prompts),
            tuple(
                RuleSetting(
                    temperature,
                    top_p,
                    {rule: bootstrap.tokens_per_step(by_rule[rule][at]) for rule in sweep.rules},
                    dict(zip(others, leads[at :: len(settings)], strict=True)),
                )
                for at, (top_p, temperature) in enumerate(settings)
            ),
            {rule: bootstrap.mean_difference(by_rule[first], by_rule[rule]) for rule in others},
        )

    @property
    def behind(self) -> list[tuple[RuleSetting, Mode]]:
        """Where the first rule is below another by more than the noise."""
        return [
            (setting, other)
            for setting in self.settings
            for other, lead in setting.ahead.items()
            if lead.high < 0
        ]

    @property
    def leads(self) -> list[Interval]:
        """Of the first rule over each other in each setting."""
        return [lead for setting in self.settings for lead in setting.ahead.values()]

    def draw(self, file: Path) -> None:
        """Tokens per step over temperature, a line per rule, a panel per nucleus mass."""
        masses = list(dict.fromkeys(each.top_p for each in self.settings))
        with picture(file, 3.4, len(masses)) as panels:
            for panel, top_p in zip(panels, masses, strict=True):
                settings = [each for each in self.settings if each.top_p == top_p]
                settings.sort(key=lambda each: each.temperature)
                temperatures = [each.temperature for each in settings]
                for rule in settings[0].tokens_per_step:
                    rates = [each.tokens_per_step[rule].spread() for each in settings]
                    look = {"markersize": 4, "elinewidth": 1, "label": rule.value}
                    plot_spreads(panel, temperatures, rates, **look)
                panel.set_title(f"top-p {top_p:g}")
                panel.set_xlabel("temperature")
            panels[0].set_ylim(bottom=1)
            panels[0].set_ylabel(f"tokens per step, {self.prompts} prompts")


class RobustnessExperiment(experiment.Experiment):
    """Decodes prompts, token ids of two different texts or more, in every cell of a sweep.

    More prompts, temperatures or nucleus masses may be added to the result file at `path`; the rest
    must not change. Raises ParameterError if there is no draft, there are too few prompts or too
    little room, or the file is of another sweep or pair.
    """

    file: experiment.ResultFile[PromptCount]

    def __init__(
        self, pair: Pair, sweep: Sweep, prompts: Sequence[tuple[int, ...]], path: Path
    ) -> None:
        self._pair, self._sweep = pair, sweep
        self._prompts = list(dict.fromkeys(prompts))
        if len(self._prompts) < 2:
            raise ParameterError("one prompt says nothing about noise; take two or more, see --end")
        experiment.check_room(pair, max(map(len, self._prompts)) + sweep.tokens, sweep.growmap.size)
        endless = replace(pair, eos_token_ids=frozenset())
        self._engine = Engine.of(endless, BundledAdvisor({}))
        self._engine.clock = NoBaseline()
        self._engine.make_sampler = nucleus_sampler(sweep.draft_top_p)
        head = {
            "version": 1,
            "pair": pair.fingerprint,
            "parents": list(sweep.growmap.parents),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
        }
        self.file = experiment.ResultFile(path, head, PromptCount)

    @override
    def run(self, progress: Progress) -> None:
        cells = self._sweep.cells()
        known = {(count.cell, count.prompt) for count in self.file.rows}
        for at, (ids, cell) in enumerate(product(self._prompts, cells)):
            if (cell, experiment.prompt_digest(ids)) in known:
                continue
            progress(
                f"Prompt {at // len(cells) + 1} of {len(self._prompts)}: {cell.rule.value}, "
                f"temperature {cell.temperature:g}, top-p {cell.top_p:g}",
                at / (len(self._prompts) * len(cells)),
            )
            self.file.add(self.count(cell, ids))

    def count(self, cell: Cell, prompt_ids: Sequence[int]) -> PromptCount:
        """Decode one prompt in one cell.

        Whole paths are counted, also the last one's part beyond the limit. Whether a step is the
        last is known before it is drawn, so the mean over whole steps is that of a step; cut at the
        limit it would be lower.
        """
        self._engine.tree_choice = TreeChoice(cell.rule, self._sweep.growmap)
        events = self._engine.generate(prompt_ids, self._sweep.sampling(cell, prompt_ids))
        emitted = [len(event.path) for event in events if isinstance(event, Step)]
        return PromptCount(*cell, experiment.prompt_digest(prompt_ids), sum(emitted), len(emitted))

    @override
    def report(self) -> experiment.Report:
        wanted = set(map(experiment.prompt_digest, self._prompts))
        counts = [count for count in self.file.rows if count.prompt in wanted]
        sweep, comparison = self._sweep, RuleComparison.of(self._sweep, counts)
        values = {
            "growmap": experiment.growmap_values(sweep.growmap),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
            "pair": encode(self._pair.description),
            "interval": LEVEL,
            "first": sweep.rules[0].value,
            **encode(comparison),
            "behind": [
                {"temperature": each.temperature, "top_p": each.top_p, "rule": rule.value}
                for each, rule in comparison.behind
            ],
        }
        table, text = _table(sweep, comparison), _summary(sweep, comparison)
        return experiment.Report((table,), text, values, comparison.draw)


def _table(sweep: Sweep, comparison: RuleComparison) -> experiment.ReportTable:
    leads = (f"over {rule.value}" for rule in sweep.rules[1:])
    headings = ("top-p", "T", *(rule.value for rule in sweep.rules), *leads)
    rows = tuple(
        (
            f"{each.top_p:g}",
            f"{each.temperature:g}",
            *(f"{rate.value:.2f}" for rate in each.tokens_per_step.values()),
            *(f"{lead.value:+.2f} ± {lead.high - lead.value:.2f}" for lead in each.ahead.values()),
        )
        for each in comparison.settings
    )
    return experiment.ReportTable(headings, rows)


def _summary(sweep: Sweep, comparison: RuleComparison) -> str:
    overall = ", ".join(
        f"{lead.value:+.3f} over {rule.value} ({lead.low:+.3f} to {lead.high:+.3f})"
        for rule, lead in comparison.overall_ahead.items()
    )
    behind = ", ".join(
        f"{rule.value} at temperature {each.temperature:g}, top-p {each.top_p:g}"
        for each, rule in comparison.behind
    )
    leads, first = comparison.leads, sweep.rules[0].value
    above, lower = sum(lead.low > 0 for lead in leads), sum(lead.value < 0 for lead in leads)
    return (
        f"tokens/step of {sweep.growmap.name}, {comparison.prompts} prompts of {sweep.tokens} "
        "tokens\n"
        f"leads of {first} on the same prompts and seeds; all intervals hold at once with 95 %\n"
        f"mean lead over all settings: {overall}\n"
        f"{first} is above in {above} of {len(leads)} comparisons beyond "
        f"the noise, below {behind or 'in none'}; its figure is the lower one in {lower}"
    )
