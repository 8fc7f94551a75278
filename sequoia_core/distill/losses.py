"""What a draft is trained for: to agree with the target's distribution at every position.

Pure functions over a batch of positions; the target is known by its most probable tokens. With p
the target and q the draft, a drawn token is accepted with probability 1 - TV(p, q), so total
variation is the acceptance rate itself, and forward KL the usual, smoother way there.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part counts.

    Attributes:
        kl: forward KL, KL(p | q) up to the target's own entropy: the cross-entropy of q under p.
        tv: total variation, TV(p, q). What p gives to tokens that are not listed counts as
            uncovered, so it is an upper bound.
    """

    kl: float
    tv: float


LOSSES = MappingProxyType(
    {"kl": LossWeights(1.0, 0.0), "tv": LossWeights(0.0, 1.0), "mix": LossWeights(1.0, 1.0)}
)
"""By the name that the command line knows."""


def distance(logits: Tensor, columns: Tensor, probs: Tensor, weights: LossWeights) -> Tensor:
    """Mean over positions of `weights.kl * KL + weights.tv * TV`.

    Args:
        logits: [n, V_draft] of the draft.
        columns: int64 [n, k], the draft's columns of the target's most probable tokens.
        probs: float32 [n, k], their target probabilities; 0 for tokens that the draft cannot say.
        weights: of both parts.
    """
    loss: Tensor = _Distance.apply(logits, columns, probs, weights)  # type: ignore[no-untyped-call]
    return loss


class _Distance(torch.autograd.Function):
    """The gradient by hand: one pass over [n, V_draft] where autograd takes five.

    With P = sum of p listed, A the listed tokens where q < p and Q = sum of q over A, the
    derivatives by logit j are `q_j P - p_j` for KL and `q_j Q - q_j [j in A]` for TV.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, columns: Tensor, probs: Tensor, weights: LossWeights
    ) -> Tensor:
        q = torch.softmax(logits, -1, dtype=torch.float32)
        listed = q.gather(-1, columns)
        ctx.save_for_backward(q, columns, probs, listed)
        ctx.weights, ctx.dtype = weights, logits.dtype
        cross_entropy = -(probs * listed.clamp(min=torch.finfo(q.dtype).tiny).log()).sum(-1)
        uncovered = 1.0 - torch.minimum(probs, listed).sum(-1)
        return (weights.kl * cross_entropy + weights.tv * uncovered).mean()

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None, None, None]:
        q, columns, probs, listed = ctx.saved_tensors
        kl, tv = ctx.weights.kl, ctx.weights.tv
        below = torch.where(listed < probs, listed, 0.0)  # q of the tokens in A
        factor = kl * probs.sum(-1) + tv * below.sum(-1)
        scale = above[0] / len(q)
        gradient = (q * (factor * scale)[:, None]).to(ctx.dtype)
        gradient.scatter_add_(-1, columns, (-(kl * probs + tv * below) * scale).to(ctx.dtype))
        return gradient, None, None, None
