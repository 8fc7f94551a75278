"""Pictures of the experiments; `file` is an SVG or PNG to write, and an OSError is let through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.figures.picture import COLOURS, GREY, axes, panels, save
from sequoia_core.reproduce.decoding_plan import PLAIN, TREE
from sequoia_core.reproduce.rule_comparison import RULES

if TYPE_CHECKING:
    from sequoia_core.reproduce.bootstrap import Interval
    from sequoia_core.reproduce.paper import CellOutcome
    from sequoia_core.reproduce.paper_cells import PaperCell
    from sequoia_core.reproduce.rule_comparison import RuleComparison
    from sequoia_core.reproduce.step_breakdown import StepBreakdown
    from sequoia_core.reproduce.testbed import DecodingResults

_HALF = 0.19  # half the distance of the two bars of a cell
_LONGEST_NAME = 40
"""Characters of a pair's name; of a longer one, such as a path, the end is shown."""


def draw_decoding(file: Path, results: DecodingResults) -> None:
    """The parts of a step if they were timed, else tokens per step by prompt.

    Of the baseline alone, whose step is a token, milliseconds by prompt.
    """
    if results.breakdown is not None:
        _draw_breakdown(file, results.breakdown, results.prompts)
    else:
        _draw_prompts(file, results)


def _draw_breakdown(file: Path, breakdown: StepBreakdown, prompts: int) -> None:
    drawn = axes(1.8)
    left = 0.0
    colours = (*COLOURS, GREY)
    for (name, milliseconds), colour in zip(breakdown.parts.items(), colours, strict=True):
        label = f"{name} {milliseconds:.2f}"
        drawn.barh(0, milliseconds, 0.5, left=left, color=colour, label=label)
        left += milliseconds
    drawn.set_yticks([])
    drawn.set_ylim(-0.3, 0.8)
    drawn.legend(ncols=len(colours), loc="upper left", frameon=False, labelcolor=GREY)
    drawn.set_xlabel(f"milliseconds of a step, medians over {prompts} prompts")
    save(drawn, file)


def _draw_prompts(file: Path, results: DecodingResults) -> None:
    drawn = axes(3.4)
    if TREE in results.runs:
        values = [run.tokens / run.steps for run in results.runs[TREE]]
        middle, what = results.figures(TREE).tokens_per_step.value, "tokens per step"
    else:
        values = [1e3 * run.seconds / run.tokens for run in results.runs[PLAIN]]
        middle, what = results.figures(PLAIN).ms_per_token.middle, "milliseconds per token"
    places = range(1, len(values) + 1)
    drawn.bar(places, sorted(values), color=COLOURS[0], label=f"{what}, one prompt")
    drawn.axhline(middle, color=COLOURS[1], linewidth=1.2, label=f"all: {middle:.2f}")
    drawn.set_ylim(0, 1.25 * max(values))
    drawn.set_xticks([])
    drawn.set_xlabel(f"{len(values)} prompts, lowest first")
    drawn.set_ylabel(what)
    save(drawn, file)


def draw_rules(file: Path, comparison: RuleComparison) -> None:
    """Tokens per step over temperature, a line per rule, a panel per nucleus mass."""
    masses = list(dict.fromkeys(each.top_p for each in comparison.settings))
    drawn = panels(3.4, len(masses))
    for panel, top_p in zip(drawn, masses, strict=True):
        settings = sorted(
            (each for each in comparison.settings if each.top_p == top_p),
            key=lambda each: each.temperature,
        )
        for rule, colour in zip(RULES, COLOURS, strict=False):
            rates = [each.tokens_per_step[rule] for each in settings]
            panel.errorbar(
                [each.temperature for each in settings],
                [rate.value for rate in rates],
                yerr=_whiskers(rates),
                marker="o",
                markersize=4,
                capsize=2,
                elinewidth=1,
                color=colour,
                label=rule.value,
            )
        panel.set_title(f"top-p {top_p:g}", fontsize=10)
        panel.set_xlabel("temperature")
    drawn[0].set_ylim(bottom=1)
    drawn[0].set_ylabel(f"tokens per step, {comparison.prompts} prompts")
    save(drawn[0], file)


def draw_paper(file: Path, outcomes: Sequence[CellOutcome]) -> None:
    """Tokens per step of each cell, as measured and as published."""
    drawn = axes(1.2 + 0.3 * len(outcomes))
    measured = [(at, each.result) for at, each in enumerate(outcomes) if each.result]
    published = [(at, each.cell.figure) for at, each in enumerate(outcomes) if each.cell.figure]
    if measured:
        rates = [result.tokens_per_step for _, result in measured]
        drawn.barh(
            [at - _HALF for at, _ in measured], [rate.value for rate in rates], 1.8 * _HALF,
            xerr=_whiskers(rates), ecolor=GREY, color=COLOURS[0], label="here",
        )  # fmt: skip
    if published:
        places = [at + _HALF for at, _ in published]
        tokens = [figure.tokens for _, figure in published]
        drawn.barh(places, tokens, 1.8 * _HALF, color=COLOURS[1], label="published")
    drawn.set_yticks(range(len(outcomes)), [_label(each.cell) for each in outcomes])
    drawn.invert_yaxis()
    drawn.set_xlim(left=0)
    drawn.set_xlabel("tokens per step")
    save(drawn, file)


def _label(cell: PaperCell) -> str:
    name = cell.pair if len(cell.pair) <= _LONGEST_NAME else f"…{cell.pair[-_LONGEST_NAME:]}"
    return f"{name}, {Path(cell.dataset).name}, T={cell.temperature:g}"


def _whiskers(rates: Sequence[Interval]) -> tuple[list[float], list[float]]:
    below = [max(rate.value - rate.low, 0.0) for rate in rates]
    return below, [max(rate.high - rate.value, 0.0) for rate in rates]
