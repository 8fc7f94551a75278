"""Rules compared over temperature and top-p: which cells are decoded, and what the counts say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.reproduce.bootstrap import (
    Interval,
    mean_difference,
    simultaneous_differences,
    tokens_per_step,
)
from sequoia_core.reproduce.experiment import prompt_seed

if TYPE_CHECKING:
    from sequoia_core.tree.growmap import GrowMap

RULES = FIRST, *OTHERS = (Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK)
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
TOP_PS = (0.8, 0.9, 1.0)
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to decode."""

    rule: Mode
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is decoded.

    Attributes:
        growmap: the tree of all rules.
        temperatures: above 0, where the rules differ.
        top_ps: nucleus masses.
        tokens: per prompt and cell; end-of-sequence tokens end nothing.
        seed: of all draws.
        draft_top_p: nucleus mass that children are drawn from; see `DraftNucleus`.

    Raises:
        ParameterError: a value is out of range, given twice or missing.
    """

    growmap: GrowMap
    temperatures: tuple[float, ...] = TEMPERATURES
    top_ps: tuple[float, ...] = TOP_PS
    tokens: int = TOKENS
    seed: int = 17
    draft_top_p: float = DRAFT_TOP_P

    def __post_init__(self) -> None:
        for name, values in (("temperature", self.temperatures), ("top-p", self.top_ps)):
            if not values or len(set(values)) < len(values):
                raise ParameterError(f"give one {name} or more, each once")
        if 0.0 in self.temperatures:
            raise ParameterError("at temperature 0 all rules are one; give temperatures above 0")
        if self.growmap.size < 2:
            raise ParameterError(f"growmap {self.growmap.name} drafts nothing; name a larger one")
        for cell in self.cells():
            self.sampling(cell, ())
        DraftNucleus(self.draft_top_p)

    def cells(self) -> list[Cell]:
        """All combinations, the rules of one setting next to each other."""
        settings = product(self.top_ps, self.temperatures, RULES)
        return [Cell(rule, temperature, top_p) for top_p, temperature, rule in settings]

    def sampling(self, cell: Cell, prompt_ids: Sequence[int]) -> SamplingParams:
        """How a prompt is decoded in a cell; its seed is the same in all cells."""
        return SamplingParams(
            cell.temperature,
            cell.top_p,
            seed=prompt_seed(self.seed, prompt_ids),
            max_new_tokens=self.tokens,
        )


@dataclass(frozen=True, slots=True)
class PromptCount:
    """One prompt decoded in one cell: a line of the result file.

    Attributes:
        rule: of the cell.
        temperature: of the cell.
        top_p: of the cell.
        prompt: its digest.
        tokens: that whole steps emitted.
        steps: that were decoded.
    """

    rule: Mode
    temperature: float
    top_p: float
    prompt: str
    tokens: int
    steps: int

    @property
    def cell(self) -> Cell:
        """How it was decoded."""
        return Cell(self.rule, self.temperature, self.top_p)


@dataclass(frozen=True, slots=True)
class RuleSetting:
    """One temperature and nucleus mass.

    Attributes:
        temperature: of target and draft.
        top_p: of target and draft.
        tokens_per_step: of each rule.
        ahead: how many more of them the first rule has than each other, on the same prompts; the
            intervals of all settings hold at once.
    """

    temperature: float
    top_p: float
    tokens_per_step: dict[Mode, Interval]
    ahead: dict[Mode, Interval]


@dataclass(frozen=True, slots=True)
class RuleComparison:
    """The first rule against the others.

    Attributes:
        prompts: decoded in every cell.
        settings: in the sweep's order.
        overall_ahead: mean lead over all settings, by the other rule.
    """

    prompts: int
    settings: tuple[RuleSetting, ...]
    overall_ahead: dict[Mode, Interval]

    @classmethod
    def of(cls, sweep: Sweep, counts: Sequence[PromptCount]) -> RuleComparison:
        """From the prompts that were decoded in every cell.

        Raises:
            SequoiaError: there is none.
        """
        known = {(count.cell, count.prompt): (count.tokens, count.steps) for count in counts}
        cells = sweep.cells()
        prompts = [
            prompt
            for prompt in dict.fromkeys(count.prompt for count in counts)
            if all((cell, prompt) in known for cell in cells)
        ]
        if not prompts:
            raise SequoiaError("no prompt was decoded in every way yet; run it again to continue")
        settings = list(product(sweep.top_ps, sweep.temperatures))
        by_rule = {
            rule: [
                [known[Cell(rule, temperature, top_p), prompt] for prompt in prompts]
                for top_p, temperature in settings
            ]
            for rule in RULES
        }
        firsts = by_rule[FIRST] * len(OTHERS)
        leads = simultaneous_differences(
            firsts, [each for rule in OTHERS for each in by_rule[rule]]
        )
        return cls(
            len(prompts),
            tuple(
                RuleSetting(
                    temperature,
                    top_p,
                    {rule: tokens_per_step(by_rule[rule][at]) for rule in RULES},
                    dict(zip(OTHERS, leads[at :: len(settings)], strict=True)),
                )
                for at, (top_p, temperature) in enumerate(settings)
            ),
            {rule: mean_difference(by_rule[FIRST], by_rule[rule]) for rule in OTHERS},
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
    def _leads(self) -> list[Interval]:
        return [lead for setting in self.settings for lead in setting.ahead.values()]

    @property
    def comparisons(self) -> int:
        """Settings times other rules."""
        return len(self._leads)

    @property
    def leads(self) -> int:
        """In how many comparisons the first rule is above the other by more than the noise."""
        return sum(lead.low > 0 for lead in self._leads)

    @property
    def lower(self) -> int:
        """In how many comparisons the first rule's figure is the lower one, noise or not."""
        return sum(lead.value < 0 for lead in self._leads)
