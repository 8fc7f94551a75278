"""Acceptance rules: which drafted tokens the target keeps, and the bonus token at their end.

Each rule is a pure function of a scored tree and a generator. In the formulas p is the target's
distribution at a node and q the one its children were drawn from. Knows nothing of models.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from sequoia_core.events import Outcome
from sequoia_core.growmap import GrowMap
from sequoia_core.sampling import draw
from sequoia_core.token_tree import ScoredTree


@dataclass(frozen=True, slots=True)
class Trial:
    """One child held against the target: accepted when `draw < accept_prob`.

    Attributes:
        accept_prob: probability with which the rule accepts it here.
        draw: the uniform number, or None where the rule is deterministic.
        p: the target's probability of it then, after the rejections before.
        q: the draft's then; 1 where the child was proposed with certainty.
    """

    accept_prob: float
    draw: float | None
    p: float
    q: float


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """What a rejection left of the target's distribution, on the CPU.

    Attributes:
        inside: float32 [V_draft], at the draft's columns; [V] where they are all there is.
        vocab_ids: the target's id of each of these columns; None when they agree.
        outside: float32 [V], in proportion to what is left outside them, 0 at them.
        outside_mass: how much that is.
    """

    inside: Tensor
    vocab_ids: Tensor | None = None
    outside: Tensor | None = None
    outside_mass: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule decided.

    Attributes:
        path: accepted nodes, root first.
        bonus_token: the target's own token after the path.
        trials: every child that was tried, in order.
        residuals: what is left after each that was rejected, where probabilities are compared.
    """

    path: tuple[int, ...]
    bonus_token: int
    trials: Mapping[int, Trial]
    residuals: Mapping[int, Residual] = field(default_factory=dict)

    def outcomes(self, growmap: GrowMap) -> tuple[Outcome, ...]:
        """What became of each node."""
        accepted = frozenset(self.path)
        return tuple(
            Outcome.ACCEPTED
            if node in accepted
            else Outcome.REJECTED
            if node in self.trials
            else Outcome.NOT_REACHED
            for node in range(growmap.size)
        )


class AcceptanceRule(Protocol):
    """Walks a scored tree from the root and decides how far it is kept."""

    def __call__(self, scored: ScoredTree, generator: torch.Generator) -> Verdict:
        """Judge one tree; all randomness comes from `generator`, a CPU one."""
        ...


def sequoia(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Sampling without replacement (Sequoia, Algorithm 2).

    Children were drawn from q in order. Each is accepted with probability min(1, p / q); otherwise
    p becomes the residual norm(max(p - q, 0)) and the child leaves q. When q is used up it becomes
    uniform over what has not been tried. On a path this is Leviathan's speculative sampling.

    A grafted child comes last. It is a draw from a distribution that is certain of it, so the same
    rule accepts it with what p has left for it, and takes it out of p otherwise.
    """
    return _walk(scored, generator, _judge)


def specinfer(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Sampling with replacement (SpecInfer, arXiv 2305.09781, multi-step speculative sampling).

    Children were drawn independently from q, which a rejection leaves as it is: a token may come
    again, and is then held against what is left of p.
    """
    return _walk(scored, generator, partial(_judge, replaced=True))


def topk(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """The target's own draw, kept where it is among the draft's most probable tokens.

    "GreedyS" in the reference code. Whether a token that is drawn from p is the first child, else
    the second and so on, is told child by child: each is accepted with what p has left for it.
    """
    return _walk(scored, generator, _judge_certain)


@dataclass(frozen=True, slots=True)
class _Log:
    """The trials of a walk, and what was left after each that was rejected."""

    trials: dict[int, Trial] = field(default_factory=dict)
    residuals: dict[int, Residual] = field(default_factory=dict)


_Judge = Callable[[ScoredTree, int, Sequence[float], _Log], int | Tensor]
"""Tries a node's children with a uniform number for each; see `_judge`."""


def _walk(scored: ScoredTree, generator: torch.Generator, judge: _Judge) -> Verdict:
    """From the root to the node none of whose children is accepted, and a bonus from what is left.

    The root is no child, so its uniform number draws the bonus.
    """
    uniforms = torch.rand(scored.growmap.size, generator=generator, dtype=torch.float64).tolist()
    path, log = [0], _Log()
    while True:
        found = judge(scored, path[-1], uniforms, log)
        if isinstance(found, Tensor):
            bonus = draw(found, uniforms[0])
            return Verdict(tuple(path), bonus, log.trials, log.residuals)
        path.append(found)


def _judge(
    scored: ScoredTree,
    node: int,
    uniforms: Sequence[float],
    log: _Log,
    *,
    replaced: bool = False,
) -> int | Tensor:
    """Try a node's drawn children, then its grafted ones.

    Args:
        scored: the tree.
        node: whose children are tried.
        uniforms: a number in [0, 1) for each node.
        log: gets an entry for every child tried.
        replaced: children were drawn with replacement.

    Returns:
        the accepted child, or what is left of p, float32 [V].
    """
    grafted, children = scored.tree.grafted, scored.growmap.children[node]
    drawn = [child for child in children if child not in grafted]
    contest: _Contest | None = None
    for child in drawn:
        column = scored.columns[child]
        if contest is None and not scored.params.shapes:  # a first child needs no distribution
            p, q = scored.target_prob[child], scored.draft_prob[child]
        else:
            contest = contest or _Contest.at(scored, node)
            p, q = contest.probs_of(column)
        accept_prob = min(1.0, p / q) if q > 0 else float(p > 0)
        log.trials[child] = Trial(accept_prob, uniforms[child], p, q)
        if uniforms[child] * q < p:  # r < p / q, without dividing by zero
            return child
        contest = contest or _Contest.at(scored, node)
        contest.reject(column, replaced=replaced)
        log.residuals[child] = contest.left()
    target = scored.target_probs(node) if contest is None else contest.residual()
    return _hold_against(target, scored, children[len(drawn) :], uniforms, log)


def _judge_certain(
    scored: ScoredTree, node: int, uniforms: Sequence[float], log: _Log
) -> int | Tensor:
    """As `_judge`, for children that follow from the draft without a draw."""
    children = scored.growmap.children[node]
    return _hold_against(scored.target_probs(node), scored, children, uniforms, log)


def _hold_against(
    target: Tensor,
    scored: ScoredTree,
    children: Sequence[int],
    uniforms: Sequence[float],
    log: _Log,
) -> int | Tensor:
    """Try children each of which is proposed with certainty: accept with p, else take it out."""
    for child in children:
        token = scored.token_ids[child]
        p = float(target[token])
        log.trials[child] = Trial(min(1.0, p), uniforms[child], p, 1.0)
        if uniforms[child] < p:
            return child
        target = _without(target, token)
        log.residuals[child] = Residual(target)
    return target


def _without(probs: Tensor, token: int) -> Tensor:
    """A distribution given that it is not this token; itself if it is no other."""
    left = probs.clone()
    left[token] = 0.0
    mass = float(left.sum())
    return left.div_(mass) if mass > 0 else probs


def greedy(scored: ScoredTree, generator: torch.Generator) -> Verdict:  # noqa: ARG001
    """Temperature 0: follow the child that is the target's argmax; the bonus is the argmax."""
    path, trials, argmax = [0], dict[int, Trial](), scored.argmax
    while True:
        wanted = argmax[path[-1]]
        accepted = None
        for child in scored.growmap.children[path[-1]]:
            matches = scored.token_ids[child] == wanted
            trials[child] = Trial(float(matches), None, float(matches), 1.0)
            if matches:
                accepted = child
                break
        if accepted is None:
            return Verdict(tuple(path), wanted, trials)
        path.append(accepted)


class _Contest:
    """p and q at a node while its children are rejected one by one.

    A trimmed draft gives no mass outside its columns, where a rejection therefore only rescales p:
    so the arithmetic runs over V_draft columns, and V are touched once.

    Args:
        target: p, float32 [V].
        draft: q, float32 [V_draft].
        vocab_ids: the target's id of each draft column; None when they agree.
    """

    def __init__(self, target: Tensor, draft: Tensor, vocab_ids: Tensor | None) -> None:
        self._vocab_ids = vocab_ids
        self._p = target if vocab_ids is None else target[vocab_ids]  # [V_draft]
        self._q = draft
        self._tried: list[int] = []
        self._whole = target
        self._outside: Tensor | None = None  # p outside the draft's columns, [V]
        self._outside_mass = 0.0

    @classmethod
    def at(cls, scored: ScoredTree, node: int) -> "_Contest":
        """Before any child of a node was tried."""
        return cls(scored.target_probs(node), scored.draft_probs(node), scored.vocab_ids())

    def probs_of(self, column: int) -> tuple[float, float]:
        """What p and q give a child's token now."""
        return float(self._p[column]), float(self._q[column])

    def reject(self, column: int, *, replaced: bool) -> None:
        """Leave in p what q did not cover, and take the token out of q unless it is replaced."""
        if not self._tried:
            self._q = self._q.clone()
            self._split_off_outside()
        self._tried.append(column)
        left = (self._p - self._q).clamp_(min=0.0)
        mass = float(left.sum()) + self._outside_mass
        if mass > 0:  # otherwise p = q up to rounding, and p stays
            self._p = left.div_(mass)
            if self._outside is not None:
                self._outside.div_(mass)
                self._outside_mass /= mass
        if not replaced:
            self._take_out(column)

    def left(self) -> Residual:
        """What the rejections so far have left of p; nothing later changes it but for a scale."""
        return Residual(self._p, self._vocab_ids, self._outside, self._outside_mass)

    def residual(self) -> Tensor:
        """The target's distribution given that every child was rejected, float32 [V]."""
        if self._outside is None or self._vocab_ids is None:
            return self._p
        return self._outside.index_copy(0, self._vocab_ids, self._p)

    def _split_off_outside(self) -> None:
        if self._vocab_ids is not None:
            self._outside = self._whole.index_fill(0, self._vocab_ids, 0.0)
            self._outside_mass = float(self._outside.sum())

    def _take_out(self, column: int) -> None:
        self._q[column] = 0.0
        mass = float(self._q.sum())
        if mass > 0:
            self._q.div_(mass)
            return
        self._q.fill_(1.0)
        self._q[self._tried] = 0.0
        self._q.div_(max(len(self._q) - len(self._tried), 1))
