"""Acceptance rules: which drafted tokens the target keeps, and the bonus token at their end.

Pure functions of a scored tree and a generator. In formulas p is the target's distribution at a
node, and q the one its children were drawn from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sequoia_core.config import Mode
from sequoia_core.speculate.residual import Remainder, Residual, ResidualPair
from sequoia_core.speculate.sampling import draw
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.tree.growmap import GrowMap

if TYPE_CHECKING:
    from sequoia_core.events import Outcome


@dataclass(frozen=True, slots=True)
class Attempt:
    """One node compared with the target: accepted when `draw < accept_prob`."""

    accept_prob: float
    draw: float | None  # None where the rule is deterministic
    p: float  # after the rejections before
    q: float  # the same; 1 where the child was proposed with certainty
    residual: Residual | Remainder | None = None  # that its rejection left
    # in `traversal`, where its children were judged before it: its parent's reach
    above: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The accepted nodes, root first, the target's token after them, and every attempt."""

    path: tuple[int, ...]
    bonus_token: int
    attempts: Mapping[int, Attempt]
    bonus_prob: float | None = None  # as of `ScoredTree.target_prob_of`, where it is known

    def outcomes(self, growmap: GrowMap) -> "list[Outcome]":
        from sequoia_core.events import Outcome  # which needs more than torch

        outcomes = [Outcome.NOT_REACHED] * growmap.size
        for node in self.attempts:
            outcomes[node] = Outcome.REJECTED
        for node in self.path:
            outcomes[node] = Outcome.ACCEPTED
        return outcomes


AcceptanceRule = Callable[[ScoredTree, torch.Generator], Verdict]
"""Walks a scored tree from the root and decides how far it is kept; all randomness comes from the
generator, a CPU one."""


def sequoia(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Sampling without replacement (Sequoia, Algorithm 2).

    Children were drawn from q in order. Each is accepted with probability min(1, p / q); otherwise
    p becomes the residual norm(max(p - q, 0)) and the child leaves q. When q is used up it becomes
    uniform over what has not been tried. On a path this is Leviathan's speculative sampling. An
    appended child comes last, as a draw from a distribution that is certain of it.
    """
    return walk(scored, uniforms_of(scored, generator).tolist(), Mode.SEQUOIA)


def specinfer(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Sampling with replacement (SpecInfer, arXiv 2305.09781, multi-step speculative sampling).

    Children were drawn independently from q, which a rejection leaves as it is: a token may come
    again, and is then compared with the residual.
    """
    return walk(scored, uniforms_of(scored, generator).tolist(), Mode.SPECINFER)


def topk(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """The target's own draw, kept where it is among the draft's most probable tokens.

    "GreedyS" in the reference code. The draw from p is made child by child: each is accepted with
    the probability that p has for it after the rejections before.
    """
    return walk(scored, uniforms_of(scored, generator).tolist(), Mode.TOPK)


def greedy(scored: ScoredTree, generator: torch.Generator) -> Verdict:  # noqa: ARG001
    """Temperature 0: follow the child that is the target's argmax; the bonus is the argmax."""
    path, attempts, argmax = [0], dict[int, Attempt](), scored.summary.argmax
    while True:
        wanted = argmax[path[-1]]
        for child in scored.growmap.children[path[-1]]:
            matches = scored.nodes.token_ids[child] == wanted
            attempts[child] = Attempt(float(matches), None, float(matches), 1.0)
            if matches:
                path.append(child)
                break
        else:
            return Verdict(tuple(path), wanted, attempts)


def uniforms_of(scored: ScoredTree, generator: torch.Generator) -> Tensor:
    """Each node's uniform number, the root's for the bonus token: float64 [T] on the CPU."""
    if scored.uniforms is not None:
        return scored.uniforms.host[list(scored.rows)]
    return torch.rand(scored.growmap.size, generator=generator, dtype=torch.float64)


def walk(scored: ScoredTree, uniforms: Sequence[float], mode: Mode) -> Verdict:
    """By a sampling rule, from the root to where no child is accepted."""
    try_children = partial(
        _try_children, replaced=mode is Mode.SPECINFER, certain=mode is Mode.TOPK
    )
    path, attempts = [0], dict[int, Attempt]()
    while True:
        found = try_children(scored, path[-1], uniforms, attempts)
        if not isinstance(found, int):
            return Verdict(tuple(path), _bonus(found, uniforms[0]), attempts)
        path.append(found)


def _bonus(residual: Tensor | ResidualPair, uniform: float) -> int:
    return draw(residual, uniform) if isinstance(residual, Tensor) else residual.draw(uniform)


def _try_children(
    scored: ScoredTree,
    node: int,
    uniforms: Sequence[float],
    attempts: dict[int, Attempt],
    *,
    replaced: bool = False,
    certain: bool = False,
) -> int | Tensor | ResidualPair:
    """Try a node's drawn children, then those that are proposals of one token with certainty.

    These are the appended ones, or with `certain` all. With `replaced` a child was drawn with
    replacement. Returns the accepted child, or the residual of p: float32 [V], or a pair to draw
    from.
    """
    appended, children = scored.tree.appended, scored.growmap.children[node]
    drawn = [] if certain else [child for child in children if child not in appended]
    pair: ResidualPair | None = None
    for child in drawn:
        column = scored.nodes.columns[child]
        if pair is None and not scored.params.shapes:  # a first child needs no distribution
            p, q = scored.target_prob(child), scored.nodes.draft_prob[child]
        else:
            pair = pair or ResidualPair(scored, node, replaced)
            p, q = pair.probs_of(column)
        accept_prob = min(1.0, p / q) if q > 0 else float(p > 0)
        attempt = attempts[child] = Attempt(accept_prob, uniforms[child], p, q)
        if uniforms[child] * q < p:  # r < p / q, without dividing by zero
            return child
        pair = pair or ResidualPair(scored, node, replaced)
        pair.reject(column)
        attempts[child] = replace(attempt, residual=pair.residual())
    if pair is not None and len(drawn) == len(children):
        return pair
    target = scored.target_probs(node) if pair is None else pair.target_probs()
    return _try_deterministic(target, scored, children[len(drawn) :], uniforms, attempts)


def _try_deterministic(
    target: Tensor,
    scored: ScoredTree,
    children: Sequence[int],
    uniforms: Sequence[float],
    attempts: dict[int, Attempt],
) -> int | Tensor:
    """Try children each of which is proposed with certainty: accept with p, else take it out."""
    for child in children:
        token = scored.nodes.token_ids[child]
        p = float(target[token])
        attempt = attempts[child] = Attempt(min(1.0, p), uniforms[child], p, 1.0)
        if uniforms[child] < p:
            return child
        others = target.clone()
        others[token] = 0.0
        mass = float(others.sum())
        target = others.div_(mass) if mass > 0 else target  # without mass there is no other token
        attempts[child] = replace(attempt, residual=Residual(target))
    return target
