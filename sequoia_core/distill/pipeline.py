"""From a target to a draft: labelled text, training, measurement, export."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from sequoia_core.distill.corpus import AnswerMarks, Corpus, load_corpus, usable_length
from sequoia_core.distill.dialogue import longest_dialogue
from sequoia_core.distill.draft_figures import (
    DraftAgreement,
    measure_agreement,
    measure_draft,
    model_card,
)
from sequoia_core.distill.generate import Writer, rows_for
from sequoia_core.distill.options import (
    FINISHED,
    TRAINING_PLANNED,
    DistillStatus,
    Options,
    TimeBudget,
    remember,
    write_json,
)
from sequoia_core.distill.shards import LabelledText, Shards, token_bytes
from sequoia_core.distill.student import Student, student_config, write_draft
from sequoia_core.distill.target import DistillTarget
from sequoia_core.distill.train_loop import Batches, TrainLoop, TrainPlan, batch_loss
from sequoia_core.errors import ParameterError
from sequoia_core.files import expanded
from sequoia_core.model.device import free_bytes
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, EMBEDDING

WORK = "work"  # folder for files in progress, inside the draft's
SHARDS = "shards"  # folder in it for the text with the target's labels
TEXT_SHARE = 0.5  # share of the time budget for writing text
HELD_OUT, MOST_HELD_OUT = 1 / 20, 60  # share and number of conversations that are not learnt from
PASSES = 6  # over the text, where no number of steps is given
UNROLL = 3  # steps down a tree that a conditioned draft is trained for
SAMPLE = 20_000  # tokens from which a conditioned draft's inputs are normalised
END_SHARE = 0.05  # share of the time budget for measuring and writing the draft
PROBE_STEPS = 4
EVALUATIONS, EVALUATED = 20, 16  # times that held-out text is evaluated, and conversations each
BATCH = 8


class Distillation:
    """One run, with options from `options_for`, in the directory that `--draft` will take.

    It can be killed at any moment and resumed with the same result.
    """

    def __init__(self, options: Options, out: Path, save_seconds: float = 60.0) -> None:
        self._options, self._out, self._work = options, out, out / WORK
        self._save_seconds = save_seconds
        self._threads = torch.get_num_threads()
        self._target = DistillTarget.of(options)
        self._budget = TimeBudget(self._work / "clock.json", options.minutes)

    def run(self) -> Iterator[DistillStatus]:
        if (self._work / FINISHED).exists():
            return
        remember(self._work, self._options)
        self._check_same_target()
        shards = Shards(self._work / SHARDS, self._target.checkpoint.config.vocab_size)
        file = self._work / "text.npz"
        if not file.exists():
            yield from self._write_text(shards)
        text = shards.text(self._options.tokens)
        if not file.exists():
            text.corpus.save(file)
        torch.set_num_threads(self._threads)  # the native target left PyTorch one
        trainer = Trainer(self._target, self._options, text, self._work, self._budget)
        yield from trainer.run(self._save_seconds)
        yield from self._finish(trainer)

    def _check_same_target(self) -> None:
        """Refuse to mix the text of two targets in one draft."""
        file, digest = self._work / "target.json", self._target.checkpoint.digest()
        if not file.exists():
            write_json(file, {"digest": digest})
        elif json.loads(file.read_text("utf-8"))["digest"] != digest:
            raise ParameterError(
                f"{self._target.checkpoint.name} has changed since this was begun; "
                "begin in another --out"
            )

    def _write_text(self, shards: Shards) -> Iterator[DistillStatus]:
        """Label as much of the given text as is wanted, and let the target write the rest."""
        options, target, given = self._options, self._target, self._given_text()
        self._check_room()
        model = target.model()
        free = None if model.device.type == "cpu" else free_bytes(model.device)
        held = kv_token_bytes(model.config, target.dtype.itemsize, len(target.feature_layers))
        prompt = max(map(len, target.template.prompts), default=0)
        longest = longest_dialogue(model.context_window, prompt)
        longest = max(int(given.lengths.max(initial=0)), longest)
        rows = rows_for(options.tokens, held, model.vocab_size, free, longest)
        writer = Writer(model, target.template, options, rows, shards, given)
        for done in writer.run(self._save_seconds):
            rate = self._budget.rate("writing text", done)
            yield DistillStatus("writing text", writer.share, rate)
            if self._budget.left(TEXT_SHARE) < 0:
                shards.save()
                if len(shards.text(options.tokens).corpus) > 1:
                    break

    def _given_text(self) -> Corpus:
        """The usable text of `--text`."""
        config, template = self._target.checkpoint.config, self._target.template
        if self._options.text is None:
            return Corpus.of([], config.vocab_size)
        marks = AnswerMarks(template.header, template.closing)
        text = load_corpus(expanded(self._options.text), marks)
        if int(text.tokens.max()) >= config.vocab_size:
            raise ParameterError(f"{self._options.text}: this target did not write it")
        kept, window = [], config.context_window
        for ids, answers in text:
            if length := usable_length(ids[:window], answers[:window]):
                kept.append((ids[:length], answers[:length]))
        return Corpus.of(kept, config.vocab_size)

    def _check_room(self) -> None:
        """Refuse before hours are spent if the labels will not fit on the disk."""
        config = self._target.checkpoint.config
        features = len(self._target.feature_layers) * config.hidden_size
        written = sum(file.stat().st_size for file in (self._work / SHARDS).iterdir())
        needed = self._options.tokens * token_bytes(config.vocab_size, features) - written
        free = shutil.disk_usage(self._work).free
        if needed > free:
            raise ParameterError(
                f"{self._work}: the target's labels need {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; take fewer --tokens or an --out on another disk"
            )

    def _finish(self, trainer: Trainer) -> Iterator[DistillStatus]:
        """Measure the student as a draft, and only then move its files to their place."""
        yield DistillStatus("measuring", 0.0, 0.0)
        options, draft, student = self._options, self._work / "draft", trainer.student
        agreement = trainer.agreement(trainer.held_out, trainer.unroll)
        settings = self._target.checkpoint.settings
        write_draft(draft, student, settings, options.blocks, {})
        pair = load_pair(options.target, str(draft), device=options.device)
        text = trainer.text.corpus.select(trainer.held_out)
        figures = measure_draft(pair, student, text, options.seed)
        write_draft(draft, student, settings, options.blocks, figures.rates)
        card = model_card(trainer, options.command_line(self._out), figures, agreement)
        (draft / "README.md").write_text(card, encoding="utf-8")
        for file in sorted(draft.iterdir()):
            os.replace(file, self._out / file.name)  # noqa: PTH105 within one file system
        write_json(self._work / FINISHED, {"seconds": round(self._budget.seconds)})
        for folder in (SHARDS, "draft"):
            shutil.rmtree(self._work / folder, ignore_errors=True)
        (self._work / "training.ckpt").unlink(missing_ok=True)
        yield DistillStatus("measuring", 1.0, 0.0, tokens_per_step=agreement.tokens_per_step)


class Trainer:
    """Trains a student on a text, some conversations held out, with files in a work folder."""

    def __init__(
        self,
        target: DistillTarget,
        options: Options,
        text: LabelledText,
        folder: Path,
        budget: TimeBudget,
    ) -> None:
        self.target, self.options, self.text = target, options, text
        self._folder, self._budget, corpus = folder, budget, text.corpus
        wanted = min(MOST_HELD_OUT, int(HELD_OUT * len(corpus)) or 1)
        self.held_out = corpus.held_out(wanted, options.seed)
        self._learnt = sorted(set(range(len(corpus))) - set(self.held_out))
        if target.initial_draft is not None:
            self._vocab_ids = target.initial_draft.weights[DRAFT_VOCAB_IDS].long()
        else:  # the most frequent tokens of answers
            learnt, vocab_size = corpus.select(self._learnt), target.checkpoint.config.vocab_size
            counts = np.bincount(learnt.tokens[learnt.answers], minlength=vocab_size)
            frequent = np.argsort(-counts, kind="stable")[: options.head_vocab]
            self._vocab_ids = torch.from_numpy(np.sort(frequent).astype(np.int64))
        self.unroll = UNROLL if target.feature_layers else 1
        plan = TrainPlan(seed=options.seed, loss=options.loss, unroll=self.unroll)
        self._batches = Batches(text, self._vocab_ids, plan, self._learnt, target.device)
        self.student = self._new_student()

    def run(self, save_seconds: float) -> Iterator[DistillStatus]:
        steps = self.steps()
        loop = TrainLoop(self.student, self._batches, self._folder / "training.ckpt")
        learnt, predicted = 0, self._predicted() if loop.step else None
        for tokens, loss in loop.run(steps, save_seconds):
            learnt += tokens
            if loop.step % max(steps // EVALUATIONS, 1) == 0:
                predicted = self._predicted()
            rate = self._budget.rate("training", learnt)
            yield DistillStatus("training", loop.step / steps, rate, loss, predicted)

    def _predicted(self) -> float:
        return self.agreement(self.held_out[:EVALUATED], 1).tokens_per_step

    def agreement(self, conversations: Sequence[int], depths: int) -> DraftAgreement:
        parts = range(0, len(conversations), BATCH)
        batches = (self._batches.of(conversations[first : first + BATCH]) for first in parts)
        return measure_agreement(self.student, batches, depths)

    @torch.inference_mode()
    def loss(self) -> float:
        """Mean over the held-out conversations."""
        plan, counts = self._batches.plan, [1] * self.unroll
        batches = (self._batches.of([index]) for index in self.held_out)
        return fmean(float(batch_loss(self.student, batch, plan, counts)) for batch in batches)

    def steps(self) -> int:
        """All steps of the training; decided once and kept, since the schedule depends on them."""
        file = self._folder / TRAINING_PLANNED
        if not file.exists():
            tokens = int(self.text.corpus.lengths[self._learnt].sum())
            usual = max(PASSES * tokens // self._batches.plan.batch_tokens, 1)
            steps = usual if self.options.steps is None else self.options.steps
            left = self._budget.left(1.0 - END_SHARE)
            if left < float("inf"):
                steps = max(min(steps, int(left / self._step_seconds())), 1)
            write_json(file, {"steps": steps})
        return int(json.loads(file.read_text("utf-8"))["steps"])

    def _step_seconds(self) -> float:
        """Time of a training step, measured with a student that is then dropped."""
        file = self._folder / "probe.ckpt"
        file.unlink(missing_ok=True)
        loop = TrainLoop(self._new_student(), self._batches, file)
        ends = [monotonic() for _ in loop.run(PROBE_STEPS, float("inf"))]
        file.unlink()
        return (ends[-1] - ends[0]) / (PROBE_STEPS - 1)

    def _new_student(self) -> Student:
        target, checkpoint = self.target, self.target.checkpoint
        layers, features = target.layers, target.feature_layers
        config = student_config(checkpoint.config, len(layers), len(self._vocab_ids), features)
        embedding = checkpoint.weights[EMBEDDING].to(target.device, torch.bfloat16)
        student = Student(config, embedding, self._vocab_ids, self.options.blocks)
        if target.initial_draft is not None:
            student.begin_from_draft(target.initial_draft.weights)
        else:
            student.begin_from_target(
                checkpoint.weights, checkpoint.config, layers, self.options.seed
            )
            if features:
                student.normalise_inputs(*self._sample())
        return student.to(target.device)

    def _sample(self) -> tuple[Tensor, Tensor]:
        """The first tokens, int64 [n], and their features [n, F, hidden]; `SAMPLE` or fewer."""
        lengths = self.text.corpus.lengths - 1  # the last token of each has no features
        enough = int(np.searchsorted(lengths.cumsum(), SAMPLE)) + 1
        sample = [self.text.conversation(at) for at in range(len(lengths))[:enough]]
        tokens = torch.cat([each.tokens[:-1].long() for each in sample])[:SAMPLE]
        features = torch.cat([each.features for each in sample])[:SAMPLE]
        return tokens.to(self.target.device), features
