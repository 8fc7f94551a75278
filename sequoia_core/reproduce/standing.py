"""Where the first rule of the robustness study stands beside the others, and how sure that is.

Owns the comparison; counts nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from sequoia_core.errors import SequoiaError
from sequoia_core.reproduce.resampling import (
    Interval,
    difference,
    differences,
    tokens_per_step,
)
from sequoia_core.reproduce.robustness import RULES, Cell, Count

if TYPE_CHECKING:
    from sequoia_core.config import Mode
    from sequoia_core.reproduce.robustness import Sweep

FIRST, *OTHERS = RULES


@dataclass(frozen=True, slots=True)
class Setting:
    """One temperature and nucleus mass.

    Attributes:
        temperature: of target and draft.
        top_p: likewise.
        rates: tokens per step of each rule.
        ahead: how many more of them the first rule has than each other, on the same prompts; the
            intervals of all settings hold at once.
    """

    temperature: float
    top_p: float
    rates: dict[Mode, Interval]
    ahead: dict[Mode, Interval]


@dataclass(frozen=True, slots=True)
class Study:
    """What the counts come to.

    Attributes:
        prompts: decoded in every cell.
        settings: in the sweep's order.
        overall: mean lead over all settings, by the rule that it is over.
    """

    prompts: int
    settings: tuple[Setting, ...]
    overall: dict[Mode, Interval]

    @classmethod
    def of(cls, sweep: Sweep, counts: Sequence[Count]) -> Study:
        """From the prompts that were decoded in every cell.

        Raises:
            SequoiaError: there is none.
        """
        by_place = {(count.cell, count.prompt): count.counted for count in counts}
        cells = sweep.cells()
        prompts = [
            prompt
            for prompt in dict.fromkeys(count.prompt for count in counts)
            if all((cell, prompt) in by_place for cell in cells)
        ]
        if not prompts:
            raise SequoiaError("no prompt was decoded in every way yet; run it again to go on")
        by_cell = {cell: [by_place[cell, prompt] for prompt in prompts] for cell in cells}
        places = list(product(sweep.top_ps, sweep.temperatures))
        by_rule = {
            rule: [by_cell[Cell(rule, heat, top_p)] for top_p, heat in places] for rule in RULES
        }
        firsts = by_rule[FIRST] * len(OTHERS)
        leads = differences(firsts, [each for rule in OTHERS for each in by_rule[rule]])
        return cls(
            prompts=len(prompts),
            settings=tuple(
                Setting(
                    heat,
                    top_p,
                    {rule: tokens_per_step(by_rule[rule][at]) for rule in RULES},
                    dict(zip(OTHERS, leads[at :: len(places)], strict=True)),
                )
                for at, (top_p, heat) in enumerate(places)
            ),
            overall={rule: difference(by_rule[FIRST], by_rule[rule]) for rule in OTHERS},
        )

    @property
    def behind(self) -> list[tuple[Setting, Mode]]:
        """Where the first rule is below another by more than the noise."""
        return [
            (setting, other)
            for setting in self.settings
            for other, lead in setting.ahead.items()
            if lead.high < 0
        ]

    @property
    def leads(self) -> int:
        """In how many comparisons the first rule is above the other by more than the noise."""
        return sum(lead.low > 0 for each in self.settings for lead in each.ahead.values())

    @property
    def lower(self) -> int:
        """In how many the first rule's figure is the lower one, noise or not."""
        return sum(lead.value < 0 for each in self.settings for lead in each.ahead.values())

    @property
    def comparisons(self) -> int:
        """Settings by other rules."""
        return len(self.settings) * len(OTHERS)
