"""Pictures of the experiments: speed prompt by prompt, a step's parts, and rules over temperature.

Owns what is drawn; the look is `sequoia_core.figures.picture`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.figures.picture import COLOURS, GREY, axes, panels, save
from sequoia_core.reproduce.experiment import PLAIN, TREE, Findings
from sequoia_core.reproduce.robustness import RULES
from sequoia_core.reproduce.standing import Study

if TYPE_CHECKING:
    from sequoia_core.reproduce.resampling import Interval


def draw_experiment(file: Path, findings: Findings) -> None:
    """The parts of a step where they were timed, else tokens per step by prompt.

    Of the baseline alone, whose step is a token, milliseconds by prompt.

    Args:
        file: SVG or PNG to write.
        findings: what was measured.

    Raises:
        OSError: the file cannot be written.
    """
    if findings.split is not None:
        _draw_split(file, findings)
    else:
        _draw_prompts(file, findings)


def _draw_split(file: Path, findings: Findings) -> None:
    assert findings.split is not None
    drawn = axes(1.8)
    reached = 0.0
    colours = (*COLOURS, GREY)
    for (name, milliseconds), colour in zip(findings.split.parts.items(), colours, strict=True):
        label = f"{name} {milliseconds:.2f}"
        drawn.barh(0, milliseconds, 0.5, left=reached, color=colour, label=label)
        reached += milliseconds
    drawn.set_yticks([])
    drawn.set_ylim(-0.3, 0.8)
    drawn.legend(ncols=len(colours), loc="upper left", frameon=False, labelcolor=GREY)
    drawn.set_xlabel(f"milliseconds of a step, medians over {findings.prompts} prompts")
    save(drawn, file)


def _draw_prompts(file: Path, findings: Findings) -> None:
    drawn = axes(3.4)
    name = TREE if TREE in findings.runs else PLAIN
    runs = findings.runs[name]
    if name == TREE:
        values = [run.tokens / run.steps for run in runs]
        middle, what = findings.figures(TREE).tokens_per_step.value, "tokens per step"
    else:
        values = [1e3 * run.seconds / run.tokens for run in runs]
        middle, what = findings.figures(PLAIN).ms_per_token.middle, "milliseconds per token"
    places = range(1, len(values) + 1)
    drawn.bar(places, sorted(values), color=COLOURS[0], label=f"{what}, one prompt")
    drawn.axhline(middle, color=COLOURS[1], linewidth=1.2, label=f"all: {middle:.2f}")
    drawn.set_ylim(0, 1.25 * max(values))
    drawn.set_xticks([])
    drawn.set_xlabel(f"{len(values)} prompts, lowest first")
    drawn.set_ylabel(what)
    save(drawn, file)


def draw_study(file: Path, study: Study) -> None:
    """Tokens per step over temperature, a line a rule, side by side for each nucleus mass.

    Args:
        file: SVG or PNG to write.
        study: what was counted.

    Raises:
        OSError: the file cannot be written.
    """
    masses = list(dict.fromkeys(each.top_p for each in study.settings))
    drawn = panels(3.4, len(masses))
    for panel, top_p in zip(drawn, masses, strict=True):
        settings = sorted(
            (each for each in study.settings if each.top_p == top_p),
            key=lambda each: each.temperature,
        )
        for rule, colour in zip(RULES, COLOURS, strict=False):
            rates = [each.rates[rule] for each in settings]
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
    drawn[0].set_ylabel(f"tokens per step, {study.prompts} prompts")
    save(drawn[0], file)


def _whiskers(rates: Sequence[Interval]) -> tuple[list[float], list[float]]:
    below = [max(rate.value - rate.low, 0.0) for rate in rates]
    return below, [max(rate.high - rate.value, 0.0) for rate in rates]
