"""Distance of the draft's distribution from the target's, over a batch of positions.

The target is known by its most probable tokens. With p the target and q the draft, a drawn token is
accepted with probability 1 - TV(p, q), so total variation is the acceptance rate itself; forward KL
is the usual, smoother objective.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

_CPU_ROWS, _GPU_ROWS = 512, 8192
"""Rows whose logits are computed at once: on a CPU about as many as fit into its cache."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the loss's parts.

    Attributes:
        kl: forward KL, KL(p | q) up to the target's own entropy: the cross-entropy of q under p.
        tv: total variation, TV(p, q). What p gives to unlisted tokens counts as uncovered, so it
            is an upper bound.
    """

    kl: float
    tv: float


LOSSES = MappingProxyType(
    {"kl": LossWeights(1.0, 0.0), "tv": LossWeights(0.0, 1.0), "mix": LossWeights(1.0, 1.0)}
)
"""By name, as on the command line."""


def distance(
    states: Tensor, head: Tensor, columns: Tensor, probs: Tensor, weights: LossWeights
) -> Tensor:
    """Mean over positions of `weights.kl * KL + weights.tv * TV`.

    Args:
        states: [n, hidden], inputs of the draft's head.
        head: [V_draft, hidden]; logits are `states @ head.T`, in autocast's dtype where it is on.
        columns: int64 [n, k], the draft's columns of the target's most probable tokens.
        probs: float32 [n, k], their target probabilities; 0 for tokens that it does not have.
        weights: of both parts.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        states, head = states.to(dtype), head.to(dtype)
    loss: Tensor = _Distance.apply(states, head, columns, probs, weights)  # type: ignore[no-untyped-call]
    return loss


class _Distance(torch.autograd.Function):
    """Head, softmax and loss with the gradient by hand, some rows at a time.

    Logits of a part of the rows stay in the cache from the product that makes them to the products
    of their gradient; [n, V_draft] is never in memory. With P = sum of p listed, A the listed
    tokens where q < p and Q = sum of q over A, the derivatives by logit j are `q_j P - p_j` for KL
    and `q_j Q - q_j [j in A]` for TV.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        head: Tensor,
        columns: Tensor,
        probs: Tensor,
        weights: LossWeights,
    ) -> Tensor:
        kl, tv, count = weights.kl, weights.tv, max(len(states), 1)
        total = torch.zeros((), device=states.device)
        by_states, by_head = torch.empty_like(states), torch.zeros_like(head, dtype=torch.float32)
        rows = _CPU_ROWS if states.device.type == "cpu" else _GPU_ROWS
        for part in (slice(first, first + rows) for first in range(0, len(states), rows)):
            state, column, p = states[part], columns[part], probs[part]
            q = torch.softmax(state @ head.T, -1, dtype=torch.float32)
            listed = q.gather(-1, column)
            cross_entropy = -(p * listed.clamp(min=torch.finfo(q.dtype).tiny).log()).sum()
            uncovered = len(p) - torch.minimum(p, listed).sum()
            total += kl * cross_entropy + tv * uncovered
            below = torch.where(listed < p, listed, 0.0)  # q of the tokens in A
            factor = (kl * p.sum(-1) + tv * below.sum(-1)) / count
            gradient = q.mul_(factor[:, None])
            gradient.scatter_add_(-1, column, (kl * p + tv * below) / -count)
            by_logits = gradient.to(states.dtype)
            by_states[part] = by_logits @ head
            by_head += by_logits.T @ state
        ctx.save_for_backward(by_states, by_head.to(head.dtype))
        return total / count

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        by_states, by_head = ctx.saved_tensors
        return by_states * above[0], by_head * above[0], None, None, None
