"""How far a student agrees with the target on held-out text, by child rank and depth in a tree.

Everything is teacher-forced. Decoding itself is measured in `draft_figures`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.distill.batches import TrainBatch
from sequoia_core.distill.student import Student
from sequoia_core.distill.train_loop import mixed_precision
from sequoia_core.tree.search import expected_tokens_table

WIDTH = 8
"""Child ranks that are counted."""
NODES = 8
"""Nodes of the tree whose tokens per step are predicted, root included."""


@dataclass(frozen=True, slots=True)
class DraftAgreement:
    """Positional acceptance at temperature 0, and overlap at temperature 1.

    Attributes:
        rates: [depth][rank], how often the child of that rank is the target's argmax, given that
            the tokens above it are the text's.
        overlap: per depth, mean of sum min(p, q): the acceptance of one drawn child.
        positions: number of positions at the first depth.
    """

    rates: tuple[tuple[float, ...], ...]
    overlap: tuple[float, ...]
    positions: int

    @property
    def tokens_per_step(self) -> float:
        """Predicted at temperature 0 for the best tree of 8 nodes."""
        table = expected_tokens_table(self.rates[0], NODES, NODES - 1, WIDTH, self.rates[1:])
        return float(table.values[NODES, NODES - 1])


@torch.inference_mode()
def measure_agreement(
    student: Student, batches: Iterable[TrainBatch], depths: int
) -> DraftAgreement:
    """Evaluate a student on whole batches, so many depths down a tree.

    An independent student is the same at every depth.
    """
    ranks = torch.zeros(depths, WIDTH + 1, dtype=torch.int64)
    overlap = torch.zeros(depths, dtype=torch.float64)
    for batch in (each.to(student.embedding.device) for each in batches):
        with mixed_precision(batch.tokens.device):
            counts = [len(batch.tokens)] * depths
            for depth, state in enumerate(student.unrolled(batch.tokens, batch.features, counts)):
                learnt, columns, probs = batch.learnt_at(depth, state)
                logits = student.head(learnt).float()
                ranks[depth] += _rank_counts(logits, columns[:, 0], probs[:, 0])
                q = torch.softmax(logits, -1).gather(-1, columns)
                overlap[depth] += torch.minimum(q, probs).sum().cpu()
    positions = ranks.sum(-1)
    rates = ranks[:, :WIDTH] / positions[:, None].clamp(min=1)
    return DraftAgreement(
        rates=tuple(tuple(row) for row in rates.tolist()),
        overlap=tuple((overlap / positions.clamp(min=1)).tolist()),
        positions=int(positions[0]),
    )


def _rank_counts(logits: Tensor, argmax: Tensor, known: Tensor) -> Tensor:
    """int64 [WIDTH + 1]: how often the target's argmax has each rank, the last being none."""
    top = logits.topk(WIDTH, -1).indices  # [n, WIDTH]
    hits = (top == argmax[:, None]) & (known > 0)[:, None]
    found = hits.sum(0).cpu()
    return torch.cat((found, (len(hits) - found.sum())[None]))
