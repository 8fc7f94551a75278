"""Decides, level by level, how wide and deep a tree grows this step, by prices of `cost_model`.

DySpec (arXiv 2410.11744) and OPT-Tree (arXiv 2406.17276) have trees that follow the draft. Lossless
by construction: how many children a node gets follows from the draft's distribution there and from
the path to it, before anything is drawn from it; all that is drawn is verified.
"""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sequoia_core.speculate.cost_model import CostModel, FadingRatio
from sequoia_core.tree.choice import AdaptiveTree

IDLE_STEPS = 24  # without drafting, until it is tried once to notice a better text
_RECENT = 32  # nodes whose candidates stand for what the next one may be
_FIRST_SHARES = (0.5, 0.12, 0.05)
EDGES = (0.01, 0.03, 0.07, 0.15, 0.25, 0.4, 0.55, 0.7, 0.82, 0.91, 0.97)  # of probability
_RANKS = 4  # children from this rank on share a cell
_BELIEF = 6.0  # observations that the first belief counts for
_MEMORY = 300


@dataclass(frozen=True, slots=True)
class DraftCandidates:
    """The draft's distribution at a node, at temperature 1, without what will be drawn from it."""

    node: int
    peak: float  # its largest probability
    probs: tuple[float, ...]  # by rank if children are the most probable tokens; () if drawn
    width: int


@dataclass(frozen=True, slots=True)
class NewNode:
    """A node just added. Ranks count from 1; the root has parent -1, rank 0 and probability 1."""

    node: int
    parent: int
    rank: int
    token_id: int
    prob: float


@dataclass(frozen=True, slots=True)
class LookupPath:
    """Tokens expected to follow the root, whose rows are paid for."""

    token_ids: tuple[int, ...] = ()
    probs: tuple[float, ...] = ()  # that the text follows them so far; falling


@dataclass(frozen=True, slots=True)
class NodeOutcome:
    """A node on the accepted path, and the outcome of its candidates."""

    depth: int  # of its children
    peak: float
    count: int  # of the candidates that are in the tree
    tokens: tuple[int, ...]  # of the candidates
    probs: tuple[float, ...]
    token_id: int  # that follows
    accepted: int  # rank of the child that was accepted; 0 if none was


class AcceptanceEstimator:
    """How often a child is accepted, by rank, depth and the draft's own probability.

    Each cell begins at a belief and forgets slowly, so that it follows the draft and the text.
    """

    def __init__(self, belief: Callable[[int, float], float]) -> None:
        self._belief = belief
        self._cells = defaultdict[tuple[int, int, int], FadingRatio](lambda: FadingRatio(_MEMORY))

    def estimate(self, depth: int, rank: int, prob: float) -> float:
        return self._cell(depth, rank, prob).estimate(self._belief(rank, prob), _BELIEF)

    def record(self, depth: int, rank: int, prob: float, accepted: bool) -> None:
        """Learn from a child of a node on the accepted path."""
        self._cell(depth, rank, prob).add(accepted)

    def _cell(self, depth: int, rank: int, prob: float) -> FadingRatio:
        # below the first level a draft goes by its own guesses, hence two classes of depth
        return self._cells[min(depth, 2), min(rank, _RANKS), bisect_right(EDGES, prob)]


def stated(rank: int, prob: float) -> float:  # noqa: ARG001 the probability is the token's own
    """The draft's own probability: the belief of argmax decoding."""
    return prob


def overlapping(rank: int, prob: float) -> float:
    """What target and draft have in common: the belief of sampling (docs/decisions/0057)."""
    first = 0.1 + 0.86 * prob
    return first if rank == 1 else min(first, (1.0 - first) * 0.25 * 0.55 ** (rank - 2))


class AdaptivePolicy:
    """Statistics of a draft at one kind of sampling; makes a `StepPolicy` for each step.

    With `greedy` children are the draft's most probable tokens, and at most one can be right.
    """

    def __init__(self, costs: CostModel, greedy: bool) -> None:
        self.costs, self.greedy = costs, greedy
        self.before_drawing = AcceptanceEstimator(stated if greedy else overlapping)
        self.drawn = self.before_drawing if greedy else AcceptanceEstimator(overlapping)
        self._recent: deque[tuple[float, ...]] = deque([_FIRST_SHARES])
        self._shares = sorted(_FIRST_SHARES)  # all of `_recent`
        self._idle = 0

    def step(self, bounds: AdaptiveTree, draft_room: int, known: LookupPath) -> "StepPolicy":
        """Decide the next tree, for which the draft may read at most `draft_room` nodes."""
        probing = self._idle >= IDLE_STEPS
        self._idle += 1
        return StepPolicy(self, bounds, draft_room, known, probing)

    def learn(self, outcomes: Sequence[NodeOutcome]) -> None:
        """Update the estimates; with argmax decoding every candidate counts, in the tree or not."""
        for each in outcomes:
            if self.greedy:
                for rank, (prob, token) in enumerate(
                    zip(each.probs, each.tokens, strict=True), start=1
                ):
                    right = token == each.token_id
                    self.before_drawing.record(each.depth, rank, prob, right)
                continue
            for rank in range(1, each.count + 1):
                accepted = rank == each.accepted
                self.before_drawing.record(each.depth, rank, each.peak, accepted)
                self.drawn.record(each.depth, rank, each.probs[rank - 1], accepted)

    def expected_gain(self, weight: float, price: float) -> float:
        """Recent mean of the tokens gained by reading a node, less its children's row prices.

        `weight` is the probability that the text comes there.
        """
        if weight <= 0.0:
            return 0.0
        paying = self._shares[bisect_right(self._shares, price / weight) :]
        return (weight * sum(paying) - len(paying) * price) / len(self._recent)

    def note(self, shares: tuple[float, ...]) -> None:
        """Note the acceptance of a node's possible children, falling, if the text comes there."""
        self._idle = 0
        if len(self._recent) == _RECENT:
            for share in self._recent.popleft():
                del self._shares[bisect_left(self._shares, share)]
        self._recent.append(shares)
        for share in shares:
            insort(self._shares, share)


class StepPolicy:
    """One step's decisions, in the order in which a tree grows.

    `known` is in the tree already. `probing` drafts once, even if it does not seem to pay.
    """

    def __init__(
        self,
        policy: AdaptivePolicy,
        bounds: AdaptiveTree,
        draft_room: int,
        known: LookupPath,
        probing: bool,
    ) -> None:
        self._policy, self._costs = policy, policy.costs
        self._bounds, self._draft_room = bounds, draft_room
        self._known, self._probing = known, probing
        self.width = bounds.branching
        self.passes: list[int] = []  # rows of each drafting pass so far
        self._rows = 1 + len(known.token_ids)  # of the target's forward so far
        self._weights: dict[int, float] = {}
        """Probability that the text passes a node and leaves the looked-up continuation there."""
        self._known_at: dict[int, int] = {}
        """Tokens of the continuation matched up to a node, for the nodes on it."""
        self._depths: dict[int, int] = {}

    def read(self, nodes: Sequence[NewNode]) -> list[int]:
        for each in nodes:
            self._place(each)
        within = [each.node for each in nodes if self._depths[each.node] < self._bounds.depth]
        room = min(self._draft_room - sum(self.passes), self._bounds.size - self._rows)
        ranked = sorted(within, key=lambda node: -self._weights[node])[: max(room, 0)]
        chosen = ranked[: self._best_count([self._weights[node] for node in ranked])]
        if not chosen and self._probing and not self.passes:
            chosen = ranked[:1]
        if chosen:
            self.passes.append(len(chosen))
        return sorted(chosen)

    def children(self, candidates: Sequence[DraftCandidates]) -> list[int]:
        """The best candidates first, while they pay."""
        wanted: list[tuple[float, int]] = []
        for at, each in enumerate(candidates):
            wanted += [(estimate, at) for estimate in self._estimates(each)]
        wanted.sort(key=lambda pair: (-pair[0], pair[1]))
        counts = [0] * len(candidates)
        for estimate, at in wanted:
            forced = self._probing and not any(counts) and not self._depths[candidates[at].node]
            price = self._costs.row_price(self._rows + 1)
            if self._rows >= self._bounds.size or not (estimate >= price or forced):
                break
            counts[at] += 1
            self._rows += 1
        return counts

    def _estimates(self, candidates: DraftCandidates) -> list[float]:
        """Acceptance of each child that could be drawn, as far as is known before drawing."""
        depth, weight = self._depths[candidates.node] + 1, self._weights[candidates.node]
        shares: list[float] = []
        lowest = 1.0
        for rank in range(1, candidates.width + 1):
            prob = candidates.probs[rank - 1] if candidates.probs else candidates.peak
            # a later child is no better than one before it
            lowest = min(lowest, self._policy.before_drawing.estimate(depth, rank, prob))
            shares.append(lowest)
        self._policy.note(tuple(shares))
        return [weight * share for share in shares]

    def _place(self, new: NewNode) -> None:
        """Estimate how likely the text comes through a node, now that its token is known."""
        if new.parent < 0:
            self._depths[new.node], self._known_at[new.node] = 0, 0
            self._weights[new.node] = 1.0 - self._next_known(0, 1.0)
            return
        depth = self._depths[new.node] = self._depths[new.parent] + 1
        led = self._known_at.get(new.parent)
        tokens = self._known.token_ids
        if led is not None and led < len(tokens) and tokens[led] == new.token_id:
            reach = self._known.probs[led]
            self._known_at[new.node] = led + 1
            self._rows -= 1  # the continuation has paid for this row
            self._weights[new.node] = reach * (1.0 - self._next_known(led + 1, reach))
            return
        share = self._policy.drawn.estimate(depth, new.rank, new.prob)
        self._weights[new.node] = self._weights[new.parent] * share

    def _next_known(self, led: int, reach: float) -> float:
        """Probability that the continuation's next token is right, where it has been so far."""
        probs = self._known.probs
        return probs[led] / reach if led < len(probs) and reach > 0 else 0.0

    def _best_count(self, weights: Sequence[float]) -> int:
        """How many nodes, best first, a pass should read; 0 if none pays: then no two do."""
        best, best_gain, gained = 0, 0.0, 0.0
        for count, weight in enumerate(weights, start=1):
            price = self._costs.row_price(self._rows + count)
            gained += self._policy.expected_gain(weight, price)
            gain = gained - self._costs.pass_price(count, first=self._rows == 1)
            if gain > best_gain:
                best, best_gain = count, gain
        return best
