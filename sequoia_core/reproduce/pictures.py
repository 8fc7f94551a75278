"""Pictures of the experiments; `file` is an SVG or PNG to write, and an OSError is let through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.figures.charts import draw_bars
from sequoia_core.figures.picture import COLOURS, GREY, axes, panels, save
from sequoia_core.files import encode
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.robustness import RULES
from sequoia_core.reproduce.testbed import PLAIN, TREE

if TYPE_CHECKING:
    from sequoia_core.reproduce.bootstrap import Interval
    from sequoia_core.reproduce.paper import Outcome
    from sequoia_core.reproduce.paper_facts import PaperCell
    from sequoia_core.reproduce.robustness import RuleComparison
    from sequoia_core.reproduce.testbed import DecodingResults

_LONGEST_NAME = 40  # characters of a pair's name; of a longer one, such as a path, the end is shown


def draw_decoding(file: Path, results: DecodingResults) -> None:
    """The parts of a step if they were timed, else tokens per step by prompt.

    Of the baseline alone, whose step is a token, milliseconds by prompt.
    """
    if results.breakdown is not None:
        _draw_breakdown(file, encode(results.breakdown), results.prompts)
        return
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


def _draw_breakdown(file: Path, parts: dict[str, float], prompts: int) -> None:
    drawn, left = axes(1.8), 0.0
    colours = (*COLOURS, GREY)
    for (name, milliseconds), colour in zip(parts.items(), colours, strict=True):
        label = f"{name} {milliseconds:.2f}"
        drawn.barh(0, milliseconds, 0.5, left=left, color=colour, label=label)
        left += milliseconds
    drawn.set_yticks([])
    drawn.set_ylim(-0.3, 0.8)
    drawn.legend(ncols=len(colours), loc="upper left", frameon=False, labelcolor=GREY)
    drawn.set_xlabel(f"milliseconds of a step, medians over {prompts} prompts")
    save(drawn, file)


def draw_rules(file: Path, comparison: RuleComparison) -> None:
    """Tokens per step over temperature, a line per rule, a panel per nucleus mass."""
    masses = list(dict.fromkeys(each.top_p for each in comparison.settings))
    drawn = panels(3.4, len(masses))
    for panel, top_p in zip(drawn, masses, strict=True):
        settings = [each for each in comparison.settings if each.top_p == top_p]
        settings.sort(key=lambda each: each.temperature)
        for rule, colour in zip(RULES, COLOURS, strict=False):
            rates = [each.tokens_per_step[rule] for each in settings]
            panel.errorbar(
                [each.temperature for each in settings], [rate.value for rate in rates],
                yerr=_whiskers(rates), marker="o", markersize=4, capsize=2, elinewidth=1,
                color=colour, label=rule.value,
            )  # fmt: skip
        panel.set_title(f"top-p {top_p:g}", fontsize=10)
        panel.set_xlabel("temperature")
    drawn[0].set_ylim(bottom=1)
    drawn[0].set_ylabel(f"tokens per step, {comparison.prompts} prompts")
    save(drawn[0], file)


def draw_paper(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Tokens per step of each cell, as measured and as published."""
    groups: dict[str, list[Spread | None]] = {"here": [], "published": []}
    for cell, outcome in outcomes:
        rate = None if isinstance(outcome, str) else outcome.tokens_per_step
        groups["here"].append(Spread(rate.low, rate.value, rate.high) if rate else None)
        groups["published"].append(Spread.of([cell.figure.tokens]) if cell.figure else None)
    shown = {name: spreads for name, spreads in groups.items() if any(spreads)}
    draw_bars(file, [_label(cell) for cell, _ in outcomes], shown, "tokens per step")


def _label(cell: PaperCell) -> str:
    name = cell.pair if len(cell.pair) <= _LONGEST_NAME else f"…{cell.pair[-_LONGEST_NAME:]}"
    return f"{name}, {Path(cell.dataset).name}, T={cell.temperature:g}"


def _whiskers(rates: Sequence[Interval]) -> tuple[list[float], list[float]]:
    below = [max(rate.value - rate.low, 0.0) for rate in rates]
    return below, [max(rate.high - rate.value, 0.0) for rate in rates]
