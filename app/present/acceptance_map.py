"""How often each position of the tree was accepted, and what the tree shape expects.

A position is the child ranks on the way from the root: (1, 2) is the second child of the first
child. Trees of different shapes are counted together where they have positions in common.
Looked-up nodes are not counted, as in the statistics: the shape was not made for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from sequoia_core.events import Origin, Outcome, Step

from ..state.answer import Answer, Chosen
from ..state.stats import Rate
from .tree_rows import Guides, connector, rail

Position = tuple[int, ...]
_MOST_POSITIONS = 4096
"""Trees of a chat may all differ; positions beyond so many are not counted."""


@dataclass(frozen=True, slots=True)
class AcceptanceRow:
    """One line of the map.

    Attributes:
        guides: in front of it.
        position: child ranks from the root.
        rate: of the steps that drafted it, those in which it was accepted.
        expected: rate that the tree shape was made for, or None where that is not known.
    """

    guides: Guides
    position: Position
    rate: Rate
    expected: float | None


class AcceptanceMap:
    """The steps of an answer with one tree shape, counted by position.

    Attributes:
        chosen: the shape; None before the first step.
        first: index of the first step counted.
        last: index of the last step counted.
    """

    def __init__(self) -> None:
        self.chosen: Chosen | None = None
        self.first = self.last = 0
        self._answer: Answer | None = None
        self._counts: dict[Position, Rate] = {}

    @property
    def steps(self) -> int:
        """Number of steps counted."""
        return self.last - self.first + 1 if self._counts else 0

    def follow(self, answer: Answer | None, at: int | None, chosen: Chosen | None) -> bool:
        """Count the steps with one tree shape up to a step; returns whether anything changed.

        Args:
            answer: that is followed.
            at: index of the step in `answer.steps`; None is the last.
            chosen: the shape of that step.
        """
        steps = answer.steps if answer is not None else []
        upto = (steps[-1 if at is None else at].index) if steps else 0
        same = answer is self._answer and chosen == self.chosen
        if same and upto == self.last:
            return False
        if not same or upto < self.last:
            self.chosen, self._answer, self._counts = chosen, answer, {}
            self.first = chosen.since if chosen is not None else 1
            self.last = self.first - 1
        for step in steps[self.last : upto]:  # step 1 is the first
            self._count(step)
        self.last = upto
        return True

    def rows(self, cells_per_level: int = 3) -> list[AcceptanceRow]:
        """Positions in preorder, without the root, which is always there."""
        rates = self.chosen.tree.expected_by_rank if self.chosen is not None else ()
        return [
            AcceptanceRow(guides, position, self._counts[position], expected_rate(position, rates))
            for position, guides in _preorder(sorted(self._counts), cells_per_level)
        ]

    def _count(self, step: Step) -> None:
        positions: list[Position | None] = []
        for node in step.nodes:
            if node.parent < 0:
                positions.append(())
                continue
            above = positions[node.parent]
            if above is None or node.origin is Origin.LOOKUP:
                positions.append(None)
                continue
            position = (*above, node.rank)
            positions.append(position)
            if position in self._counts or len(self._counts) < _MOST_POSITIONS:
                rate = self._counts.get(position, Rate())
                self._counts[position] = rate.plus(node.outcome is Outcome.ACCEPTED)


def expected_rate(position: Position, rates: Sequence[float]) -> float | None:
    """The product of the acceptance rates by rank along a position (Sequoia, section 3)."""
    if not rates or max(position) > len(rates):
        return None
    return prod(rates[rank - 1] for rank in position)


def _preorder(positions: Sequence[Position], cells: int) -> Iterator[tuple[Position, Guides]]:
    """Positions with their guides; sorted tuples are in preorder already."""
    last_child = {position[:-1]: position for position in positions}
    known = {(), *positions}
    for position in positions:
        if position[:-1] not in known:
            continue  # its parent was not counted
        guides = []
        for depth in range(1, len(position) + 1):
            last = last_child[position[: depth - 1]] == position[:depth]
            part = connector if depth == len(position) else rail
            guides.append(part(last, cells))
        yield position, tuple(guides)
