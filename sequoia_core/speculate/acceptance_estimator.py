"""How often a draft is right when it is so sure: learnt while decoding.

Owns a table of acceptance by rank, depth and the draft's own probability. Each cell begins at what
the caller believes and forgets slowly, so that a draft which is over- or under-confident, or a text
that has changed, is followed. Knows nothing of trees.
"""

from bisect import bisect_right
from collections.abc import Callable

EDGES = (0.01, 0.03, 0.07, 0.15, 0.25, 0.4, 0.55, 0.7, 0.82, 0.91, 0.97)
"""Where one bucket of probability ends and the next begins."""
RANKS = 4
"""Children from this rank on share a cell."""
_BELIEF = 6.0
"""Observations that the first belief counts for."""
_MEMORY = 300
"""Observations of a cell after which older ones have faded."""


class Confidence:
    """Acceptance of a child, given its rank and a probability that the draft states.

    Args:
        belief: (rank, probability) -> acceptance to begin with.
    """

    def __init__(self, belief: Callable[[int, float], float]) -> None:
        self._belief = belief
        self._hits: dict[tuple[int, int, int], tuple[float, float]] = {}

    def estimate(self, depth: int, rank: int, prob: float) -> float:
        """Probability that a child of this rank, at this depth, is the accepted one.

        Args:
            depth: of the child, 1 and more.
            rank: 1 for a first child.
            prob: what the draft states.
        """
        belief = self._belief(rank, prob)
        hits, trials = self._hits.get(_cell(depth, rank, prob), (0.0, 0.0))
        return (hits + _BELIEF * belief) / (trials + _BELIEF)

    def record(self, depth: int, rank: int, prob: float, accepted: bool) -> None:
        """Learn from a child of a node that the text went through."""
        cell = _cell(depth, rank, prob)
        hits, trials = self._hits.get(cell, (0.0, 0.0))
        keep = 1.0 - 1.0 / _MEMORY
        self._hits[cell] = (hits * keep + accepted, trials * keep + 1.0)


def _cell(depth: int, rank: int, prob: float) -> tuple[int, int, int]:
    """Below the first level a draft goes by its own guesses, hence two classes of depth."""
    return min(depth, 2), min(rank, RANKS), bisect_right(EDGES, prob)


def stated(rank: int, prob: float) -> float:  # noqa: ARG001 what is stated is of the token itself
    """The draft's own probability, taken at its word: for argmax decoding."""
    return prob


def overlapping(rank: int, prob: float) -> float:
    """What target and draft have in common where the draft is so sure: for sampling.

    Of a first child that is its overlap, at temperature 0.6 nearly the largest probability at
    temperature 1; what the children after it add falls off fast (docs/decisions/0055).
    """
    first = 0.1 + 0.86 * prob
    return first if rank == 1 else min(first, (1.0 - first) * 0.25 * 0.55 ** (rank - 2))
