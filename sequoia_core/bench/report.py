"""A comparison as a table for people and as plain values for machines.

Owns the statistics: medians with spread, and ratios taken prompt by prompt. Measures nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import geometric_mean, median

from sequoia_core.bench import names
from sequoia_core.bench.runner import Comparison
from sequoia_core.bench.runs import Run, StepParts
from sequoia_core.measure.spread import Spread

BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Row:
    """One system's figures over all prompts.

    Attributes:
        name: the system.
        tokens_per_second: decoding speed.
        ratio: its speed over the first system's on the same prompt.
        tokens_per_step: median.
        first_ms: until the first tokens, median; no part of the speed.
        tree: what it speculated with most often; "" where that has no name.
        parts: of a step, each the median of its means; None where they are not known.
        same_text: prompts on which the tokens equal the first system's.
    """

    name: str
    tokens_per_second: Spread
    ratio: Spread
    tokens_per_step: float
    first_ms: float
    tree: str
    parts: StepParts | None
    same_text: int


def ratio(runs: Sequence[Run], others: Sequence[Run]) -> Spread:
    """How much faster one system decodes than another, prompt by prompt."""
    return Spread.of([
        run.tokens_per_second / other.tokens_per_second
        for run, other in zip(runs, others, strict=True)
    ])  # fmt: skip


def best_tree(comparisons: Sequence[Comparison]) -> str | None:
    """This engine's fastest way to speculate over all ways of sampling; None without a draft."""
    ranked = ranked_trees(comparisons)
    return ranked[0][0] if ranked else None


def ranked_trees(comparisons: Sequence[Comparison]) -> list[tuple[str, float]]:
    """This engine's ways to speculate and their speed over plain decoding, fastest first.

    The geometric mean over ways of sampling of the medians over prompts.
    """
    means = {
        name: geometric_mean(
            ratio(each.runs[name], each.runs[names.PLAIN]).middle for each in comparisons
        )
        for name in names.TREES
        if all(name in each.runs for each in comparisons)
    }
    return sorted(means.items(), key=lambda item: -item[1])


def fastest(comparison: Comparison, systems: Sequence[str]) -> str | None:
    """The one of some systems with the highest median speed; None where none took part."""
    speeds = {
        name: median(run.tokens_per_second for run in comparison.runs[name])
        for name in systems
        if name in comparison.runs
    }
    return max(speeds, key=speeds.__getitem__, default=None)


def rows(comparison: Comparison) -> list[Row]:
    """Summarise; the first system is the baseline."""
    baseline = next(iter(comparison.runs.values()))
    return [_row(name, runs, baseline) for name, runs in comparison.runs.items()]


def _row(name: str, runs: list[Run], baseline: list[Run]) -> Row:
    return Row(
        name=name,
        tokens_per_second=Spread.of([run.tokens_per_second for run in runs]),
        ratio=ratio(runs, baseline),
        tokens_per_step=median(run.tokens / run.steps for run in runs),
        first_ms=1e3 * median(run.first_seconds for run in runs),
        tree=Counter(run.tree for run in runs).most_common(1)[0][0],
        parts=_parts(runs),
        same_text=sum(
            run.token_ids == base.token_ids for run, base in zip(runs, baseline, strict=True)
        ),
    )


def _parts(runs: list[Run]) -> StepParts | None:
    known = [run.parts for run in runs if run.parts is not None]
    if not known:
        return None
    return StepParts(
        draft_ms=median(parts.draft_ms for parts in known),
        verify_ms=median(parts.verify_ms for parts in known),
        bookkeeping_ms=median(parts.bookkeeping_ms for parts in known),
    )


def table(summary: Sequence[Row], prompts: int) -> str:
    """Markdown, one line a system."""
    lines = [
        "| system | tokens/s | ratio | tokens/step | first ms | tree | draft ms | verify ms "
        "| rest ms | rest | same text |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in summary:
        parts = ("", "", "", "")
        if row.parts is not None:
            parts = (
                f"{row.parts.draft_ms:.2f}", f"{row.parts.verify_ms:.2f}",
                f"{row.parts.bookkeeping_ms:.2f}", f"{row.parts.bookkeeping_share:.1%}",
            )  # fmt: skip
        cells = (
            row.name, row.tokens_per_second.text(1), row.ratio.text(2, "x"),
            f"{row.tokens_per_step:.2f}", f"{row.first_ms:.0f}", row.tree, *parts,
            f"{row.same_text} of {prompts}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bars(speeds: Sequence[tuple[str, Spread]]) -> str:
    """Median tokens/s as bars of characters, for a terminal."""
    longest = max(spread.middle for _, spread in speeds)
    width = max(len(name) for name, _ in speeds)
    return "\n".join(
        f"{name:<{width}}  {_bar(spread.middle / longest):<{BAR_WIDTH}}  {spread.middle:.1f}"
        for name, spread in speeds
    )


def _bar(share: float) -> str:
    eighths = round(share * BAR_WIDTH * 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip()


def as_values(comparison: Comparison, summary: Sequence[Row]) -> dict[str, object]:
    """For JSON."""
    return {
        "params": asdict(comparison.params),
        "rows": [asdict(row) for row in summary],
        "runs": {name: [asdict(run) for run in runs] for name, runs in comparison.runs.items()},
    }
