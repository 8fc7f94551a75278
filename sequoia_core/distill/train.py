"""Train a student on labelled text, resumable at any moment with the same result.

Owns batches, optimiser, schedule and checkpoints. Everything random follows from the seed and the
number of the step, so a training that was killed and resumed ends with the same weights. Knows
neither where the text comes from nor what becomes of the student.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.distill.dialogue import LONGEST
from sequoia_core.distill.losses import LOSSES, distance
from sequoia_core.distill.muon import Muon
from sequoia_core.distill.shards import LabelledText
from sequoia_core.distill.student import Student
from sequoia_core.files import written_whole
from sequoia_core.model.device import choose_dtype

STEP_WEIGHT = 0.6
"""Weight of each step down the tree against the one above: fewer decodings come that far."""
STEP_SHARE = 0.4
"""Of the conversations that take a step, those that also take the one below it: each costs as much
as the first."""
WARM_UP = 0.03
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """How to train.

    Attributes:
        steps: optimiser steps.
        seed: of the batches' order.
        loss: a name of `losses.LOSSES`.
        unroll: steps down a tree that a conditioned student is trained for.
        batch_tokens: about how many tokens a batch holds.
        longest: tokens of a conversation beyond which its end is left out.
        learning_rate: of AdamW at its height.
        matrix_rate: of Muon.
    """

    steps: int
    seed: int = 0
    loss: str = "mix"
    unroll: int = 1
    batch_tokens: int = 2048
    longest: int = LONGEST
    learning_rate: float = 1e-3
    matrix_rate: float = 0.02


@dataclass(frozen=True, slots=True)
class Progress:
    """After one step.

    Attributes:
        step: steps done.
        tokens: tokens learnt from in this step.
        loss: of this step.
    """

    step: int
    tokens: int
    loss: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Conversations of about one length, padded at the end.

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
        """What is learnt from at one step down a tree, in order of the places it stands at.

        Args:
            depth: steps above it; so many of a conversation's first rows mean nothing.
            state: [b, t, hidden], the student's there, of the first b conversations.

        Returns:
            states [n, hidden], columns [n, k] and probabilities [n, k].
        """
        places = self.learnt[: len(state)].clone()
        places[:, :depth] = False
        columns, probs = self.columns[: len(state)], self.probs[: len(state)]
        return state[places], columns[places], probs[places]


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

    def at(self, step: int) -> Batch:
        """The batch of one step; any step, in any order."""
        epoch, place = 0, step
        while place >= len(self._epoch(epoch)):
            place -= len(self._epoch(epoch))
            epoch += 1
        return self.of(self._epoch(epoch)[place])

    def of(self, conversations: list[int]) -> Batch:
        """A batch of these conversations."""
        rows = [self._row(index) for index in conversations]
        length = max(len(row.tokens) for row in rows)
        features = [row.features for row in rows if row.features is not None]
        return Batch(
            tokens=_padded([row.tokens for row in rows], length),
            features=_padded(features, length) if features else None,
            columns=_padded([row.columns for row in rows], length),
            probs=_padded([row.probs for row in rows], length),
            learnt=_padded([row.learnt for row in rows], length),
        )

    def _row(self, index: int) -> Batch:
        """A conversation as a batch without its first dimension, unpadded."""
        corpus, labels = self._text.corpus, self._text.labels(index)
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
        return Batch(tokens, features, columns, probs, learnt)

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


class Training:
    """A training run that can be left and taken up again.

    Args:
        student: trained in place.
        batches: what it learns from.
        plan: as for the batches.
        checkpoint: file that is read if it is there, and written by `save`.
    """

    def __init__(
        self, student: Student, batches: Batches, plan: TrainPlan, checkpoint: Path
    ) -> None:
        self._student, self._batches, self._plan = student, batches, plan
        self._checkpoint = checkpoint
        self._optimizers = optimizers(student, plan)
        self._rates = [group["lr"] for each in self._optimizers for group in each.param_groups]
        self.step = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            student.load_state_dict(state["student"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]

    def run(self, save_seconds: float = 60.0) -> Iterator[Progress]:
        """Train to the plan's last step; yields after each and saves now and then."""
        saved = monotonic()
        while self.step < self._plan.steps:
            progress = self._one(self.step)
            self.step += 1
            if monotonic() - saved > save_seconds or self.step == self._plan.steps:
                self.save()
                saved = monotonic()
            yield progress

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "student": self._student.state_dict(),
            "optimizers": [each.state_dict() for each in self._optimizers],
            "step": self.step,
        }
        with written_whole(self._checkpoint) as file:
            torch.save(state, file)

    def _counts(self, step: int, conversations: int) -> list[int]:
        """Conversations of a batch that take each step down the tree, rounded by chance."""
        chance = np.random.default_rng((self._plan.seed, step)).random()
        wanted = (conversations * STEP_SHARE**depth for depth in range(self._plan.unroll))
        counts = [int(count + chance) for count in wanted]
        return [count for count in counts if count]

    def _one(self, step: int) -> Progress:
        groups = chain(*(each.param_groups for each in self._optimizers))
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * schedule(step, self._plan.steps)
        batch = to_device(self._batches.at(step), self._student.embedding.device)
        counts = self._counts(step, len(batch.tokens))
        loss = batch_loss(self._student, batch, self._plan, counts)
        self._student.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), LARGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        return Progress(step + 1, int(batch.learnt.sum()), float(loss.detach()))


def optimizers(student: Student, plan: TrainPlan) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for the head and the vectors."""
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    for name, parameter in student.named_parameters():
        (inner if parameter.dim() == 2 and not name.startswith("head.") else outer).append(
            parameter
        )
    decay, dtype = WEIGHT_DECAY, product_dtype(student.embedding.device)
    return [
        Muon(inner, lr=plan.matrix_rate, weight_decay=decay, dtype=dtype),
        torch.optim.AdamW(
            outer, lr=plan.learning_rate, betas=BETAS, weight_decay=decay, fused=True
        ),
    ]


def batch_loss(student: Student, batch: Batch, plan: TrainPlan, counts: Sequence[int]) -> Tensor:
    """Mean loss over the positions learnt from, weighted over the steps down the tree.

    Args:
        student: computes it.
        batch: with labels.
        plan: names the loss.
        counts: conversations that take each step, see `Student.unrolled`; at most `plan.unroll`.
    """
    total = torch.zeros((), device=batch.tokens.device)
    with mixed_precision(batch.tokens.device):
        states = student.unrolled(batch.tokens, batch.features, counts)
        for depth, state in enumerate(states):
            learnt, columns, probs = batch.learnt_at(depth, state)
            loss = distance(learnt, student.head.read, columns, probs, LOSSES[plan.loss])
            total = total + STEP_WEIGHT**depth * loss
    return total / sum(STEP_WEIGHT**depth for depth in range(plan.unroll))


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it; emulated it would be slower than float32."""
    helps = choose_dtype("auto", device) is torch.bfloat16
    return torch.bfloat16 if helps else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Products in `product_dtype`, everything else in float32."""
    helps = product_dtype(device) is torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=helps)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a short climb, then a cosine down to a tenth."""
    climb = max(round(steps * WARM_UP), 1)
    if step < climb:
        return (step + 1) / climb
    done = (step - climb) / max(steps - climb, 1)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the student is."""
    features = None if batch.features is None else batch.features.to(device)
    return Batch(
        batch.tokens.to(device),
        features,
        batch.columns.to(device),
        batch.probs.to(device),
        batch.learnt.to(device),
    )


def _padded(rows: Sequence[Tensor], length: int) -> Tensor:
    """[B, length, ...]: each row filled up with zeros."""
    full = rows[0].new_zeros((len(rows), length, *rows[0].shape[1:]))
    for at, row in enumerate(rows):
        full[at, : row.shape[0]] = row
    return full
