"""Distance of the draft's distribution from the target's, over a batch of positions.

With p the target, known by its most probable tokens, and q the draft, a drawn token is accepted
with probability 1 - TV(p, q); forward KL is the usual, smoother objective.
"""

from typing import Any

import torch
from torch import Tensor

# rows whose logits are computed at once: on a CPU about as many as fit into its cache
_CPU_ROWS, _GPU_ROWS = 512, 8192

Weights = tuple[float, float]
"""Of KL, computed as the cross-entropy of q under p, and of TV, an upper bound since it counts all
that p gives to unlisted tokens."""
LOSSES: dict[str, Weights] = {"kl": (1.0, 0.0), "tv": (0.0, 1.0), "mix": (1.0, 1.0)}


def distance(
    states: Tensor, head: Tensor, columns: Tensor, probs: Tensor, weights: Weights
) -> Tensor:
    """Mean over positions of the weighted sum of KL and TV.

    Logits are `states @ head.T`, [n, hidden] and [V_draft, hidden]. `columns` and `probs` [n, k]
    are of the target's most probable tokens; the draft lacks those of probability 0.
    """
    device = states.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        states, head = states.to(dtype), head.to(dtype)
    loss: Tensor = _Distance.apply(states, head, columns, probs, weights)  # type: ignore[no-untyped-call]
    return loss


class _Distance(torch.autograd.Function):
    """Head, softmax and loss with the gradient by hand, some rows at a time.

    [n, V_draft] is never in memory. With P = sum of p listed, A the listed tokens where q < p and
    Q = sum of q over A, derivatives by logit j are `q_j P - p_j` (KL), `q_j Q - q_j [j in A]` (TV).
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor, columns: Tensor, probs: Tensor, weights: Weights
    ) -> Tensor:
        (kl, tv), count = weights, max(len(states), 1)
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
