"""Why a step came out as it did: what both models thought, and what each trial left of the target.

Plain immutable values that a `Step` may carry. They say nothing that decides a token: a step
decodes the same with and without them. Knows nothing of how they are found out; see `explain`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ranking:
    """The most probable tokens of a distribution, the first the most probable.

    Attributes:
        token_ids: the target's ids.
        texts: as in `TreeNode.text`.
        probs: to six decimals.
    """

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]
    probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the models thought comes after a node.

    Attributes:
        node: index in the step's tree.
        target: the target's distribution, in the sense of `TreeNode.target_prob`.
        draft: what its children were drawn from; None where the draft did not read the node.
    """

    node: int
    target: Ranking
    draft: Ranking | None = None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A child held against what rejections before it had left, to the digits it was judged by.

    Attributes:
        node: the child.
        p: the target's probability of it then: shaped by top-p and top-k, less what was rejected.
        q: the draft's then; 1 where the child was proposed with certainty.
        residual: what its rejection left of the target; None when it was accepted.
    """

    node: int
    p: float
    q: float
    residual: Ranking | None = None


@dataclass(frozen=True, slots=True)
class Insight:
    """What a step can say about itself.

    Attributes:
        opinions: at nodes with children and where the accepted path ends; in a large tree the
            path's nodes and the first others.
        trials: in the order they were tried; none where the rule compares no probabilities.
    """

    opinions: tuple[Opinion, ...]
    trials: tuple[TrialRecord, ...]

    def opinion(self, node: int) -> Opinion | None:
        """What the models thought comes after a node, if that was kept."""
        return next((each for each in self.opinions if each.node == node), None)

    def trial(self, node: int) -> TrialRecord | None:
        """How a node was tried, if it was."""
        return next((each for each in self.trials if each.node == node), None)
