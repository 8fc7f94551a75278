"""Statistics of comparisons: medians with spread, and ratios taken prompt by prompt."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import geometric_mean, median

from sequoia_core.bench import names
from sequoia_core.bench.comparison import SpeedComparison
from sequoia_core.bench.runs import Run, average_parts
from sequoia_core.events import StepTimings
from sequoia_core.measure.spread import Spread


@dataclass(frozen=True, slots=True)
class SystemSummary:
    """One system's figures over all prompts.

    Attributes:
        ratio: its speed over the first system's on the same prompt.
        tokens_per_step: median.
        first_ms: until the first tokens, median; no part of the speed.
        tree: its most frequent tree; "" where that has no name.
        parts: of a step, each the median of its means; None where they are not known.
        same_text: prompts on which the tokens equal the first system's.
    """

    name: str
    tokens_per_second: Spread
    ratio: Spread
    tokens_per_step: float
    first_ms: float
    tree: str
    parts: StepTimings | None
    same_text: int


def summarize(comparison: SpeedComparison) -> list[SystemSummary]:
    """Figures of every system; the first one is the baseline."""
    baseline = next(iter(comparison.runs.values()))
    return [_summary(name, runs, baseline) for name, runs in comparison.runs.items()]


def speeds(comparison: SpeedComparison) -> dict[str, Spread]:
    """Tokens per second by system."""
    return {name: _speed(runs) for name, runs in comparison.runs.items()}


def ratio(runs: Sequence[Run], others: Sequence[Run]) -> Spread:
    """How much faster one system decodes than another, prompt by prompt."""
    return Spread.of([
        run.tokens_per_second / other.tokens_per_second
        for run, other in zip(runs, others, strict=True)
    ])  # fmt: skip


def best_tree(comparisons: Sequence[SpeedComparison]) -> str | None:
    """This engine's fastest way to speculate over all ways of sampling; None without a draft."""
    ranked = ranked_trees(comparisons)
    return ranked[0][0] if ranked else None


def ranked_trees(comparisons: Sequence[SpeedComparison]) -> list[tuple[str, float]]:
    """This engine's ways to speculate and their speed over plain decoding, fastest first.

    The speed is the geometric mean over ways of sampling of the medians over prompts.
    """
    means = {
        name: geometric_mean(
            ratio(each.runs[name], each.runs[names.PLAIN]).middle for each in comparisons
        )
        for name in names.TREES
        if all(name in each.runs for each in comparisons)
    }
    return sorted(means.items(), key=lambda item: -item[1])


def fastest(comparison: SpeedComparison, systems: Sequence[str]) -> str | None:
    """The one of these systems with the highest median speed; None where none took part."""
    middles = {
        name: _speed(comparison.runs[name]).middle for name in systems if name in comparison.runs
    }
    return max(middles, key=middles.__getitem__, default=None)


def _speed(runs: Sequence[Run]) -> Spread:
    return Spread.of([run.tokens_per_second for run in runs])


def _summary(name: str, runs: list[Run], baseline: list[Run]) -> SystemSummary:
    return SystemSummary(
        name=name,
        tokens_per_second=_speed(runs),
        ratio=ratio(runs, baseline),
        tokens_per_step=median(run.tokens / run.steps for run in runs),
        first_ms=1e3 * median(run.first_seconds for run in runs),
        tree=Counter(run.tree for run in runs).most_common(1)[0][0],
        parts=average_parts([run.parts for run in runs if run.parts is not None], median),
        same_text=sum(
            run.token_ids == base.token_ids for run, base in zip(runs, baseline, strict=True)
        ),
    )
