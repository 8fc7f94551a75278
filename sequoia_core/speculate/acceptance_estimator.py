"""How often a draft's child is accepted, by rank, depth and the draft's own probability.

Each cell of the table begins at a belief and forgets slowly, so that it follows a draft which is
over- or under-confident, and a text that changes.
"""

from bisect import bisect_right
from collections.abc import Callable

from sequoia_core.speculate.fading import FadingRatio

EDGES = (0.01, 0.03, 0.07, 0.15, 0.25, 0.4, 0.55, 0.7, 0.82, 0.91, 0.97)
"""Where one bucket of probability ends and the next begins."""
RANKS = 4  # children from this rank on share a cell
_BELIEF = 6.0  # observations that the first belief counts for
_MEMORY = 300
_UNSEEN = FadingRatio(_MEMORY)


class AcceptanceEstimator:
    """Acceptance of a child of a rank, from 1, for which the draft states a probability."""

    def __init__(self, belief: Callable[[int, float], float]) -> None:
        self._belief = belief
        self._cells: dict[tuple[int, int, int], FadingRatio] = {}

    def estimate(self, depth: int, rank: int, prob: float) -> float:
        cell = self._cells.get(_cell(depth, rank, prob), _UNSEEN)
        return cell.estimate(self._belief(rank, prob), _BELIEF)

    def record(self, depth: int, rank: int, prob: float, accepted: bool) -> None:
        """Learn from a child of a node on the accepted path."""
        key = _cell(depth, rank, prob)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = FadingRatio(_MEMORY)
        cell.add(accepted)


def _cell(depth: int, rank: int, prob: float) -> tuple[int, int, int]:
    """Below the first level a draft goes by its own guesses, hence two classes of depth."""
    return min(depth, 2), min(rank, RANKS), bisect_right(EDGES, prob)


def stated(rank: int, prob: float) -> float:  # noqa: ARG001 the probability is the token's own
    """The draft's own probability: the belief of argmax decoding."""
    return prob


def overlapping(rank: int, prob: float) -> float:
    """What target and draft have in common: the belief of sampling.

    For a first child this is the overlap, at temperature 0.6 nearly the largest probability at
    temperature 1; what the children after it add falls off fast (docs/decisions/0057).
    """
    first = 0.1 + 0.86 * prob
    return first if rank == 1 else min(first, (1.0 - first) * 0.25 * 0.55 ** (rank - 2))
