"""Batches of labelled conversations; the batch of a step follows from the seed and its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.distill.dialogue import LONGEST
from sequoia_core.distill.shards import LabelledText


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """How to train.

    Attributes:
        steps: optimiser steps.
        seed: of the order of batches.
        loss: a name of `losses.LOSSES`.
        unroll: steps down a tree that a conditioned student is trained for.
        batch_tokens: about how many tokens a batch holds.
        longest: tokens of a conversation beyond which it is cut.
    """

    steps: int
    seed: int = 0
    loss: str = "mix"
    unroll: int = 1
    batch_tokens: int = 2048
    longest: int = LONGEST


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """Conversations of similar length, padded at the end.

    Attributes:
        tokens: int64 [B, t].
        features: bfloat16 [B, t, F, hidden], the target's of the token before; None without.
        columns: int64 [B, t, k].
        probs: float32 [B, t, k].
        learnt: bool [B, t], True where the next token is of an answer.
    """

    tokens: Tensor
    features: Tensor | None
    columns: Tensor
    probs: Tensor
    learnt: Tensor

    def learnt_at(self, depth: int, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [n, hidden], columns [n, k] and probabilities [n, k] at one step down a tree.

        `depth` is the number of steps above it; so many of a conversation's first rows mean
        nothing. `state` [b, t, hidden] is the student's, of the first b conversations.
        """
        places = self.learnt[: len(state)].clone()
        places[:, :depth] = False
        columns, probs = self.columns[: len(state)], self.probs[: len(state)]
        return state[places], columns[places], probs[places]

    def to(self, device: torch.device) -> TrainBatch:
        """The batch on a device."""
        features = None if self.features is None else self.features.to(device)
        tensors = (self.columns, self.probs, self.learnt)
        return TrainBatch(self.tokens.to(device), features, *(each.to(device) for each in tensors))


class Batches:
    """Cuts a text into batches of conversations of similar length.

    Args:
        text: with soft labels.
        vocab_ids: int64 [V_draft], the target's id of each of the draft's columns.
        plan: sizes and seed.
        conversations: which of the text to learn from; None is all.
    """

    def __init__(
        self,
        text: LabelledText,
        vocab_ids: Tensor,
        plan: TrainPlan,
        conversations: Sequence[int] | None = None,
    ) -> None:
        self._text, self._plan = text, plan
        everything = range(text.corpus.conversations)
        self._conversations = np.array(everything if conversations is None else conversations)
        self._column_of = torch.full((text.shards.vocab_size,), -1)
        self._column_of[vocab_ids.cpu()] = torch.arange(len(vocab_ids))
        self._epochs: dict[int, list[list[int]]] = {}

    def at(self, step: int) -> TrainBatch:
        """The batch of one step; any step, in any order."""
        epoch, place = 0, step
        while place >= len(self._epoch(epoch)):
            place -= len(self._epoch(epoch))
            epoch += 1
        return self.of(self._epoch(epoch)[place])

    def of(self, conversations: list[int]) -> TrainBatch:
        """A batch of these conversations."""
        rows = [self._row(index) for index in conversations]
        length = max(len(row.tokens) for row in rows)
        features = [row.features for row in rows if row.features is not None]
        return TrainBatch(
            tokens=_padded([row.tokens for row in rows], length),
            features=_padded(features, length) if features else None,
            columns=_padded([row.columns for row in rows], length),
            probs=_padded([row.probs for row in rows], length),
            learnt=_padded([row.learnt for row in rows], length),
        )

    def _row(self, index: int) -> TrainBatch:
        """A conversation as a batch without its first dimension, unpadded."""
        corpus, labels = self._text.corpus, self._text.conversation(index)
        span = corpus.span(index)
        span = slice(span.start, min(span.stop, span.start + self._plan.longest))
        tokens = torch.from_numpy(corpus.tokens[span].astype(np.int64))
        learnt = functional.pad(torch.from_numpy(corpus.answers[span][1:]), (0, 1))
        known = int(learnt.sum())
        found = self._column_of[labels.top_ids[:known].long()]  # -1 where the draft has none
        columns = found.new_zeros(len(tokens), found.shape[1])
        columns[learnt] = found.clamp(min=0)
        probs = torch.zeros(columns.shape)
        probs[learnt] = labels.top_probs[:known].float() * (found >= 0)
        features = None
        if labels.features.shape[1]:  # of the token before each; zeros before the first
            features = functional.pad(labels.features[: len(tokens) - 1], (0, 0, 0, 0, 1, 0))
        return TrainBatch(tokens, features, columns, probs, learnt)

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Batches of one pass over the text, each a list of conversations."""
        if epoch not in self._epochs:
            order = np.random.default_rng((self._plan.seed, epoch))
            lengths = np.minimum(self._text.corpus.lengths, self._plan.longest)
            # lengths are blurred, so that the same conversations do not meet in every epoch
            blurred = lengths[self._conversations] * order.uniform(
                0.9, 1.1, len(self._conversations)
            )
            by_length = self._conversations[np.argsort(blurred)]
            batches: list[list[int]] = [[]]
            for index in by_length.tolist():
                longest = max(int(lengths[each]) for each in (*batches[-1], index))
                if batches[-1] and longest * (len(batches[-1]) + 1) > self._plan.batch_tokens:
                    batches.append([])
                batches[-1].append(index)
            self._epochs[epoch] = [batches[at] for at in order.permutation(len(batches))]
        return self._epochs[epoch]


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """[B, length, ...]: each row filled up with zeros."""
    full = rows[0].new_zeros((len(rows), length, *rows[0].shape[1:]))
    for at, row in enumerate(rows):
        full[at, : row.shape[0]] = row
    return full
