"""Traversal verification: whole sequences of a tree are judged, from its leaves to its root.

Traversal Verification (arXiv 2505.12398); on a path it is Block Verification (arXiv 2403.10444).
Why it is lossless for children drawn without replacement, trees that follow the draft and appended
nodes is in docs/decisions/0072.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.speculate import verify
from sequoia_core.speculate.residual import Residual, ResidualPair, share_left
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.verify import Attempt, Verdict


def traverse(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Accept the first sequence from the root that passes, of those that end deepest.

    A node's reach is the probability that the sequence up to it is accepted, by what is known so
    far: 1 at the root, and min(1, reach p / q) at a child, with the reach of its parent. The
    children of a node come first. Where all were rejected, the node itself is accepted with its
    reach, and the bonus token comes from what is left of p; if it is rejected as well, p of its
    parent becomes norm(max(reach p - q, 0)), the node leaves q, and the parent's reach falls.

    Children were drawn as for `verify.sequoia`. Below a node without reach nothing is visited.
    """
    return climb(scored, verify.uniforms_of(scored, generator).tolist())


def climb(scored: ScoredTree, uniforms: Sequence[float]) -> Verdict:
    """`traverse` by given uniform numbers, the root's for the bonus token."""
    attempts, visits = dict[int, Attempt](), [_Visit(scored, 0, 1.0)]
    while True:
        visit = visits[-1]
        child = visit.next_child()
        if child is not None:
            visits.append(child)
            continue
        draw = uniforms[visit.node]
        if len(visits) == 1 or draw < visit.reach:  # the root's reach is 1
            break
        visits.pop()
        residual = visits[-1].reject(visit)
        attempts[visit.node] = visit.attempt(draw, residual)
    if len(visits) > 1:
        attempts[visit.node] = visit.attempt(draw)
    path = tuple(each.node for each in visits)
    return Verdict(path, verify._bonus(visit.left(), uniforms[0]), attempts)


@dataclass(slots=True)
class _Visit:
    """A node of the sequence in question, while its children are rejected one by one."""

    scored: ScoredTree
    node: int
    reach: float
    p: float = 1.0  # of its token at its parent, after the rejections before
    q: float = 1.0  # the same; 1 where it is proposed with certainty
    above: float = 1.0  # its parent's reach after these
    tried: int = 0  # children
    pair: ResidualPair | None = None
    others: Tensor | None = None  # p float32 [V] once a child proposed with certainty is tried

    def next_child(self) -> "_Visit | None":
        """The child to be visited next; None after the last, or if none could be accepted."""
        children = self.scored.growmap.children[self.node]
        if self.tried == len(children) or not self.reach > 0:
            return None
        child = children[self.tried]
        self.tried += 1
        p, q = self._probs_of(child)
        ratio = p / q if q > 0 else float(p > 0)
        return _Visit(self.scored, child, min(1.0, self.reach * ratio), p, q, self.reach)

    def _probs_of(self, child: int) -> tuple[float, float]:
        nodes = self.scored.nodes
        if child in self.scored.tree.appended:
            self.others = self._target_probs()
            return float(self.others[nodes.token_ids[child]]), 1.0
        if self.pair is None and not self.scored.params.shapes:
            return self.scored.target_prob(child), nodes.draft_prob[child]
        self.pair = self.pair or ResidualPair(self.scored, self.node)
        return self.pair.probs_of(nodes.columns[child])

    def reject(self, child: "_Visit") -> Residual:
        """Take a child out, whose whole subtree was rejected; what it leaves of p."""
        if self.others is None:
            self.pair = self.pair or ResidualPair(self.scored, self.node)
            self.reach = self.pair.reject(self.scored.nodes.columns[child.node], self.reach)
            return self.pair.residual()
        others = self.others.clone()
        others[self.scored.nodes.token_ids[child.node]] = 0.0
        mass = float(others.sum(dtype=torch.float64))
        if mass > 0:  # otherwise there is no other token
            self.others = others.div_(mass)
        self.reach = share_left(self.reach * mass, self.reach)
        return Residual(self.others)

    def _target_probs(self) -> Tensor:
        return (
            self.scored.target_probs(self.node) if self.pair is None else self.pair.target_probs()
        )

    def left(self) -> Tensor | ResidualPair:
        """What the rejections left of p, to draw from."""
        if self.others is None and self.pair is not None:
            return self.pair
        return self._target_probs() if self.others is None else self.others

    def attempt(self, draw: float, residual: Residual | None = None) -> Attempt:
        return Attempt(self.reach, draw, self.p, self.q, residual, self.above)
