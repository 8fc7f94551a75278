"""Acceptance rules: which drafted tokens the target keeps, and the bonus token at their end.

Each rule is a pure function of a scored tree and a generator. In the formulas p is the target's
distribution at a node and q the one its children were drawn from. Knows nothing of models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sequoia_core.events import Outcome
from sequoia_core.growmap import GrowMap
from sequoia_core.sampling import draw, residual_probs
from sequoia_core.token_tree import ScoredTree


@dataclass(frozen=True, slots=True)
class Trial:
    """One child held against the target: accepted when `draw < accept_prob`.

    Attributes:
        accept_prob: probability with which the rule accepts it here.
        draw: the uniform number, or None where the rule is deterministic.
    """

    accept_prob: float
    draw: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule decided.

    Attributes:
        path: accepted nodes, root first.
        bonus_token: the target's own token after the path.
        trials: every child that was tried, in order.
    """

    path: tuple[int, ...]
    bonus_token: int
    trials: Mapping[int, Trial]

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
    """
    uniforms = torch.rand(scored.growmap.size, generator=generator, dtype=torch.float64).tolist()
    path, trials = [0], dict[int, Trial]()
    while True:
        target = scored.target_probs(path[-1])
        accepted = None
        children = scored.growmap.children[path[-1]]
        draft = _Remaining(scored, path[-1]) if children else None
        for child in children:
            assert draft is not None
            token = scored.token_ids[child]
            p, q = float(target[token]), float(draft.probs[token])
            trials[child] = Trial(min(1.0, p / q) if q > 0 else float(p > 0), uniforms[child])
            if uniforms[child] * q < p:  # r < p / q, without dividing by zero
                accepted = child
                break
            target = residual_probs(target, draft.probs)
            draft.take_out(token)
        if accepted is None:
            return Verdict(tuple(path), draw(target, uniforms[0]), trials)
        path.append(accepted)


def greedy(scored: ScoredTree, generator: torch.Generator) -> Verdict:  # noqa: ARG001
    """Temperature 0: follow the child that is the target's argmax; the bonus is the argmax."""
    path, trials = [0], dict[int, Trial]()
    while True:
        wanted = scored.argmax[path[-1]]
        accepted = None
        for child in scored.growmap.children[path[-1]]:
            matches = scored.token_ids[child] == wanted
            trials[child] = Trial(float(matches), None)
            if matches:
                accepted = child
                break
        if accepted is None:
            return Verdict(tuple(path), wanted, trials)
        path.append(accepted)


class _Remaining:
    """q at a node as its children leave it one by one."""

    def __init__(self, scored: ScoredTree, node: int) -> None:
        self.probs: Tensor = scored.draft_probs(node).clone()  # [V]
        self._scored = scored
        self._tried: list[int] = []

    def take_out(self, token: int) -> None:
        self._tried.append(token)
        self.probs[token] = 0.0
        mass = self.probs.sum()
        if mass > 0:
            self.probs.div_(mass)
            return
        untried = self._scored.support()
        untried[self._tried] = False
        self.probs = untried.float() / untried.sum().clamp(min=1)
