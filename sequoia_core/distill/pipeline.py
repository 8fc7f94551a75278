"""From a target to a draft: text, teacher, training, measurement, export.

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

from sequoia_core.distill.card import Story, model_card, stated_licence
from sequoia_core.distill.clock import Clock
from sequoia_core.distill.corpus import AnswerMarks, Corpus, load_tokens
from sequoia_core.distill.export import write_draft
from sequoia_core.distill.generate import TextStore, Writer, WritingPlan, rows_for
from sequoia_core.distill.measured import measure_pair
from sequoia_core.distill.options import FINISHED, Options, remember, write_json
from sequoia_core.distill.schooling import Lesson, Schooling
from sequoia_core.distill.status import Pace, Status
from sequoia_core.distill.subject import Subject
from sequoia_core.distill.teacher import TOP, TeacherCache, TeacherShape
from sequoia_core.errors import ParameterError
from sequoia_core.pair import load_pair

WORK = "work"
"""Folder inside the draft's own where files in progress lie."""

LOOPS = 0.2
"""Share of repeated phrases beyond which a conversation is cut; see `Corpus.without_loops`."""

HELD_OUT = 1 / 20
MOST_HELD_OUT = 60

TEXT_SHARE = 0.4
"""Of the time given, for writing text; the teacher then takes about a third as long."""


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
        self._subject = Subject.of(options)
        self._clock = Clock(self._work / "clock.json", options.minutes)

    def run(self) -> Iterator[Status]:
        """Do what is still to be done; yields after every piece of work."""
        if (self._work / FINISHED).exists():
            return
        remember(self._work, self._options)
        self._same_target()
        file = self._work / "text.npz"
        if not file.exists():
            yield from self._write_text(file)
        corpus = Corpus.load(file)
        wanted = min(MOST_HELD_OUT, int(HELD_OUT * corpus.conversations) or 1)
        held_out = tuple(corpus.held_out(wanted, self._options.seed))
        lesson = Lesson(corpus, self._cache(corpus), held_out)
        yield from self._teach(lesson)
        schooling = Schooling(self._subject, self._options, lesson, self._work, self._clock)
        yield from schooling.run(self._save_seconds)
        yield from self._finish(schooling, lesson)

    def _same_target(self) -> None:
        """Refuse to mix the text and the teacher of two targets in one draft."""
        file, digest = self._work / "target.json", self._subject.checkpoint.digest()
        if not file.exists():
            write_json(file, {"digest": digest})
        elif json.loads(file.read_text("utf-8"))["digest"] != digest:
            raise ParameterError(
                f"{self._subject.checkpoint.name} has changed since this was begun; "
                "begin in another --out"
            )

    def _write_text(self, file: Path) -> Iterator[Status]:
        """Take of the text that was given as much as is wanted, add what is missing, cut loops."""
        given = self._given_text()
        missing = self._options.tokens - len(given.tokens)
        if missing > 0:
            config, dtype = self._subject.checkpoint.config, self._subject.dtype
            rows = rows_for(config, missing, dtype.itemsize)
            plan = WritingPlan(missing, self._options.seed, given.conversations, rows)
            store = TextStore(self._work / "parts", config.vocab_size)
            writer = Writer(self._subject.model(), self._subject.pieces, plan, store)
            pace = Pace()
            for done in writer.run(self._save_seconds):
                self._clock.tick()
                yield Status("writing text", writer.share, pace.at(done))
                if self._clock.left(TEXT_SHARE) < 0 and writer.text().conversations > 1:
                    break
            given = given.joined(writer.text())
        given.without_loops(LOOPS).save(file)

    def _given_text(self) -> Corpus:
        vocab_size = self._subject.checkpoint.config.vocab_size
        if self._options.text is None:
            return Corpus.of([], vocab_size)
        pieces = self._subject.pieces
        marks = AnswerMarks(pieces.header, pieces.closing)
        text = load_tokens(Path(self._options.text).expanduser(), marks)
        if int(text.tokens.max()) >= vocab_size:
            raise ParameterError(f"{self._options.text}: this target did not write it")
        return text.beginning(self._options.tokens)

    def _cache(self, corpus: Corpus) -> TeacherCache:
        config = self._subject.checkpoint.config
        shape = TeacherShape(
            tokens=len(corpus.tokens),
            top=min(TOP, config.vocab_size),
            feature_layers=self._subject.feature_layers,
            hidden_size=config.hidden_size,
        )
        return TeacherCache(self._work / "teacher", shape)

    def _teach(self, lesson: Lesson) -> Iterator[Status]:
        if lesson.cache.done < lesson.corpus.conversations:
            pace = Pace()
            for done in lesson.cache.fill(self._subject.model(), lesson.corpus):
                self._clock.tick()
                yield Status("asking the target", done / len(lesson.corpus.tokens), pace.at(done))

    def _finish(self, schooling: Schooling, lesson: Lesson) -> Iterator[Status]:
        """Measure the student as a draft, and only then put it where it is looked for."""
        yield Status("measuring", 0.0, 0.0)
        depths, draft = schooling.unroll, self._work / "draft"
        agreed = schooling.judged(lesson.held_out, depths)
        settings, student = self._subject.checkpoint.settings, schooling.student
        write_draft(draft, student, settings, {})
        pair = load_pair(self._options.target, str(draft), device=self._options.device)
        text = lesson.corpus.select(lesson.held_out)
        measured = measure_pair(pair, draft, text, self._options.seed)
        rates = {"greedy": measured.greedy, "stochastic": measured.stochastic}
        write_draft(draft, student, settings, rates)
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
        for folder in ("teacher", "parts", "draft"):
            shutil.rmtree(self._work / folder, ignore_errors=True)
        (self._work / "training.ckpt").unlink(missing_ok=True)
