"""How often each place of the tree was accepted, beside what the tree shape was made for. Pure.

A place is told by the child ranks on the way to it: (1, 2) is the second child of the first child.
So trees that are grown anew each step are counted together with the places they have in common.
What was looked up is left out, as in the statistics: the shape was not made for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from sequoia_core.events import Origin, Outcome, Step

from ..state.answer import Answer, Chosen
from .tree_rows import GuidePart, light_connector, light_rail

Place = tuple[int, ...]
_MOST_PLACES = 4096
"""Trees of a chat may all differ; what comes after so many places is counted no more."""


@dataclass(slots=True)
class Count:
    """A place: in how many steps it was drafted, tried and accepted."""

    drafted: int = 0
    tried: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One line of the map.

    Attributes:
        guides: from the left, ending at the row's own connector.
        place: child ranks on the way.
        got: share of the steps that drafted it in which it was accepted.
        expected: what the tree shape was made for, or None where that is not known.
        count: how `got` came about.
    """

    guides: tuple[GuidePart, ...]
    place: Place
    got: float
    expected: float | None
    count: Count


@dataclass(slots=True)
class HeatMap:
    """The steps of an answer with one tree shape, counted by place.

    Attributes:
        chosen: the shape; None before the first step.
        first: index of the first step counted.
        last: of the last one.
    """

    chosen: Chosen | None = None
    first: int = 0
    last: int = 0
    _answer: Answer | None = None
    _counts: dict[Place, Count] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How many steps are counted."""
        return self.last - self.first + 1 if self._counts else 0

    def follow(self, answer: Answer | None, at: int | None, chosen: Chosen | None) -> bool:
        """Count an answer's steps up to the one on show.

        Args:
            answer: the answer.
            at: index of the step in `answer.steps`; None is the last.
            chosen: the shape of that step: the steps since then count.

        Returns:
            whether anything changed.
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

    def rows(self, cells_per_level: int = 3) -> list[HeatRow]:
        """Places in preorder, the root left out: it is always there."""
        rates = self.chosen.tree.expected_by_rank if self.chosen is not None else ()
        return [
            HeatRow(
                guides=guides,
                place=place,
                got=self._counts[place].accepted / self._counts[place].drafted,
                expected=expected(place, rates),
                count=self._counts[place],
            )
            for place, guides in _preorder(sorted(self._counts), cells_per_level)
        ]

    def _count(self, step: Step) -> None:
        places: list[Place | None] = []
        for node in step.nodes:
            above = places[node.parent] if node.parent >= 0 else ()
            looked_up = node.origin is Origin.LOOKUP
            place = None if above is None or looked_up else (*above, node.rank)
            places.append(() if node.parent < 0 else place)
            if node.parent < 0 or place is None:
                continue
            count = self._counts.get(place)
            if count is None:
                if len(self._counts) >= _MOST_PLACES:
                    continue
                count = self._counts[place] = Count()
            count.drafted += 1
            count.tried += node.outcome is not Outcome.NOT_REACHED
            count.accepted += node.outcome is Outcome.ACCEPTED


def expected(place: Place, rates: Sequence[float]) -> float | None:
    """The product of the positional acceptance rates on the way to a place (Sequoia, section 3)."""
    if not rates or max(place) > len(rates):
        return None
    return prod(rates[rank - 1] for rank in place)


def _preorder(places: Sequence[Place], cells: int) -> Iterator[tuple[Place, tuple[GuidePart, ...]]]:
    """Places with their guides; sorted tuples are in preorder already."""
    known = set(places)
    children: dict[Place, list[Place]] = {}
    for place in places:
        children.setdefault(place[:-1], []).append(place)
    for place in places:
        if len(place) > 1 and place[:-1] not in known:
            continue  # its parent was not counted
        guides = []
        for depth in range(1, len(place) + 1):
            last = children[place[: depth - 1]][-1] == place[:depth]
            part = light_connector if depth == len(place) else light_rail
            guides.append(part(last, cells))
        yield place, tuple(guides)
