"""From a target to a draft: labelled text, training, measurement, export.

Every stage keeps its files in a work directory, so that it can be killed at any moment and resumed
with the same result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from sequoia_core.distill.card import Provenance, model_card, stated_licence
from sequoia_core.distill.corpus import AnswerMarks, Corpus, load_corpus, usable_length
from sequoia_core.distill.dialogue import Lengths
from sequoia_core.distill.draft_figures import measure_draft
from sequoia_core.distill.export import write_draft
from sequoia_core.distill.generate import Writer, WritingPlan, rows_for
from sequoia_core.distill.options import BLOCKS, FINISHED, Options, remember, write_json
from sequoia_core.distill.progress import DistillStatus, TimeBudget, TokenRate
from sequoia_core.distill.shards import Shards, token_bytes
from sequoia_core.distill.target import DistillTarget
from sequoia_core.distill.trainer import Dataset, Trainer
from sequoia_core.errors import ParameterError
from sequoia_core.model.device import free_bytes
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from sequoia_core.model.loading.pair import load_pair

WORK = "work"
"""Folder for files in progress, inside the draft's."""

SHARDS = "shards"
"""Folder in it for the text with the target's labels."""

HELD_OUT = 1 / 20
MOST_HELD_OUT = 60

TEXT_SHARE = 0.5
"""Share of the time budget for writing text."""


class Distillation:
    """One run, with options from `options_for`, in the directory that `--draft` will take.

    Raises:
        ModelLoadError: the target cannot be one: not Llama-like, a draft, without a chat template.
        ParameterError: an option does not fit the target.
    """

    def __init__(self, options: Options, out: Path, save_seconds: float = 60.0) -> None:
        self._options, self._out, self._work = options, out, out / WORK
        self._save_seconds = save_seconds
        self._threads = torch.get_num_threads()
        self._target = DistillTarget.of(options)
        self._budget = TimeBudget(self._work / "clock.json", options.minutes)

    def run(self) -> Iterator[DistillStatus]:
        """Do the remaining work; yields after every part of it."""
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
        wanted = min(MOST_HELD_OUT, int(HELD_OUT * text.corpus.conversations) or 1)
        dataset = Dataset(text, tuple(text.corpus.held_out(wanted, self._options.seed)))
        torch.set_num_threads(self._threads)  # the native target left PyTorch one
        trainer = Trainer(self._target, self._options, dataset, self._work, self._budget)
        yield from trainer.run(self._save_seconds)
        yield from self._finish(trainer, dataset)

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
        options, given = self._options, self._given_text()
        self._check_room()
        model, target = self._target.model(), self._target
        device, slots = model.device, len(target.feature_layers)
        free = None if device.type == "cpu" else free_bytes(device)
        held = kv_token_bytes(model.config, target.dtype.itemsize, slots)
        prompt = max(map(len, target.template.prompts), default=0)
        longest = max(given.longest, Lengths.within(model.context_window).longest(prompt))
        rows = rows_for(options.tokens, held, model.vocab_size, free, longest)
        plan = WritingPlan(options.tokens, options.seed, rows)
        writer = Writer(model, target.template, plan, shards, given)
        rate = TokenRate()
        for done in writer.run(self._save_seconds):
            self._budget.tick()
            yield DistillStatus("writing text", writer.share, rate.at(done))
            if self._budget.left(TEXT_SHARE) < 0:
                shards.save()
                if shards.text(options.tokens).corpus.conversations > 1:
                    break

    def _given_text(self) -> Corpus:
        """The usable text of `--text`."""
        config, template = self._target.checkpoint.config, self._target.template
        if self._options.text is None:
            return Corpus.of([], config.vocab_size)
        marks = AnswerMarks(template.header, template.closing)
        text = load_corpus(Path(self._options.text).expanduser(), marks)
        if int(text.tokens.max()) >= config.vocab_size:
            raise ParameterError(f"{self._options.text}: this target did not write it")
        kept = []
        for span in map(text.span, range(text.conversations)):
            ids = text.tokens[span][: config.context_window]
            answers = text.answers[span][: config.context_window]
            if length := usable_length(ids, answers):
                kept.append((ids[:length], answers[:length]))
        return Corpus.of(kept, config.vocab_size)

    def _check_room(self) -> None:
        """Refuse before hours are spent if the labels will not fit on the disk."""
        config = self._target.checkpoint.config
        slots = len(self._target.feature_layers)
        each = token_bytes(config.vocab_size, slots * config.hidden_size)
        written = sum(file.stat().st_size for file in (self._work / SHARDS).iterdir())
        needed = self._options.tokens * each - written
        free = shutil.disk_usage(self._work).free
        if needed > free:
            raise ParameterError(
                f"{self._work}: the target's labels need {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; take fewer --tokens or an --out on another disk"
            )

    def _finish(self, trainer: Trainer, dataset: Dataset) -> Iterator[DistillStatus]:
        """Measure the student as a draft, and only then move its files to their place."""
        yield DistillStatus("measuring", 0.0, 0.0)
        draft, student = self._work / "draft", trainer.student
        agreement = trainer.agreement(dataset.held_out, trainer.unroll)
        settings, blocks = self._target.checkpoint.settings, BLOCKS[self._options.bits]
        write_draft(draft, student, settings, blocks, {})
        pair = load_pair(self._options.target, str(draft), device=self._options.device)
        text = dataset.corpus.select(dataset.held_out)
        figures = measure_draft(pair, draft, text, self._options.seed)
        rates = {"greedy": figures.greedy, "stochastic": figures.stochastic}
        write_draft(draft, student, settings, blocks, rates)
        card = model_card(self._provenance(trainer, dataset), figures, agreement)
        (draft / "README.md").write_text(card, encoding="utf-8")
        self._publish(draft)
        yield DistillStatus("measuring", 1.0, 0.0, tokens_per_step=agreement.tokens_per_step)

    def _provenance(self, trainer: Trainer, dataset: Dataset) -> Provenance:
        target, corpus = self._target, dataset.corpus
        held_out = len(dataset.held_out)
        return Provenance(
            target=target.checkpoint.name,
            licence=stated_licence(self._options.target, target.checkpoint.settings),
            command=self._options.command_line(self._out),
            options=self._options,
            layers=target.layers,
            feature_layers=target.feature_layers,
            head_rows=trainer.student.config.head_vocab_size,
            conversations=(corpus.conversations - held_out, held_out),
            tokens=(len(corpus.tokens), int(corpus.answers.sum())),
            steps=trainer.steps(),
            loss=trainer.loss(),
        )

    def _publish(self, draft: Path) -> None:
        """Move the draft's files to their place and remove intermediate ones."""
        for file in sorted(draft.iterdir()):
            os.replace(file, self._out / file.name)  # noqa: PTH105 within one file system
        write_json(self._work / FINISHED, {"seconds": round(self._budget.seconds)})
        for folder in (SHARDS, "draft"):
            shutil.rmtree(self._work / folder, ignore_errors=True)
        (self._work / "training.ckpt").unlink(missing_ok=True)
