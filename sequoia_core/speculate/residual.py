"""What rejections leave: p and q at a node while its children are tried one by one."""

from dataclasses import dataclass
from functools import cached_property
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.speculate.sampling import draw, most_probable
from sequoia_core.speculate.scored_tree import ScoredTree

ALMOST_ONE = 1.0 - 2.0**-53  # the largest uniform number
TOP = 10  # most probable tokens of a distribution that are reported


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """The target's distribution after a rejection, on the CPU.

    `inside` is float32 [V_draft], at the draft's columns; [V] without a `pair`, which knows what
    else there is: tokens with `outside_mass` together.
    """

    inside: Tensor
    pair: "ResidualPair | None" = None
    outside_mass: float = 0.0

    def top(self) -> list[tuple[int, float]]:
        """The most probable tokens and their probabilities, in order."""
        values, columns = most_probable(self.inside[None], [0], TOP)
        tokens = columns if self.pair is None else self.pair.tokens_of(columns)
        found = list(zip(tokens[0].tolist(), values[0].tolist(), strict=True))
        if self.pair is not None and self.outside_mass > 0:
            outside = self.pair.outside_top
            found += [(token, share * self.outside_mass) for token, share in outside]
        return sorted(found, key=lambda each: -each[1])[:TOP]


@dataclass(frozen=True, slots=True)
class Remainder:
    """A residual on the device, by the numbers from which `remainders` makes it again.

    Up to a factor it is max(p - `covered` q - `even`, 0) at a node, where `even` is subtracted at
    the draft's columns only, and nothing at the tokens `without`.
    """

    node: int
    covered: float
    even: float
    without: tuple[int, ...] = ()


def share_left(mass: float, reach: float) -> float:
    """A node's reach after a rejection left this mass of `reach` p."""
    missed = 1.0 - reach
    return mass / (mass + missed) if mass + missed > 0 else 1.0


class ResidualPair:
    """p and q at a node while its children are rejected one by one.

    A trimmed draft gives no mass outside its columns, where a rejection therefore only rescales p.
    So the arithmetic runs over V_draft columns, and V are read only where a token outside of them
    is drawn. In NumPy, whose operations take half the time of PyTorch's on so few numbers. With
    `replaced` a child that is rejected stays in q.
    """

    def __init__(self, scored: ScoredTree, node: int, replaced: bool = False) -> None:
        self._scored, self._node, self._replaced = scored, node, replaced
        self._ids, on_host = scored.tree.vocab_ids, scored.logits.device.type == "cpu"
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

    def probs_of(self, column: int) -> tuple[float, float]:
        return float(self._p[column]), float(self._q[column])

    def reject(self, column: int, reach: float = 1.0) -> float:
        """Leave in p what q did not cover, and take the child out of q.

        `reach` is the probability that the node was to be accepted, which p stands for; returns
        what it falls to (see `traversal`).
        """
        residual = (self._p if reach == 1.0 else self._p * reach) - self._q
        np.maximum(residual, 0.0, out=residual)
        outside = reach * self._outside_mass
        mass = float(residual.sum(dtype=np.float64)) + outside
        if mass > 0:  # otherwise reach p = q up to rounding, and p stays
            residual /= mass
            self._p = residual
            self._outside_mass = outside / mass
        if not self._replaced:
            self._take_out(column)
        return share_left(mass, reach)

    def residual(self) -> Residual:
        """P after the rejections so far."""
        return Residual(torch.from_numpy(self._p), self, self._outside_mass)

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

    def tokens_of(self, columns: Tensor) -> Tensor:
        """The target's ids of the draft's columns."""
        return columns if self._ids is None else self._ids[columns]

    @cached_property
    def outside_top(self) -> list[tuple[int, float]]:
        """The most probable tokens outside the draft's columns; their shares of the mass there."""
        if self._whole is not None:
            outside = self._outside()
            values, tokens = most_probable(outside[None], [0], TOP)
            shares = values / outside.sum().clamp(min=torch.finfo(outside.dtype).tiny)
        else:  # without a softmax over the whole vocabulary, which takes longer than the rest
            logits = self._scored.logits[self._scored.rows[self._node]].clone()
            logits[self._ids] = float("-inf")
            values, tokens = most_probable(logits[None], [0], TOP)
            temperature = self._scored.params.temperature
            total = self._scored.summary.log_totals[self._node] + log(self._outside_at_first)
            shares = (values.double() / temperature - total).exp()
        return list(zip(tokens[0].tolist(), shares[0].tolist(), strict=True))

    def _outside(self) -> Tensor:
        """What p has outside the draft's columns, up to a factor: float32 [V]."""
        if self._whole is None:
            self._whole = self._scored.target_probs(self._node).numpy()
        found = self._whole.copy()
        found[self._vocab_ids] = 0.0
        return torch.from_numpy(found)

    def _take_out(self, column: int) -> None:
        """Without a child; where nothing else is left, q is uniform over what was not tried."""
        self._tried.append(column)
        q = self._q.copy()
        q[column] = 0.0
        mass = float(q.sum(dtype=np.float64))
        if not mass > 0:
            q.fill(1.0)
            q[self._tried] = 0.0
            mass = max(len(q) - len(self._tried), 1)
        q /= mass
        self._q = q
