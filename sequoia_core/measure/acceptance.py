"""Positional acceptance rates of a pair: how likely the k-th drawn child is the accepted one.

At each position of a text, children are drawn from the draft without replacement and verified by
Algorithm 2 (Sequoia, section 3.1). Acceptance probabilities are summed instead of random decisions
counted: the mean is the same and the variance smaller.

Shapes: `n` positions, `W` children, `V` vocabulary, `V_draft` draft columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.decode.step import Sampler
from sequoia_core.model.interface import KVCache, LanguageModel
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.sampling import shaped_probs

CHUNK = 32
"""Positions verified at once: each takes a few rows of the vocabulary."""
ONE_PASS = 512
"""Longest text that is read in one forward, so that a target on disk is read once. The prompt of a
longer one is read apart, since logits of all its rows would fill the memory."""


class AcceptanceCount:
    """Acceptance by rank, summed over many positions, with `width` children at each."""

    def __init__(self, width: int) -> None:
        self.positions = 0
        self.accepted = (0.0,) * width
        """Expected number of positions at which a rank was the accepted one."""

    @property
    def rates(self) -> tuple[float, ...]:
        """a_1 to a_width; () before anything was counted."""
        if not self.positions:
            return ()
        return tuple(total / self.positions for total in self.accepted)

    def add(self, accepted: Sequence[float], positions: int) -> None:
        """Add the sums of further positions, by rank."""
        self.positions += positions
        self.accepted = tuple(a + b for a, b in zip(self.accepted, accepted, strict=True))

    @torch.inference_mode()
    def count(
        self, target: LanguageModel, draft: DraftModel, text: tuple[Sequence[int], int],
        sampler: Sampler,
    ) -> None:  # fmt: skip
        """Count at every position of a text: one pass of each model, two if it is long.

        Args:
            target: verifies.
            draft: proposes.
            text: token ids, and how many of them are the prompt, which is not counted.
            sampler: draws children in order without replacement, and shapes the target.
        """
        token_ids, prompt = text
        ids = torch.tensor(list(token_ids), device=target.device)
        cache = target.new_cache()
        target_logits = _answer_logits(target, ids, prompt, cache)
        draft_logits = _answer_logits(draft.model, ids, prompt, draft.model.new_cache(cache))
        draft_logits = draft.without_padding(draft_logits)
        rows = zip(torch.split(target_logits, CHUNK), torch.split(draft_logits, CHUNK), strict=True)
        for target_rows, draft_rows in rows:
            found = self._rank_probs(target_rows, draft_rows, draft.vocab_ids, sampler)
            self.add(found.double().sum(0).tolist(), len(found))

    def _rank_probs(
        self, target_rows: Tensor, draft_rows: Tensor, vocab_ids: Tensor | None, sampler: Sampler
    ) -> Tensor:
        """Probability that each rank is accepted, float32 [n, W]."""
        columns, draft_probs = sampler.choose(draft_rows, len(self.accepted))
        if sampler.greedy:
            tokens = columns if vocab_ids is None else vocab_ids[columns]
            return (tokens == target_rows.argmax(-1, keepdim=True)).float()
        target_probs = shaped_probs(target_rows, sampler.params)
        return rank_probs(target_probs, draft_probs, columns, vocab_ids)


def rank_probs(
    target_probs: Tensor, draft_probs: Tensor, columns: Tensor, vocab_ids: Tensor | None
) -> Tensor:
    """Probability that Algorithm 2 accepts each of some drawn children, given all of them.

    The k-th is accepted with min(1, p / q) if those before it were rejected; p and q are then the
    residuals. The mean over draws is a_k.

    Args:
        target_probs: p, float32 [n, V].
        draft_probs: q, float32 [n, V_draft], which the children were drawn from.
        columns: int64 [n, W], children in drawn order, none twice.
        vocab_ids: int64 [V_draft], the target's id of each column; None where they agree.

    Returns:
        float32 [n, W]; 1 minus a row's sum is the probability that all children are rejected.
    """
    p = target_probs if vocab_ids is None else target_probs[:, vocab_ids]  # [n, V_draft]
    outside = (target_probs.sum(-1, keepdim=True) - p.sum(-1, keepdim=True)).clamp_(min=0.0)
    if vocab_ids is None:
        outside = torch.zeros_like(outside)
    q = draft_probs.clone()
    untried = torch.ones_like(q, dtype=torch.bool)
    reach = torch.ones_like(outside)
    found = []
    for rank in range(columns.shape[1]):
        child = columns[:, rank : rank + 1]
        p_child, q_child = p.gather(1, child), q.gather(1, child)
        accept = torch.where(q_child > 0, p_child / q_child, (p_child > 0).float()).clamp_(max=1.0)
        found.append(reach * accept)
        reach = reach * (1.0 - accept)
        left = (p - q).clamp_(min=0.0)
        mass = left.sum(-1, keepdim=True) + outside
        p = torch.where(mass > 0, left / mass, p)  # no mass: p = q up to rounding, and p stays
        outside = torch.where(mass > 0, outside / mass, outside)
        untried.scatter_(1, child, False)
        q = _without(q, untried)
    return torch.cat(found, dim=1)


def _without(draft_probs: Tensor, untried: Tensor) -> Tensor:
    """The draft's distribution over untried tokens; uniform where it has no mass left there."""
    left = torch.where(untried, draft_probs, 0.0)
    mass = left.sum(-1, keepdim=True)
    even = untried / untried.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(mass > 0, left / mass, even)


def _answer_logits(model: LanguageModel, ids: Tensor, prompt: int, cache: KVCache) -> Tensor:
    """Logits [answer, V] before each answer token."""
    first = prompt - 1 if len(ids) > ONE_PASS else 0
    if first:
        model.extend(ids[:first], cache)
    positions = torch.arange(first, len(ids) - 1, device=model.device)
    return model.forward(ids[first:-1], positions, None, cache)[prompt - 1 - first :]
