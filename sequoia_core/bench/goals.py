"""What this engine is meant to reach against others, held against what was measured.

Owns the list of ratios and their wording. A ratio whose system did not take part is told as such.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sequoia_core.bench import names
from sequoia_core.bench.report import Spread, ratio
from sequoia_core.bench.runner import Comparison

MOST_MEMORY = 2.5
"""Peak memory of the process over the bfloat16 size of both models' weights."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One ratio.

    Attributes:
        faster: system whose speed is divided.
        slower: by this one's.
        wanted: at least.
        temperature: for which alone it is wanted; None is every one.
    """

    faster: str
    slower: str
    wanted: float
    temperature: float | None = None


def _of_tree(tree: str) -> tuple[Goal, ...]:
    return (
        Goal(tree, names.PLAIN, 2.0, 0.0),
        Goal(tree, names.PLAIN, 1.6, 0.6),
        Goal(tree, names.HF_ASSISTED, 2.5),
        Goal(tree, names.LLAMA_CPP, 1.5),
        Goal(tree, names.CHAIN, 1.15, 0.6),
    )


GOALS = (
    Goal(names.PLAIN, names.HF_PLAIN, 2.0),
    *_of_tree(names.TREE),
    *_of_tree(names.ADAPTIVE),
)


@dataclass(frozen=True, slots=True)
class Score:
    """A goal and what was measured of it, None where a system did not take part."""

    goal: Goal
    measured: Spread | None

    @property
    def reached(self) -> bool:
        """Whether the median is what was wanted."""
        return self.measured is not None and self.measured.middle >= self.goal.wanted

    def text(self) -> str:
        """One line."""
        what = f"{self.goal.faster} / {self.goal.slower}"
        wanted = f"wanted {self.goal.wanted:g}x"
        if self.measured is None:
            return f"{what}: not measured; {wanted}"
        verdict = "reached" if self.reached else "not reached"
        return f"{what}: {self.measured.text(2, 'x')}; {wanted}: {verdict}"


def scores(comparison: Comparison, goals: Iterable[Goal] = GOALS) -> Iterator[Score]:
    """Every goal for the comparison's temperature."""
    runs = comparison.runs
    for goal in goals:
        if goal.temperature not in (None, comparison.params.temperature):
            continue
        there = goal.faster in runs and goal.slower in runs
        measured = ratio(runs[goal.faster], runs[goal.slower]) if there else None
        yield Score(goal, measured)


def memory_lines(used: Mapping[str, int], weights: int) -> Iterator[str]:
    """A table of peak memory against the weights' size, and the goal for it.

    Args:
        used: bytes by system.
        weights: bytes of both models in bfloat16.
    """
    yield f"Peak memory of a process of its own; both models' weights in bfloat16: {_mb(weights)}"
    yield ""
    yield "| system | peak | over the weights |"
    yield "|---|---|---|"
    for name, peak in used.items():
        yield f"| {name} | {_mb(peak)} | {peak / weights:.2f}x |"
    if names.TREE in used:
        share = used[names.TREE] / weights
        verdict = "reached" if share < MOST_MEMORY else "not reached"
        yield ""
        yield f"{names.TREE}: {share:.2f}x; wanted under {MOST_MEMORY:g}x: {verdict}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
