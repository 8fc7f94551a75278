"""Conversations of which the target writes both sides: the template around turns, their ends."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.distill.corpus import GRAM, PROBES, AnswerMarks, common_prefix
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.files import parse_toml
from sequoia_core.text.chat_template import ChatTemplate, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OPENINGS = Path(__file__).with_name("openings.toml")
# of answers, of which one is drawn per conversation; questions are always written at 1.0
TEMPERATURES = (0.0, 0.0, 0.3, 0.6, 0.6, 1.0)
# questions and answers; one is drawn per conversation, which also ends with its window
TURNS = (1, 1, 1, 1, 2, 2, 3, 5)
UNOPENED = 1 / 8  # share of questions that begin without a given opening
PROMPTED = 1 / 2  # share of conversations that begin with one of the user's prompts, if any
LOOP = 32  # so many repeated phrases in a row are a loop; the answer ends before them
QUESTION, ANSWER = 128, 512  # tokens of a turn; a question has at most a quarter of the window
LONGEST = 1536  # tokens of a conversation, after a prompt of the user's own

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """What rendered prompts have in common; no conversation is rendered whole."""

    beginning: Ids  # before the first user's turn
    header: Ids  # between a user's turn and its answer
    between: Ids | None  # from a closed answer to the next turn; None if turns are not appended
    closing: frozenset[int]  # any of these ends a turn
    openings: tuple[tuple[Ids, ...], ...]  # first words of a first turn, kind by kind
    follow_ups: tuple[Ids, ...]  # of a later turn
    prompts: tuple[Ids, ...]  # of the user's own, rendered up to where the answer begins

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        closing: Iterable[int],
        prompts: Sequence[str],
        longest_prompt: int,
    ) -> TemplateTokens:
        """Of prompts those of more than `longest_prompt` tokens are left out.

        Raises ModelLoadError without a chat template, ParameterError if it does not fit or no
        prompt is short enough.
        """
        if not tokenizer.chat_template:
            raise ModelLoadError(
                "the target brings no chat template, so it cannot write conversations of its own; "
                "take an instruction-tuned model"
            )
        template, marks = ChatTemplate(tokenizer, None), AnswerMarks.of(tokenizer, closing)
        beginning = common_prefix([template.whole([], probe) for probe in PROBES])
        rendered = [tuple(template.whole([], prompt)) for prompt in prompts]
        short = tuple(ids for ids in rendered if len(ids) <= longest_prompt)
        if rendered and not short:
            raise ParameterError(
                f"every prompt of the data file is longer than {longest_prompt} tokens, which is "
                "half of what the target can read"
            )

        def turns(words: Iterable[str]) -> tuple[Ids, ...]:
            rendered = (template.whole([], word)[len(beginning) :] for word in words)
            found = (tuple(ids[: len(ids) - len(marks.header)]) for ids in rendered)
            return tuple(ids for ids in found if ids)  # "A" may be in the beginning already

        words = parse_toml(OPENINGS.read_text("utf-8"))
        return cls(
            beginning=tuple(beginning),
            header=marks.header,
            between=_between(template, marks.closing),
            closing=marks.closing,
            openings=tuple(map(turns, words["openings"].values())),
            follow_ups=turns(words["follow_ups"]),
            prompts=short,
        )


def _between(template: ChatTemplate, closing: frozenset[int]) -> Ids | None:
    turns = [Turn("a", "b")]
    said = template.answered(turns)
    asked = [template.whole(turns, probe) for probe in PROBES]
    found = [ids[len(said) :] for ids in asked if ids[: len(said)] == said]
    shared = common_prefix(found) if len(found) == len(PROBES) else []
    closed = next((at for at, token in enumerate(shared) if token in closing), None)
    return None if closed is None else tuple(shared[closed + 1 :])


class Dialogue:
    """Conversation number `index` of the text of a seed; its text depends on nothing else."""

    def __init__(self, index: int, seed: int, tokens: TemplateTokens, window: int) -> None:
        self._rng = random.Random(f"{seed}/{index}")
        self._template, self._longest_question = tokens, min(QUESTION, window // 4)
        self._answer_temperature = self._rng.choice(TEMPERATURES)
        turns = self._rng.choice(TURNS)
        self._turns_left = 0 if tokens.between is None else turns - 1
        self._said: set[Ids] = set()
        self._repeated = 0
        self.ids: list[int] = []
        self.answers: list[bool] = []
        self.asking = self.finished = False
        if tokens.prompts and self._rng.random() < PROMPTED:
            self._add(self._rng.choice(tokens.prompts))
            self._turn_start = len(self.ids)
            self._longest = longest_dialogue(window, len(self.ids))
        else:
            self._longest = longest_dialogue(window, 0)
            self._ask(tokens.beginning, self._rng.choice(tokens.openings))

    @property
    def temperature(self) -> float:
        return 1.0 if self.asking else self._answer_temperature

    @property
    def must_go_on(self) -> bool:
        """Whether the next token may not close the turn, since the question is still empty."""
        return self.asking and len(self.ids) == self._turn_start

    def chance(self) -> float:
        """A uniform number for the next token; drawn even at temperature 0."""
        return self._rng.random()

    def take(self, token: int) -> None:
        if self.asking:
            self._take_of_question(token)
        else:
            self._take_of_answer(token)
        if len(self.ids) >= self._longest:
            del self.ids[self._longest :], self.answers[self._longest :]
            self.finished = True

    def _take_of_question(self, token: int) -> None:
        header = self._template.header
        closed = token in self._template.closing
        if not closed:
            self._add((token,))
        headed = tuple(self.ids[-len(header) :]) == header
        full = len(self.ids) - self._turn_start >= self._longest_question
        if closed or full or headed:
            self._add(() if headed else header)
            self.asking, self._turn_start = False, len(self.ids)

    def _take_of_answer(self, token: int) -> None:
        self.ids.append(token)
        self.answers.append(True)
        phrase = tuple(self.ids[-GRAM:])
        self._repeated = self._repeated + 1 if phrase in self._said else 0
        self._said.add(phrase)
        if token in self._template.closing:
            self.finished = not self._turns_left
            if self._turns_left and self._template.between is not None:
                self._turns_left -= 1
                self._ask(self._template.between, self._template.follow_ups)
        elif self._repeated >= LOOP:
            del self.ids[-LOOP:], self.answers[-LOOP:]
            self.finished = True
        elif len(self.ids) - self._turn_start >= ANSWER:
            self.finished = True

    def _ask(self, before: Ids, openings: Sequence[Ids]) -> None:
        self._add(before)
        self.asking, self._turn_start = True, len(self.ids)
        unopened = self._rng.random() < UNOPENED
        if not unopened or not self.ids:  # a model needs at least one token to continue
            self._add(self._rng.choice(openings))

    def _add(self, ids: Ids) -> None:
        self.ids += ids
        self.answers += [False] * len(ids)


def longest_dialogue(window: int, prompt: int) -> int:
    """Tokens of a conversation that begins with a prompt of so many, or 0."""
    return min(window, prompt + LONGEST)


class GivenText:
    """A `Dialogue` with existing text: whatever is written, it continues with its own tokens."""

    temperature, must_go_on, asking = 0.0, False, False

    def __init__(self, ids: Sequence[int], answers: Sequence[bool]) -> None:
        self._ids, self._answers = ids, answers
        self.ids: list[int] = []
        self.answers: list[bool] = []
        self.take(ids[0])

    @property
    def finished(self) -> bool:
        return len(self.ids) == len(self._ids)

    def chance(self) -> float:
        return 0.0

    def take(self, token: int) -> None:  # noqa: ARG002
        """Append the text's next token, and all up to the next answer's token."""
        end = len(self.ids) + 1
        while end < len(self._ids) and not self._answers[end]:
            end += 1
        self.ids += self._ids[len(self.ids) : end]
        self.answers += self._answers[len(self.answers) : end]
