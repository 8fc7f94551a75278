"""Positional acceptance rates of a pair: how likely the k-th drawn child is the accepted one.

Owns the arithmetic (Sequoia, section 3.1) at positions of a given text: children are drawn from the
draft without replacement and held against the target by Algorithm 2. What the rule would decide by
chance is summed as probability, which has the same mean as counting its decisions and less
variance. Knows nothing of time, nor of where texts come from.

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
"""Positions judged at once: each takes a few rows of the vocabulary."""
ONE_PASS = 512
"""Longest text that is read in one forward: a target on disk is then read once. Of a longer one the
prompt is read apart, since logits of all its rows would fill the memory."""


class AcceptanceCount:
    """Acceptance by rank, added up over many positions.

    Args:
        width: children drawn at each position, `W`.
    """

    def __init__(self, width: int) -> None:
        self.positions = 0
        self.accepted = (0.0,) * width
        """Expected number of positions at which a rank was the accepted one."""

    @property
    def rates(self) -> tuple[float, ...]:
        """a_1 to a_width; empty before anything was counted."""
        if not self.positions:
            return ()
        return tuple(total / self.positions for total in self.accepted)

    def add(self, accepted: Sequence[float], positions: int) -> None:
        """Add what `positions` further positions came to, by rank."""
        self.positions += positions
        self.accepted = tuple(a + b for a, b in zip(self.accepted, accepted, strict=True))

    @torch.inference_mode()
    def count(
        self, target: LanguageModel, draft: DraftModel, text: tuple[Sequence[int], int],
        sampler: Sampler,
    ) -> None:  # fmt: skip
        """Judge every position of a text by teacher forcing: one pass of each model, two if long.

        Args:
            target: the model that is to be guessed.
            draft: the model to judge.
            text: token ids, and how many of them are the prompt, which is not judged.
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
            found = self._judged(target_rows, draft_rows, draft.vocab_ids, sampler)
            self.add(found.double().sum(0).tolist(), len(found))

    def _judged(
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

    The k-th is accepted with min(1, p / q) if those before it were not; p and q are then what their
    rejections left. Summed over the law of the draws this is a_k.

    Args:
        target_probs: p, float32 [n, V].
        draft_probs: q, float32 [n, V_draft], which the children were drawn from.
        columns: int64 [n, W], children in drawn order, none twice.
        vocab_ids: int64 [V_draft], the target's id of each column; None where they agree.

    Returns:
        float32 [n, W]; what a row lacks of 1 is the mass that every child missed.
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
