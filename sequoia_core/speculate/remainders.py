"""What rejections leave of p on a device, for many nodes at once: see `judging`.

Shapes as in `judge_plan`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.speculate.judge_plan import JUDGED_ROWS, Vocabulary, vocabulary_of
from sequoia_core.speculate.residual import Remainder
from sequoia_core.speculate.sampling import NUCLEUS_CANDIDATES, cut_probs, most_probable
from sequoia_core.speculate.scored_tree import ScoredTree

FLOAT = torch.float64  # of what is subtracted and summed, as where `verify` sums


def left_before(probs: Tensor, picked: Tensor, columns: Tensor) -> Tensor:
    """What probabilities [n, W] have left before each of some columns [n, K] is taken out.

    Added up, since differences would lose what is small: it is 0 only where nothing is left.
    `picked` are float64 [n, K], 0 for columns that are none.
    """
    others = probs.scatter(1, columns, 0.0).sum(-1, keepdim=True, dtype=FLOAT)
    return picked.flip(1).cumsum(1).flip(1) + others


def left_most_probable(
    scored: ScoredTree, remainders: Sequence[Remainder], count: int
) -> tuple[Tensor, Tensor]:
    """The most probable tokens of residuals: int64 and float64 [n, count] on the device."""
    vocabulary, rows = trimmed_vocabulary(scored), scored.tree.inner_rows
    device = scored.logits.device
    tokens, probs = list[Tensor](), list[Tensor]()
    for at in range(0, len(remainders), JUDGED_ROWS):
        some = remainders[at : at + JUDGED_ROWS]
        nodes = torch.tensor([scored.rows[each.node] for each in some], device=device)
        logits = scored.logits.index_select(0, nodes)
        p, _ = cut_probs(logits, scored.params, NUCLEUS_CANDIDATES)
        left = p.double()
        if any(each.covered or each.even for each in some):
            read = torch.tensor([rows.get(each.node, 0) for each in some], device=device)
            q = spread(scored.tree.draft_probs.index_select(0, read), vocabulary, p.shape[1])
            rejected = [(each.covered, each.even) for each in some]
            left = left_over(p, q, torch.tensor(rejected, dtype=FLOAT, device=device), vocabulary)
        taken = [(row, token) for row, each in enumerate(some) for token in each.without]
        if taken:
            places = torch.tensor(taken, device=device).unbind(1)
            left = left.index_put(places, left.new_zeros(()))
        mass = left.sum(-1, keepdim=True)
        left = torch.where(mass > 0, left / mass, p)
        values, columns = most_probable(left, range(len(some)), count)
        tokens.append(columns)
        probs.append(values)
    return torch.cat(tokens), torch.cat(probs)


def trimmed_vocabulary(scored: ScoredTree) -> Vocabulary | None:
    ids, logits = scored.drafted.vocab_ids, scored.logits
    return None if ids is None else vocabulary_of(ids, logits.shape[1], logits.device)


def spread(q: Tensor, vocabulary: Vocabulary | None, tokens: int) -> Tensor:
    """Draft probabilities [n, V_draft] at the target's tokens [n, V]."""
    if vocabulary is None:
        return q
    return q.new_zeros((q.shape[0], tokens)).index_copy_(1, vocabulary.ids, q)


def left_over(
    p: Tensor,
    q: Tensor,
    coefficients: Tensor,
    vocabulary: Vocabulary | None,
    *,
    even: bool = True,
) -> Tensor:
    """What is left of p over q [n, V] by t and d [n, 2]: float64 [n, V]; without `even` d is 0."""
    left = torch.addcmul(p, q, coefficients[:, :1], value=-1.0)
    if even and vocabulary is None:
        left.sub_(coefficients[:, 1:])
    elif even and vocabulary is not None:
        left.addcmul_(vocabulary.inside, coefficients[:, 1:], value=-1.0)
    return left.clamp_(min=0.0)
