"""How often each position of the tree was accepted, and what the tree shape expects.

A position is the child ranks on the way from the root: (1, 2) is the second child of the first
child. Trees of different shapes are counted together where they have positions in common.
Looked-up nodes are not counted, as in the statistics: the shape was not made for them.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from sequoia_core.events import Origin, Outcome, Step

from ..state.answer import Answer, Chosen
from ..state.stats import Rate
from .tree_rows import Guides, connector, rail

Position = tuple[int, ...]
_MOST_POSITIONS = 4096  # trees of a chat may all differ; positions beyond so many are not counted


class AcceptanceRow(NamedTuple):
    guides: Guides
    position: Position
    rate: Rate  # of the steps that drafted it, those in which it was accepted
    expected: float | None  # the rate that the tree shape was made for


class AcceptanceMap:
    """The steps `first` to `last` of an answer, decoded with one tree shape, by position."""

    def __init__(self) -> None:
        self.chosen: Chosen | None = None
        self.first = self.last = 0
        self._answer: Answer | None = None
        self._counts: dict[Position, Rate] = {}

    @property
    def steps(self) -> int:
        return self.last - self.first + 1 if self._counts else 0

    def follow(self, answer: Answer | None, at: int | None, chosen: Chosen | None) -> bool:
        """Count the steps up to index `at` in `answer.steps` (None: all), decoded with `chosen`.

        Returns whether anything changed.
        """
        steps = answer.steps if answer is not None else []
        upto = steps[-1 if at is None else at].index if steps else 0
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
        """Positions in preorder, which sorted tuples are, without the root."""
        rates = self.chosen.tree.expected_by_rank if self.chosen is not None else ()
        last_child = {position[:-1]: position for position in sorted(self._counts)}
        rows = []
        for position, rate in sorted(self._counts.items()):
            lasts = [last_child[position[:at]] == position[: at + 1] for at in range(len(position))]
            rails = [rail(last, cells_per_level) for last in lasts[:-1]]
            guides = (*rails, connector(lasts[-1], cells_per_level))
            rows.append(AcceptanceRow(guides, position, rate, expected_rate(position, rates)))
        return rows

    def _count(self, step: Step) -> None:
        positions: list[Position | None] = []
        for node in step.nodes:
            above = positions[node.parent] if node.parent >= 0 else None
            if node.parent < 0:
                positions.append(())
            elif above is None or node.origin is Origin.LOOKUP:
                positions.append(None)
            else:
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
