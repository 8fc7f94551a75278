"""The stage in which a student learns: what it is made of, for how long, and how it is doing.

Owns the choice of the head's rows, the number of steps and the looks at text that was held out. The
training itself is `train`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from sequoia_core.distill.agreement import Agreement, agreement
from sequoia_core.distill.clock import Clock
from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.options import BLOCKS, TRAINING_PLANNED, Options, write_json
from sequoia_core.distill.shards import LabelledText
from sequoia_core.distill.status import Pace, Status
from sequoia_core.distill.student import (
    Student,
    begin_from_draft,
    begin_from_target,
    even_inputs,
    student_config,
)
from sequoia_core.distill.subject import Subject
from sequoia_core.distill.train import Batches, Training, TrainPlan, batch_loss, to_device
from sequoia_core.model.loading.weights import DRAFT_VOCAB_IDS, EMBEDDING

PASSES = 6
"""Over the text, where no number of steps is given."""

UNROLL = 3
"""Steps down a tree that a conditioned draft is trained for."""

EVENED = 20_000
"""Tokens that a conditioned draft's inputs are evened out by."""

END_SHARE = 0.05
"""Of the time given, kept for measuring and writing the draft."""

PROBE_STEPS = 4
LOOKS = 20
"""Times that text held out is looked at during training."""

LOOKED_AT = 16
"""Conversations of it."""

BATCH = 8


@dataclass(frozen=True, slots=True)
class Lesson:
    """What there is to learn.

    Attributes:
        text: all of it, with soft labels.
        held_out: conversations that are not learnt from.
    """

    text: LabelledText
    held_out: tuple[int, ...]

    @property
    def corpus(self) -> Corpus:
        """The text alone."""
        return self.text.corpus


class Schooling:
    """A student, its lesson and its training, in files of a folder.

    Args:
        subject: the target.
        options: what was asked for.
        lesson: what to learn.
        folder: of the checkpoint.
        clock: of the time given.
    """

    def __init__(
        self, subject: Subject, options: Options, lesson: Lesson, folder: Path, clock: Clock
    ) -> None:
        self._subject, self._options, self._lesson = subject, options, lesson
        self._folder, self._clock = folder, clock
        self._unroll = UNROLL if subject.feature_layers else 1
        kept = set(range(lesson.corpus.conversations)) - set(lesson.held_out)
        self._learnt = sorted(kept)
        if subject.begun is not None:
            self._vocab_ids = subject.begun.weights[DRAFT_VOCAB_IDS].long()
        else:
            self._vocab_ids = head_ids(
                lesson.corpus.select(self._learnt),
                subject.checkpoint.config.vocab_size,
                options.head_vocab,
            )
        self.student = self._new_student()

    @property
    def checkpoint(self) -> Path:
        """The file of the training's state."""
        return self._folder / "training.ckpt"

    def run(self, save_seconds: float) -> Iterator[Status]:
        """Train to the end; the student is then ready."""
        plan = self._plan(self.steps())
        training = Training(self.student, self._batches(plan), plan, self.checkpoint)
        pace, learnt, seen = Pace(), 0, self.predicted() if training.step else None
        for progress in training.run(save_seconds):
            learnt += progress.tokens
            if progress.step % max(plan.steps // LOOKS, 1) == 0:
                seen = self.predicted()
            self._clock.tick()
            yield Status(
                "training", progress.step / plan.steps, pace.at(learnt), progress.loss, seen
            )

    def predicted(self) -> float:
        """Tokens per step on a part of the text that was held out."""
        return self.judged(self._lesson.held_out[:LOOKED_AT], 1).tokens_per_step

    def judged(self, conversations: tuple[int, ...], depths: int) -> Agreement:
        """How far the student agrees with the target on some conversations."""
        batches = self._batches(self._plan(1))
        parts = range(0, len(conversations), BATCH)
        chosen = (list(conversations[first : first + BATCH]) for first in parts)
        return agreement(self.student, (batches.of(each) for each in chosen), depths)

    @torch.inference_mode()
    def loss(self) -> float:
        """On all text that was held out, each conversation counting the same."""
        batches, plan = self._batches(self._plan(1)), self._plan(1)
        device = self.student.embedding.device
        losses = []
        for index in self._lesson.held_out:
            batch = to_device(batches.of([index]), device)
            losses.append(float(batch_loss(self.student, batch, plan, [1] * plan.unroll)))
        return sum(losses) / len(losses)

    @property
    def unroll(self) -> int:
        """Depths of a tree that the student was trained for."""
        return self._unroll

    def _plan(self, steps: int) -> TrainPlan:
        options = self._options
        return TrainPlan(steps, seed=options.seed, loss=options.loss, unroll=self._unroll)

    def _batches(self, plan: TrainPlan) -> Batches:
        lesson = self._lesson
        return Batches(lesson.text, self._vocab_ids, plan, self._learnt)

    def steps(self) -> int:
        """Steps to take in all; decided once and kept, for the schedule depends on it."""
        file = self._folder / TRAINING_PLANNED
        if not file.exists():
            tokens = int(self._lesson.corpus.lengths[self._learnt].sum())
            plan = self._plan(1)
            usual = max(PASSES * tokens // plan.batch_tokens, 1)
            steps = usual if self._options.steps is None else self._options.steps
            left = self._clock.left(1.0 - END_SHARE)
            if left < float("inf"):
                steps = max(min(steps, int(left / self._step_seconds())), 1)
            write_json(file, {"steps": steps})
        return int(json.loads(file.read_text("utf-8"))["steps"])

    def _step_seconds(self) -> float:
        """What a training step takes here, tried on a student that is then forgotten."""
        plan, file = self._plan(PROBE_STEPS), self._folder / "probe.ckpt"
        file.unlink(missing_ok=True)
        training = Training(self._new_student(), self._batches(plan), plan, file)
        ends = [monotonic() for _ in training.run(float("inf"))]
        file.unlink()
        return (ends[-1] - ends[0]) / (PROBE_STEPS - 1)

    def _new_student(self) -> Student:
        checkpoint, subject = self._subject.checkpoint, self._subject
        layers, features = subject.layers, subject.feature_layers
        rows = len(self._vocab_ids)
        config = student_config(checkpoint.config, len(layers), rows, features)
        embedding = checkpoint.weights[EMBEDDING].to(subject.device, torch.bfloat16)
        student = Student(config, embedding, self._vocab_ids, BLOCKS[self._options.bits])
        if subject.begun is not None:
            begin_from_draft(student, subject.begun.weights)
        else:
            begin_from_target(student, checkpoint.weights, layers, self._options.seed)
            if features:
                even_inputs(student, *self._sample())
        return student.to(subject.device)

    def _sample(self) -> tuple[Tensor, Tensor]:
        """The first tokens, int64 [n], and their features [n, F, hidden]; `EVENED` or fewer."""
        corpus, tokens, features, left = self._lesson.corpus, [], [], EVENED
        for index in range(corpus.conversations):
            states = self._lesson.text.labels(index).features[:left]
            ids = corpus.tokens[corpus.span(index)][: len(states)]
            tokens.append(torch.from_numpy(ids.astype(np.int64)))
            features.append(states)
            left -= len(states)
            if not left:
                break
        return torch.cat(tokens).to(self._subject.device), torch.cat(features)


def head_ids(text: Corpus, vocab_size: int, rows: int) -> Tensor:
    """The most frequent tokens of the answers in a text: int64 [rows], ascending."""
    counts = np.bincount(text.tokens[text.answers], minlength=vocab_size)
    frequent = np.argsort(-counts, kind="stable")[: min(rows, vocab_size)]
    return torch.from_numpy(np.sort(frequent).astype(np.int64))
