"""From a target to a draft: labelled text, training, measurement, export.

Owns the order of the stages and their files in a work directory, so that each can be killed at any
moment and gone on with to the same result. What a stage does is its own module's affair. Prints
nothing: it yields how far it has come.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from sequoia_core.distill.card import Story, model_card, stated_licence
from sequoia_core.distill.clock import Clock
from sequoia_core.distill.corpus import AnswerMarks, Corpus, load_tokens, worth_learning
from sequoia_core.distill.dialogue import Lengths
from sequoia_core.distill.export import write_draft
from sequoia_core.distill.generate import Writer, WritingPlan, rows_for
from sequoia_core.distill.measured import measure_pair
from sequoia_core.distill.options import BLOCKS, FINISHED, Options, remember, write_json
from sequoia_core.distill.schooling import Lesson, Schooling
from sequoia_core.distill.shards import Shards, token_bytes
from sequoia_core.distill.status import Pace, Status
from sequoia_core.distill.subject import Subject
from sequoia_core.errors import ParameterError
from sequoia_core.model.device import free_bytes
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from sequoia_core.model.loading.pair import load_pair

WORK = "work"
"""Folder inside the draft's own where files in progress lie."""

SHARDS = "shards"
"""Folder in it of the text with the target's labels."""

HELD_OUT = 1 / 20
MOST_HELD_OUT = 60

TEXT_SHARE = 0.5
"""Of the time given, for writing text."""


class Distillation:
    """One run in one directory.

    Args:
        options: what to do, from `options_for`.
        out: the directory that `--draft` will take.
        save_seconds: between two states of text and training on the disk.

    Raises:
        ModelLoadError: the target cannot be one: not Llama-like, a draft, without a chat template.
        ParameterError: an option does not fit the target.
    """

    def __init__(self, options: Options, out: Path, save_seconds: float = 60.0) -> None:
        self._options, self._out, self._work = options, out, out / WORK
        self._save_seconds = save_seconds
        self._threads = torch.get_num_threads()
        self._subject = Subject.of(options)
        self._clock = Clock(self._work / "clock.json", options.minutes)

    def run(self) -> Iterator[Status]:
        """Do what is still to be done; yields after every piece of work."""
        if (self._work / FINISHED).exists():
            return
        remember(self._work, self._options)
        self._same_target()
        shards = Shards(self._work / SHARDS, self._subject.checkpoint.config.vocab_size)
        file = self._work / "text.npz"
        if not file.exists():
            yield from self._write_text(shards)
        text = shards.text(self._options.tokens)
        if not file.exists():
            text.corpus.save(file)
        corpus = text.corpus
        wanted = min(MOST_HELD_OUT, int(HELD_OUT * corpus.conversations) or 1)
        held_out = tuple(corpus.held_out(wanted, self._options.seed))
        lesson = Lesson(text, held_out)
        torch.set_num_threads(self._threads)  # the native target left PyTorch one
        schooling = Schooling(self._subject, self._options, lesson, self._work, self._clock)
        yield from schooling.run(self._save_seconds)
        yield from self._finish(schooling, lesson)

    def _same_target(self) -> None:
        """Refuse to mix the text of two targets in one draft."""
        file, digest = self._work / "target.json", self._subject.checkpoint.digest()
        if not file.exists():
            write_json(file, {"digest": digest})
        elif json.loads(file.read_text("utf-8"))["digest"] != digest:
            raise ParameterError(
                f"{self._subject.checkpoint.name} has changed since this was begun; "
                "begin in another --out"
            )

    def _write_text(self, shards: Shards) -> Iterator[Status]:
        """Take of the text that was given as much as is wanted, and add what is missing."""
        options, given = self._options, self._given_text()
        self._check_room()
        model, subject = self._subject.model(), self._subject
        device, slots = model.device, len(subject.feature_layers)
        free = None if device.type == "cpu" else free_bytes(device)
        held = kv_token_bytes(model.config, subject.dtype.itemsize, slots)
        prompt = max(map(len, subject.pieces.prompts), default=0)
        longest = max(given.longest, Lengths.within(model.context_window).longest(prompt))
        rows = rows_for(options.tokens, held, model.vocab_size, free, longest)
        plan = WritingPlan(options.tokens, options.seed, rows)
        writer = Writer(model, subject.pieces, plan, shards, given)
        pace = Pace()
        for done in writer.run(self._save_seconds):
            self._clock.tick()
            yield Status("writing text", writer.share, pace.at(done))
            if self._clock.left(TEXT_SHARE) < 0:
                shards.save()
                if shards.text(options.tokens).corpus.conversations > 1:
                    break

    def _given_text(self) -> Corpus:
        config = self._subject.checkpoint.config
        if self._options.text is None:
            return Corpus.of([], config.vocab_size)
        pieces = self._subject.pieces
        marks = AnswerMarks(pieces.header, pieces.closing)
        text = load_tokens(Path(self._options.text).expanduser(), marks)
        if int(text.tokens.max()) >= config.vocab_size:
            raise ParameterError(f"{self._options.text}: this target did not write it")
        kept = []
        for span in map(text.span, range(text.conversations)):
            ids = text.tokens[span][: config.context_window]
            answers = text.answers[span][: config.context_window]
            if length := worth_learning(ids, answers):
                kept.append((ids[:length], answers[:length]))
        return Corpus.of(kept, config.vocab_size)

    def _check_room(self) -> None:
        """Say before hours are spent that the labels will not fit on the disk."""
        config = self._subject.checkpoint.config
        slots = len(self._subject.feature_layers)
        each = token_bytes(config.vocab_size, slots * config.hidden_size)
        written = sum(file.stat().st_size for file in (self._work / SHARDS).iterdir())
        needed = self._options.tokens * each - written
        free = shutil.disk_usage(self._work).free
        if needed > free:
            raise ParameterError(
                f"{self._work}: the target's labels need {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; take fewer --tokens or an --out on another disk"
            )

    def _finish(self, schooling: Schooling, lesson: Lesson) -> Iterator[Status]:
        """Measure the student as a draft, and only then put it where it is looked for."""
        yield Status("measuring", 0.0, 0.0)
        depths, draft = schooling.unroll, self._work / "draft"
        agreed = schooling.judged(lesson.held_out, depths)
        settings, student = self._subject.checkpoint.settings, schooling.student
        blocks = BLOCKS[self._options.bits]
        write_draft(draft, student, settings, blocks, {})
        pair = load_pair(self._options.target, str(draft), device=self._options.device)
        text = lesson.corpus.select(lesson.held_out)
        measured = measure_pair(pair, draft, text, self._options.seed)
        rates = {"greedy": measured.greedy, "stochastic": measured.stochastic}
        write_draft(draft, student, settings, blocks, rates)
        story = self._story(schooling, lesson)
        (draft / "README.md").write_text(model_card(story, measured, agreed), encoding="utf-8")
        self._put_out(draft)
        yield Status("measuring", 1.0, 0.0, tokens_per_step=agreed.tokens_per_step)

    def _story(self, schooling: Schooling, lesson: Lesson) -> Story:
        subject, corpus = self._subject, lesson.corpus
        held_out = len(lesson.held_out)
        return Story(
            target=subject.checkpoint.name,
            licence=stated_licence(self._options.target, subject.checkpoint.settings),
            command=self._options.command_line(self._out),
            options=self._options,
            layers=subject.layers,
            feature_layers=subject.feature_layers,
            head_rows=schooling.student.config.head_vocab_size,
            conversations=(corpus.conversations - held_out, held_out),
            tokens=(len(corpus.tokens), int(corpus.answers.sum())),
            steps=schooling.steps(),
            loss=schooling.loss(),
        )

    def _put_out(self, draft: Path) -> None:
        """Move the files to their place; what only served to make them is removed."""
        for file in sorted(draft.iterdir()):
            os.replace(file, self._out / file.name)  # noqa: PTH105 within one file system
        write_json(self._work / FINISHED, {"seconds": round(self._clock.seconds)})
        for folder in (SHARDS, "draft"):
            shutil.rmtree(self._work / folder, ignore_errors=True)
        (self._work / "training.ckpt").unlink(missing_ok=True)
