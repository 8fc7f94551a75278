"""One conversation of which the target writes both sides: whose turn it is, and when turns end.

All random numbers come from the seed and the conversation's number, so its text depends on nothing
else. Existing text is read through the same interface.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sequoia_core.distill.corpus import GRAM
from sequoia_core.distill.template_tokens import TemplateTokens

TEMPERATURES = (0.0, 0.0, 0.3, 0.6, 0.6, 1.0)
"""Of answers; one is drawn per conversation. Questions are always written at 1.0."""

TURNS = (1, 1, 1, 1, 2, 2, 3, 5)
"""Questions and answers; one is drawn per conversation, which also ends with its window."""

UNOPENED = 1 / 8
"""Share of questions that begin without a given opening."""

PROMPTED = 1 / 2
"""Share of conversations that begin with one of the user's prompts, if there are any."""

LOOP = 32
"""So many repeated phrases in a row are a loop; the answer ends before them."""

LONGEST = 1536
"""Tokens of a conversation, after a prompt of the user's own."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Limits in tokens of a user's turn, of an answer, and of the conversation."""

    question: int
    answer: int
    window: int

    def longest(self, prompt: int) -> int:
        """Tokens of a conversation that begins with a prompt of so many, or 0."""
        return min(self.window, prompt + LONGEST)

    @classmethod
    def within(cls, window: int) -> Lengths:
        """Usual limits for a model that reads `window` tokens."""
        return cls(question=min(128, window // 4), answer=512, window=window)


class Dialogue:
    """Conversation number `index` of the text of a seed.

    Attributes:
        ids: tokens so far.
        answers: for each of them, whether the target wrote it as the assistant.
        asking: the next token belongs to a question.
        finished: the conversation has ended.
    """

    def __init__(self, index: int, seed: int, tokens: TemplateTokens, lengths: Lengths) -> None:
        self._rng = random.Random(f"{seed}/{index}")
        self._template, self._lengths = tokens, lengths
        self._answer_temperature = self._rng.choice(TEMPERATURES)
        turns = self._rng.choice(TURNS)
        self._turns_left = 0 if tokens.between is None else turns - 1
        self.asking, self._turn_start = False, 0
        self._said: set[tuple[int, ...]] = set()
        self._repeated = 0
        self.ids: list[int] = []
        self.answers: list[bool] = []
        self.finished = False
        if tokens.prompts and self._rng.random() < PROMPTED:
            self._add(self._rng.choice(tokens.prompts))
            self._turn_start = len(self.ids)
            self._longest = lengths.longest(len(self.ids))
        else:
            self._longest = lengths.longest(0)
            self._ask(tokens.beginning, self._rng.choice(tokens.openings))

    @property
    def temperature(self) -> float:
        """Of the next token."""
        return 1.0 if self.asking else self._answer_temperature

    @property
    def must_go_on(self) -> bool:
        """Whether the next token may not close the turn, since the question is still empty."""
        return self.asking and len(self.ids) == self._turn_start

    def chance(self) -> float:
        """A uniform number for the next token; drawn even at temperature 0."""
        return self._rng.random()

    def take(self, token: int) -> None:
        """Append the token that the target wrote."""
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
        full = len(self.ids) - self._turn_start >= self._lengths.question
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
            if self._turns_left and self._template.between is not None:
                self._turns_left -= 1
                self._ask(self._template.between, self._template.follow_ups)
            else:
                self.finished = True
        elif self._repeated >= LOOP:
            del self.ids[-LOOP:], self.answers[-LOOP:]
            self.finished = True
        elif len(self.ids) - self._turn_start >= self._lengths.answer:
            self.finished = True

    def _ask(self, before: tuple[int, ...], openings: Sequence[tuple[int, ...]]) -> None:
        self._add(before)
        self._turn_start = len(self.ids)
        self.asking = True
        unopened = self._rng.random() < UNOPENED
        if not unopened or not self.ids:  # a model needs at least one token to continue
            self._add(self._rng.choice(openings))

    def _add(self, ids: tuple[int, ...]) -> None:
        self.ids += ids
        self.answers += [False] * len(ids)


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
        """Whether all of it has been read."""
        return len(self.ids) == len(self._ids)

    def chance(self) -> float:
        """Not needed."""
        return 0.0

    def take(self, token: int) -> None:  # noqa: ARG002
        """Append the text's next token, and all up to the next answer's token."""
        end = len(self.ids) + 1
        while end < len(self._ids) and not self._answers[end]:
            end += 1
        self.ids += self._ids[len(self.ids) : end]
        self.answers += self._answers[len(self.answers) : end]
