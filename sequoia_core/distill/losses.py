"""What a draft is trained for: to agree with the target's distribution at every position.

Pure functions over a batch of positions; the target is known by its most probable tokens. With p
the target and q the draft, a drawn token is accepted with probability 1 - TV(p, q), so total
variation is the acceptance rate itself, and forward KL the usual, smoother way there.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [n, V_draft], columns int64 [n, k], probs [n, k]) -> loss [n].

`columns` are the draft's columns of the target's most probable tokens and `probs` their target
probabilities, 0 for tokens that the draft cannot say.
"""


def forward_kl(logits: Tensor, columns: Tensor, probs: Tensor) -> Tensor:
    """KL(p | q) up to the target's own entropy: the cross-entropy of q under p."""
    log_q = torch.log_softmax(logits, -1).gather(-1, columns)
    return -(probs * log_q).sum(-1)


def total_variation(logits: Tensor, columns: Tensor, probs: Tensor) -> Tensor:
    """TV(p, q): the probability that a token drawn from q is rejected.

    What p gives to tokens that are not listed counts as uncovered, so this is an upper bound.
    """
    q = torch.softmax(logits, -1).gather(-1, columns)
    return 1.0 - torch.minimum(probs, q).sum(-1)


def mixed(logits: Tensor, columns: Tensor, probs: Tensor) -> Tensor:
    """Forward KL, which teaches early, plus total variation, which is what counts."""
    log_q = torch.log_softmax(logits, -1).gather(-1, columns)
    covered = torch.minimum(probs, log_q.exp()).sum(-1)
    return 1.0 - covered - (probs * log_q).sum(-1)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {"kl": forward_kl, "tv": total_variation, "mix": mixed}
)
"""By the name that the command line knows."""
