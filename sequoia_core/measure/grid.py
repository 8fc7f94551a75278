"""Compares the speed-ups that calibration predicts with those that many trees measure.

The order of trees is reversed from prompt to prompt, so that a change of the machine affects all.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from sequoia_core.config import SamplingParams
from sequoia_core.events import Progress, Step
from sequoia_core.measure.calibration_run import decode_steps
from sequoia_core.measure.tuner import SpeedModel
from sequoia_core.model.loading.pair import Pair
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap

NODES = (2, 3, 4, 6, 8, 12, 16, 24)
DEPTHS = (1, 2, 3, 4, 6)
TOKENS = 96  # per prompt and tree
# others than those that acceptance is counted on
PROMPTS = Path(__file__).with_name("grid_prompts.txt").read_text("utf-8").splitlines()


@dataclass(frozen=True, slots=True)
class GridAnswer:
    tokens: int
    steps: int
    step_ratio: float  # the median time of a step over that of a plain one on the same prompt


@dataclass(frozen=True, slots=True)
class GridCell:
    """One tree, its predicted speed-up over plain decoding, and its answer to each prompt."""

    tree: GrowMap
    predicted: float
    answers: tuple[GridAnswer, ...]

    @property
    def measured(self) -> float:
        """Speed-up: tokens per step x the time of a plain step / the time of a step."""
        return self.tokens_per_step / self.step_ratio

    def measured_on(self, prompts: slice) -> float:
        return replace(self, answers=self.answers[prompts]).measured

    @property
    def tokens_per_step(self) -> float:
        tokens = sum(answer.tokens for answer in self.answers)
        return tokens / sum(answer.steps for answer in self.answers)

    @property
    def step_ratio(self) -> float:
        return median(answer.step_ratio for answer in self.answers)


@dataclass(frozen=True, slots=True)
class GridComparison:
    """All trees, plain decoding with one node among them, and which one calibration picks."""

    cells: tuple[GridCell, ...]
    picked: GridCell

    @property
    def best(self) -> GridCell:
        """The fastest as measured; plain decoding, at 1, if nothing is faster."""
        return max(self.cells, key=lambda cell: cell.measured)

    @property
    def seeming_shortfall(self) -> float:
        """Part of the best tree's speed that the picked one lacks; too large by the best's luck."""
        return 1.0 - self.picked.measured / self.best.measured

    @property
    def shortfall(self) -> float:
        """The same without luck: the best tree on half of the prompts, compared on the other half.

        The mean of both halves, below 0 if the picked tree does better.
        """
        even, odd = slice(0, None, 2), slice(1, None, 2)
        lacking = []
        for half, other in ((even, odd), (odd, even)):
            best = max(self.cells, key=lambda cell: cell.measured_on(half))
            lacking.append(1.0 - self.picked.measured_on(other) / best.measured_on(other))
        return fmean(lacking)

    @property
    def error(self) -> float:
        """Mean distance of predicted from measured speed-ups, as a part of the measured ones."""
        trees = [cell for cell in self.cells if cell.tree.size > 1]
        return fmean(abs(cell.predicted / cell.measured - 1.0) for cell in trees)


def grid_trees(model: SpeedModel) -> list[GrowMap]:
    """The best tree of every size and depth of the grid, each shape once, and the picked one."""
    table = model.table(NODES[-1], DEPTHS[-1])
    searched = (table.tree(nodes, depth) for nodes in NODES for depth in DEPTHS)
    picked = model.search().growmap or ROOT
    return list({tree.parents: tree for tree in (ROOT, *searched, picked)}.values())


def compare(
    pair: Pair, model: SpeedModel, temperature: float, progress: Progress
) -> GridComparison:
    """Decode with every tree of the grid; takes minutes."""
    trees = grid_trees(model)
    answers: dict[tuple[int, ...], list[list[Step]]] = {tree.parents: [] for tree in trees}
    for at, prompt in enumerate(PROMPTS):
        for nth, tree in enumerate(trees if at % 2 == 0 else trees[::-1]):
            share = (at + nth / len(trees)) / len(PROMPTS)
            progress(f"Decoding with {len(trees)} trees", share)
            params = SamplingParams(temperature, seed=at, max_new_tokens=TOKENS)
            answers[tree.parents].append(list(decode_steps(pair, tree, prompt, params)))
    plain_ms = [_step_ms(steps) for steps in answers[ROOT.parents]]
    cells = {}
    for tree in trees:
        decoded = (
            GridAnswer(sum(len(step.token_ids) for step in steps), len(steps), _step_ms(steps) / ms)
            for steps, ms in zip(answers[tree.parents], plain_ms, strict=True)
        )
        cells[tree.parents] = GridCell(tree, model.speedup(tree), tuple(decoded))
    return GridComparison(tuple(cells.values()), cells[(model.search().growmap or ROOT).parents])


def _step_ms(steps: list[Step]) -> float:
    return median(step.timings.total_ms for step in steps)
