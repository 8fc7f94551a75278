"""Acceptance rules: which drafted tokens the target keeps, and the bonus token at their end.

Each rule is a pure function of a scored tree and a generator. In the formulas p is the target's
distribution at a node and q the one its children were drawn from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.events import Outcome
from sequoia_core.speculate.sampling import draw
from sequoia_core.speculate.token_tree import ScoredTree
from sequoia_core.speculate.top_tokens import most_probable
from sequoia_core.tree.growmap import GrowMap

ALMOST_ONE = 1.0 - 2.0**-53  # the largest uniform number


@dataclass(frozen=True, slots=True)
class Attempt:
    """One child compared with the target: accepted when `draw < accept_prob`.

    `draw` is None where the rule is deterministic. `p` and `q` are the probabilities then, after
    the rejections before; q is 1 where the child was proposed with certainty.
    """

    accept_prob: float
    draw: float | None
    p: float
    q: float


Outside = Callable[[int], tuple[list[int], list[float]]]
"""count -> that many most probable tokens outside the draft's columns, and each one's share of the
mass there. All children of a node share the function."""


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """The target's distribution after a rejection, on the CPU.

    `inside` is float32 [V_draft], at the draft's columns, whose ids are `vocab_ids`; [V] where they
    are all there is. `outside_mass` is that of all other tokens, which `outside` gives.
    """

    inside: Tensor
    vocab_ids: Tensor | None = None
    outside_mass: float = 0.0
    outside: Outside | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The accepted nodes, root first, the target's token after them, and every attempt."""

    path: tuple[int, ...]
    bonus_token: int
    attempts: Mapping[int, Attempt]
    residuals: Mapping[int, Residual] = field(default_factory=dict)

    def outcomes(self, growmap: GrowMap) -> list[Outcome]:
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
    return _walk(scored, generator, _try_children)


def specinfer(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """Sampling with replacement (SpecInfer, arXiv 2305.09781, multi-step speculative sampling).

    Children were drawn independently from q, which a rejection leaves as it is: a token may come
    again, and is then compared with the residual.
    """
    return _walk(scored, generator, partial(_try_children, replaced=True))


def topk(scored: ScoredTree, generator: torch.Generator) -> Verdict:
    """The target's own draw, kept where it is among the draft's most probable tokens.

    "GreedyS" in the reference code. The draw from p is made child by child: each is accepted with
    the probability that p has for it after the rejections before.
    """
    return _walk(scored, generator, partial(_try_children, certain=True))


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


class _Log:
    def __init__(self) -> None:
        self.attempts: dict[int, Attempt] = {}
        self.residuals: dict[int, Residual] = {}


_TryNode = Callable[[ScoredTree, int, Sequence[float], _Log], "int | Tensor | ResidualPair"]
"""Tries a node's children with the uniform number of each, and logs each; see `_try_children`."""


def _walk(scored: ScoredTree, generator: torch.Generator, try_node: _TryNode) -> Verdict:
    """From the root to the node none of whose children is accepted, and a bonus from the residual.

    The root is no child, so its uniform number draws the bonus.
    """
    uniforms = torch.rand(scored.growmap.size, generator=generator, dtype=torch.float64).tolist()
    path, log = [0], _Log()
    while True:
        found = try_node(scored, path[-1], uniforms, log)
        if not isinstance(found, int):
            return Verdict(tuple(path), _bonus(found, uniforms[0]), log.attempts, log.residuals)
        path.append(found)


def _bonus(residual: "Tensor | ResidualPair", uniform: float) -> int:
    return draw(residual, uniform) if isinstance(residual, Tensor) else residual.draw(uniform)


def _try_children(
    scored: ScoredTree,
    node: int,
    uniforms: Sequence[float],
    log: _Log,
    *,
    replaced: bool = False,
    certain: bool = False,
) -> "int | Tensor | ResidualPair":
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
        log.attempts[child] = Attempt(accept_prob, uniforms[child], p, q)
        if uniforms[child] * q < p:  # r < p / q, without dividing by zero
            return child
        pair = pair or ResidualPair(scored, node, replaced)
        pair.reject(column)
        log.residuals[child] = pair.residual()
    if pair is not None and len(drawn) == len(children):
        return pair
    target = scored.target_probs(node) if pair is None else pair.target_probs()
    return _try_deterministic(target, scored, children[len(drawn) :], uniforms, log)


def _try_deterministic(
    target: Tensor,
    scored: ScoredTree,
    children: Sequence[int],
    uniforms: Sequence[float],
    log: _Log,
) -> int | Tensor:
    """Try children each of which is proposed with certainty: accept with p, else take it out."""
    for child in children:
        token = scored.nodes.token_ids[child]
        p = float(target[token])
        log.attempts[child] = Attempt(min(1.0, p), uniforms[child], p, 1.0)
        if uniforms[child] < p:
            return child
        others = target.clone()
        others[token] = 0.0
        mass = float(others.sum())
        target = others.div_(mass) if mass > 0 else target  # without mass there is no other token
        log.residuals[child] = Residual(target)
    return target


class ResidualPair:
    """p and q at a node while its children are rejected one by one.

    A trimmed draft gives no mass outside its columns, where a rejection therefore only rescales p.
    So the arithmetic runs over V_draft columns, and V are read only where a token outside of them
    is drawn. In NumPy, whose operations take half the time of PyTorch's on so few numbers. With
    `replaced` a child that is rejected stays in q.
    """

    def __init__(self, scored: ScoredTree, node: int, replaced: bool = False) -> None:
        self._scored, self._node, self._replaced = scored, node, replaced
        self._ids, on_host = scored.vocab_ids(), scored.logits.device.type == "cpu"
        self._vocab_ids = None if self._ids is None else self._ids.numpy()
        self._whole: NDArray[np.float32] | None = None
        if self._vocab_ids is not None and on_host and not scored.params.shapes:
            self._p = scored.some_target_probs(node, self._vocab_ids)
        else:
            self._whole = scored.target_probs(node).numpy()
            self._p = self._whole if self._vocab_ids is None else self._whole[self._vocab_ids]
        self._outside_mass = 0.0
        if self._vocab_ids is not None:
            self._outside_mass = max(1.0 - float(self._p.sum(dtype=np.float64)), 0.0)
        self._outside_at_first = self._outside_mass
        self._q = scored.draft_probs(node).numpy()
        self._tried: list[int] = []
        self._in_q = False
        """Whether q still holds the last of `_tried`, which leaves when another child is tried."""

    def probs_of(self, column: int) -> tuple[float, float]:
        self._take_out()
        return float(self._p[column]), float(self._q[column])

    def reject(self, column: int) -> None:
        """Leave in p what q did not cover."""
        self._take_out()
        self._tried.append(column)
        self._in_q = not self._replaced
        residual = self._p - self._q
        np.maximum(residual, 0.0, out=residual)
        mass = float(residual.sum(dtype=np.float64)) + self._outside_mass
        if mass > 0:  # otherwise p = q up to rounding, and p stays
            residual /= mass
            self._p = residual
            self._outside_mass /= mass

    def residual(self) -> Residual:
        """P after the rejections so far."""
        outside = self._outside_top if self._outside_mass > 0 else None
        return Residual(torch.from_numpy(self._p), self._ids, self._outside_mass, outside)

    def target_probs(self) -> Tensor:
        """P after the rejections so far, over the whole vocabulary: float32 [V]."""
        if self._vocab_ids is None:
            return torch.from_numpy(self._p)
        found = self._outside()
        mass = float(found.sum())
        found *= self._outside_mass / mass if mass > 0 else 0.0
        found[self._ids] = torch.from_numpy(self._p)
        return found

    def draw(self, uniform: float) -> int:
        """A token of `target_probs`: first of the draft's columns in order, then of all others."""
        p = torch.from_numpy(self._p)
        if self._vocab_ids is None:
            return draw(p, uniform)
        inside = float(self._p.sum(dtype=np.float64))
        wanted = uniform * (inside + self._outside_mass)
        if wanted >= inside and self._outside_mass > 0:
            outside = self._outside()
            if float(outside.sum()) > 0:
                return draw(outside, min((wanted - inside) / self._outside_mass, ALMOST_ONE))
        column = draw(p, min(wanted / inside, ALMOST_ONE) if inside > 0 else 0.0)
        return int(self._vocab_ids[column])

    def _outside_top(self, count: int) -> tuple[list[int], list[float]]:
        """See `Outside`."""
        if self._whole is not None:
            outside = self._outside()
            values, tokens = most_probable(outside[None], [0], count)
            shares = values / outside.sum()
        else:
            logits = self._scored.logits[self._node].clone()
            logits[self._ids] = float("-inf")
            values, tokens = most_probable(logits[None], [0], count)
            temperature = self._scored.params.temperature
            total = self._scored.summary.log_totals[self._node] + log(self._outside_at_first)
            shares = (values.double() / temperature - total).exp()
        return tokens[0].tolist(), shares[0].tolist()

    def _outside(self) -> Tensor:
        """What p has outside the draft's columns, up to a factor: float32 [V]."""
        if self._whole is None:
            self._whole = self._scored.target_probs(self._node).numpy()
        found = self._whole.copy()
        found[self._vocab_ids] = 0.0
        return torch.from_numpy(found)

    def _take_out(self) -> None:
        """Take the child that was rejected last out of q."""
        if not self._in_q:
            return
        if len(self._tried) == 1:
            self._q = self._q.copy()
        self._q[self._tried[-1]] = 0.0
        self._in_q = False
        mass = float(self._q.sum(dtype=np.float64))
        if mass > 0:
            self._q /= mass
            return
        self._q.fill(1.0)
        self._q[self._tried] = 0.0
        self._q /= max(len(self._q) - len(self._tried), 1)
