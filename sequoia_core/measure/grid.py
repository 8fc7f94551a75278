"""Holds what calibration predicts against what decoding with many trees measures.

Owns the grid of trees, its prompts and the comparison. Every tree decodes every prompt in turn,
next to plain decoding, so that all see the same text and the same machine; the order turns round
with every prompt. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Progress, Step
from sequoia_core.measure.online_advisor import Figures
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.text.chat_template import ChatTemplate
from sequoia_core.tree.choice import ROOT, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

NODES = (2, 3, 4, 6, 8, 12, 16, 24)
DEPTHS = (1, 2, 3, 4, 6)
TOKENS = 96
"""New tokens per prompt and tree."""
PROMPTS = (
    "How does a bicycle stay upright while it is moving?",
    "Write a short speech for a friend's fiftieth birthday.",
    "What is the difference between weather and climate?",
    "Give me a recipe for a simple vegetable soup.",
    "Explain how a bill becomes a law in a parliament.",
    "Describe a walk along the sea on a stormy day.",
    "What are the duties of a school librarian?",
    "Explain why the sea is salty to a ten-year-old.",
    "Write the opening paragraph of a detective story.",
    "How can somebody learn to sleep better?",
    "Name five things to see in a museum of technology and say why.",
    "What happens when water boils?",
)
"""Not those that acceptance was counted on."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt decoded with one tree.

    Attributes:
        tokens: emitted.
        steps: they took.
        step_ratio: the median time of a step over that of a plain step on the same prompt.
    """

    tokens: int
    steps: int
    step_ratio: float


@dataclass(frozen=True, slots=True)
class Cell:
    """One tree: what was predicted of it and what it did.

    Attributes:
        tree: the shape.
        predicted: speed-up over plain decoding by the figures.
        answers: what it did, by prompt.
    """

    tree: GrowMap
    predicted: float
    answers: tuple[Answer, ...]

    @property
    def measured(self) -> float:
        """Speed-up: tokens per step x the time of a plain step / the time of a step."""
        return _speedup(self.answers)

    @property
    def tokens_per_step(self) -> float:
        """Over all prompts."""
        return _tokens_per_step(self.answers)

    @property
    def step_ratio(self) -> float:
        """Time of a step over that of a plain one, the median over prompts."""
        return median(answer.step_ratio for answer in self.answers)


def _speedup(answers: Sequence[Answer]) -> float:
    return _tokens_per_step(answers) / median(answer.step_ratio for answer in answers)


def _tokens_per_step(answers: Sequence[Answer]) -> float:
    return sum(answer.tokens for answer in answers) / sum(answer.steps for answer in answers)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured grid.

    Attributes:
        cells: every tree, the picked one among them.
        picked: what calibration would decode with; plain decoding is a tree of one node.
    """

    cells: tuple[Cell, ...]
    picked: Cell

    @property
    def best(self) -> Cell:
        """The fastest as measured; plain decoding, at 1, if nothing beats it."""
        return max(self.cells, key=lambda cell: cell.measured)

    @property
    def seeming_shortfall(self) -> float:
        """Part of the best tree's speed that the picked one lacks; 0 if it is the best.

        The best of many is one that was also lucky, so this is too large where trees are alike.
        """
        return 1.0 - self.picked.measured / self.best.measured

    @property
    def shortfall(self) -> float:
        """The same without luck, mean of two.

        The best tree on half of the prompts is held against the picked one on the other half, and
        the other way round. Below 0 where the picked tree does better than what seemed best. With
        a single prompt it is the seeming one.
        """
        halves = [slice(0, None, 2), slice(1, None, 2)]
        if len(self.picked.answers) < len(halves):
            return self.seeming_shortfall
        lacking = []
        for chosen_on, judged_on in (halves, halves[::-1]):
            best = max(self.cells, key=lambda cell: _speedup(cell.answers[chosen_on]))
            rivals = (_speedup(cell.answers[judged_on]) for cell in (self.picked, best))
            lacking.append(1.0 - next(rivals) / next(rivals))
        return fmean(lacking)

    @property
    def error(self) -> float:
        """Mean distance of predicted from measured speed-ups, as a part of the measured ones."""
        trees = [cell for cell in self.cells if cell.tree.size > 1]
        return fmean(abs(cell.predicted / cell.measured - 1.0) for cell in trees)


def grid_trees(figures: Figures) -> list[GrowMap]:
    """The best tree of every size and depth of the grid, each shape once, and the picked one."""
    record = figures.record
    branching = max(map(len, (record.rates, *record.deeper)))
    table = expected_tokens_table(record.rates, NODES[-1], DEPTHS[-1], branching, record.deeper)
    searched = (table.tree(nodes, depth) for nodes in NODES for depth in DEPTHS)
    picked = figures.search().growmap or ROOT
    shapes = {tree.parents: tree for tree in (ROOT, *searched, picked)}
    return list(shapes.values())


def compare(pair: Pair, figures: Figures, temperature: float, progress: Progress) -> Comparison:
    """Decode with every tree of the grid; takes minutes."""
    trees = grid_trees(figures)
    steps: dict[tuple[int, ...], list[list[Step]]] = {tree.parents: [] for tree in trees}
    for at, prompt in enumerate(PROMPTS):
        for nth, tree in enumerate(trees if at % 2 == 0 else trees[::-1]):
            share = (at + nth / len(trees)) / len(PROMPTS)
            progress(f"Decoding with {len(trees)} trees", share)
            params = SamplingParams(temperature, seed=at, max_new_tokens=TOKENS)
            steps[tree.parents].append(list(_decode(pair, tree, prompt, params)))
    plain = [_step_ms(answer) for answer in steps[ROOT.parents]]
    cells = {tree.parents: _cell(tree, figures, steps[tree.parents], plain) for tree in trees}
    return Comparison(tuple(cells.values()), cells[(figures.search().growmap or ROOT).parents])


def _decode(pair: Pair, tree: GrowMap, prompt: str, params: SamplingParams) -> Iterator[Step]:
    engine = Engine.of(pair, BundledAdvisor.default({}))
    engine.clock = NoBaseline()
    engine.tree_choice = TreeChoice(Mode.SEQUOIA if tree.size > 1 else Mode.AR, tree)
    ids = ChatTemplate(pair.tokenizer, None).whole([], prompt)
    for event in engine.generate(ids, params):
        if isinstance(event, Step):
            yield event


def _step_ms(answer: list[Step]) -> float:
    return median(step.timings.total_ms for step in answer)


def _cell(tree: GrowMap, figures: Figures, answers: list[list[Step]], plain: list[float]) -> Cell:
    decoded = (
        Answer(sum(len(step.token_ids) for step in steps), len(steps), _step_ms(steps) / ms)
        for steps, ms in zip(answers, plain, strict=True)
    )
    return Cell(tree, figures.speedup(tree), tuple(decoded))
