"""The training stage: what a student begins with, how long it is trained, how it is evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from sequoia_core.distill.agreement import DraftAgreement, measure_agreement
from sequoia_core.distill.batches import Batches, TrainPlan
from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.options import BLOCKS, TRAINING_PLANNED, Options, write_json
from sequoia_core.distill.progress import DistillStatus, TimeBudget, TokenRate
from sequoia_core.distill.shards import LabelledText
from sequoia_core.distill.student import (
    Student,
    begin_from_draft,
    begin_from_target,
    normalise_inputs,
    student_config,
)
from sequoia_core.distill.target import DistillTarget
from sequoia_core.distill.train_loop import TrainLoop, batch_loss
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS, EMBEDDING

PASSES = 6
"""Over the text, where no number of steps is given."""

UNROLL = 3
"""Steps down a tree that a conditioned draft is trained for."""

SAMPLE = 20_000
"""Tokens from which a conditioned draft's inputs are normalised."""

END_SHARE = 0.05
"""Share of the time budget for measuring and writing the draft."""

PROBE_STEPS = 4
EVALUATIONS = 20
"""Number of evaluations on held-out text during training."""

EVALUATED = 16
"""Conversations of each."""

BATCH = 8


@dataclass(frozen=True, slots=True)
class Dataset:
    """The text with soft labels, and the conversations of it that are not learnt from."""

    text: LabelledText
    held_out: tuple[int, ...]

    @property
    def corpus(self) -> Corpus:
        """The text alone."""
        return self.text.corpus


class Trainer:
    """Trains a student, with files in a work folder."""

    def __init__(
        self,
        target: DistillTarget,
        options: Options,
        dataset: Dataset,
        folder: Path,
        budget: TimeBudget,
    ) -> None:
        self._target, self._options, self._dataset = target, options, dataset
        self._folder, self._budget = folder, budget
        self.unroll = UNROLL if target.feature_layers else 1
        kept = set(range(dataset.corpus.conversations)) - set(dataset.held_out)
        self._learnt = sorted(kept)
        if target.initial_draft is not None:
            self._vocab_ids = target.initial_draft.weights[DRAFT_VOCAB_IDS].long()
        else:
            self._vocab_ids = head_ids(
                dataset.corpus.select(self._learnt),
                target.checkpoint.config.vocab_size,
                options.head_vocab,
            )
        self.student = self._new_student()

    def run(self, save_seconds: float) -> Iterator[DistillStatus]:
        """Train the student to the end."""
        plan = self._plan(self.steps())
        file = self._folder / "training.ckpt"
        loop = TrainLoop(self.student, self._batches(plan), plan, file)
        rate, learnt, predicted = TokenRate(), 0, self._predicted() if loop.step else None
        for done in loop.run(save_seconds):
            learnt += done.tokens
            if done.step % max(plan.steps // EVALUATIONS, 1) == 0:
                predicted = self._predicted()
            self._budget.tick()
            fraction = done.step / plan.steps
            yield DistillStatus("training", fraction, rate.at(learnt), done.loss, predicted)

    def _predicted(self) -> float:
        """Tokens per step on a part of the held-out text."""
        return self.agreement(self._dataset.held_out[:EVALUATED], 1).tokens_per_step

    def agreement(self, conversations: tuple[int, ...], depths: int) -> DraftAgreement:
        """How far the student agrees with the target on some conversations."""
        batches = self._batches(self._plan(1))
        parts = range(0, len(conversations), BATCH)
        chosen = (list(conversations[first : first + BATCH]) for first in parts)
        return measure_agreement(self.student, (batches.of(each) for each in chosen), depths)

    @torch.inference_mode()
    def loss(self) -> float:
        """Mean over the held-out conversations."""
        plan = self._plan(1)
        batches, device = self._batches(plan), self.student.embedding.device
        losses = []
        for index in self._dataset.held_out:
            batch = batches.of([index]).to(device)
            losses.append(float(batch_loss(self.student, batch, plan, [1] * plan.unroll)))
        return sum(losses) / len(losses)

    def steps(self) -> int:
        """All steps of the training; decided once and kept, since the schedule depends on them."""
        file = self._folder / TRAINING_PLANNED
        if not file.exists():
            tokens = int(self._dataset.corpus.lengths[self._learnt].sum())
            usual = max(PASSES * tokens // self._plan(1).batch_tokens, 1)
            steps = usual if self._options.steps is None else self._options.steps
            left = self._budget.left(1.0 - END_SHARE)
            if left < float("inf"):
                steps = max(min(steps, int(left / self._step_seconds())), 1)
            write_json(file, {"steps": steps})
        return int(json.loads(file.read_text("utf-8"))["steps"])

    def _step_seconds(self) -> float:
        """Time of a training step, measured with a student that is then dropped."""
        plan, file = self._plan(PROBE_STEPS), self._folder / "probe.ckpt"
        file.unlink(missing_ok=True)
        loop = TrainLoop(self._new_student(), self._batches(plan), plan, file)
        ends = [monotonic() for _ in loop.run(float("inf"))]
        file.unlink()
        return (ends[-1] - ends[0]) / (PROBE_STEPS - 1)

    def _plan(self, steps: int) -> TrainPlan:
        options = self._options
        return TrainPlan(steps, seed=options.seed, loss=options.loss, unroll=self.unroll)

    def _batches(self, plan: TrainPlan) -> Batches:
        return Batches(self._dataset.text, self._vocab_ids, plan, self._learnt)

    def _new_student(self) -> Student:
        target, checkpoint = self._target, self._target.checkpoint
        layers, features = target.layers, target.feature_layers
        config = student_config(checkpoint.config, len(layers), len(self._vocab_ids), features)
        embedding = checkpoint.weights[EMBEDDING].to(target.device, torch.bfloat16)
        student = Student(config, embedding, self._vocab_ids, BLOCKS[self._options.bits])
        if target.initial_draft is not None:
            begin_from_draft(student, target.initial_draft.weights)
        else:
            begin_from_target(student, checkpoint.weights, layers, self._options.seed)
            if features:
                normalise_inputs(student, *self._sample())
        return student.to(target.device)

    def _sample(self) -> tuple[Tensor, Tensor]:
        """The first tokens, int64 [n], and their features [n, F, hidden]; `SAMPLE` or fewer."""
        corpus, tokens, features, left = self._dataset.corpus, [], [], SAMPLE
        for index in range(corpus.conversations):
            states = self._dataset.text.conversation(index).features[:left]
            ids = corpus.tokens[corpus.span(index)][: len(states)]
            tokens.append(torch.from_numpy(ids.astype(np.int64)))
            features.append(states)
            left -= len(states)
            if not left:
                break
        return torch.cat(tokens).to(self._target.device), torch.cat(features)


def head_ids(text: Corpus, vocab_size: int, rows: int) -> Tensor:
    """The most frequent tokens of the answers in a text: int64 [rows], ascending."""
    counts = np.bincount(text.tokens[text.answers], minlength=vocab_size)
    frequent = np.argsort(-counts, kind="stable")[: min(rows, vocab_size)]
    return torch.from_numpy(np.sort(frequent).astype(np.int64))
