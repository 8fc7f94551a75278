"""One conversation while the target writes both sides of it.

Owns whose turn it is and when a turn or the conversation ends. All chance comes from the seed and
the conversation's number, so its text depends on nothing else. Given text is read through the same
interface. Knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sequoia_core.distill.corpus import GRAM
from sequoia_core.distill.pieces import Pieces

TEMPERATURES = (0.0, 0.0, 0.3, 0.6, 0.6, 1.0)
"""Of answers; one is drawn per conversation. Questions are always written at 1.0."""

TURNS = (1, 1, 1, 1, 2, 2, 3, 5)
"""Questions and answers; one is drawn per conversation, which also ends with its window."""

UNOPENED = 1 / 8
"""Share of questions of which not even the first word is given."""

PROMPTED = 1 / 2
"""Share of conversations that begin with one of the person's prompts, if there are any."""

LOOP = 32
"""So many phrases said before, one after the other, are a loop; the answer ends before them."""


LONGEST = 1536
"""Tokens of a conversation, after a prompt of the person's own."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Limits in tokens.

    Attributes:
        question: of a user's turn.
        answer: of an answer.
        window: of the conversation.
        written: of it, without a given prompt.
    """

    question: int
    answer: int
    window: int
    written: int = LONGEST

    def longest(self, prompt: int) -> int:
        """Tokens of a conversation that begins with a prompt of so many, or 0."""
        return min(self.window, prompt + self.written)

    @classmethod
    def within(cls, window: int) -> Lengths:
        """Usual limits for a model that reads `window` tokens."""
        return cls(question=min(128, window // 4), answer=512, window=window)


class Dialogue:
    """Conversation number `index`.

    Args:
        index: from 0.
        seed: of the whole text.
        pieces: of the chat template.
        lengths: limits.

    Attributes:
        ids: tokens so far.
        answers: for each of them, whether the target wrote it as the assistant.
        asking: whether the next token is of a question.
        finished: nothing more is to be said.
    """

    def __init__(self, index: int, seed: int, pieces: Pieces, lengths: Lengths) -> None:
        self._rng = random.Random(f"{seed}/{index}")
        self._pieces, self._lengths = pieces, lengths
        self._answer_temperature = self._rng.choice(TEMPERATURES)
        turns = self._rng.choice(TURNS)
        self._turns_left = 0 if pieces.between is None else turns - 1
        self.asking, self._turn_start = False, 0
        self._said: set[tuple[int, ...]] = set()
        self._repeated = 0
        self.ids: list[int] = []
        self.answers: list[bool] = []
        self.finished = False
        if pieces.prompts and self._rng.random() < PROMPTED:
            self._add(self._rng.choice(pieces.prompts))
            self._turn_start = len(self.ids)
            self._longest = lengths.longest(len(self.ids))
        else:
            self._longest = lengths.longest(0)
            self._ask(pieces.beginning, self._rng.choice(pieces.openings))

    @property
    def temperature(self) -> float:
        """For the token that comes next."""
        return 1.0 if self.asking else self._answer_temperature

    @property
    def must_go_on(self) -> bool:
        """Whether the next token may not close the turn: an empty question teaches nothing."""
        return self.asking and len(self.ids) == self._turn_start

    def chance(self) -> float:
        """A uniform number for the next token; drawn even if it is not needed."""
        return self._rng.random()

    def take(self, token: int) -> None:
        """Go on with the token that the target said."""
        if self.asking:
            self._take_of_question(token)
        else:
            self._take_of_answer(token)
        if len(self.ids) >= self._longest:
            del self.ids[self._longest :], self.answers[self._longest :]
            self.finished = True

    def _take_of_question(self, token: int) -> None:
        header = self._pieces.header
        closed = token in self._pieces.closing
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
        if token in self._pieces.closing:
            if self._turns_left and self._pieces.between is not None:
                self._turns_left -= 1
                self._ask(self._pieces.between, self._pieces.follow_ups)
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
        if not unopened or not self.ids:  # a model must have something to go on from
            self._add(self._rng.choice(openings))

    def _add(self, ids: tuple[int, ...]) -> None:
        self.ids += ids
        self.answers += [False] * len(ids)


class GivenText:
    """A conversation that is given, teacher-forced: a `Dialogue` that takes only the text's tokens.

    Args:
        ids: all of it.
        answers: for each of them, whether the target wrote it as the assistant.
    """

    temperature, must_go_on, asking = 0.0, False, False

    def __init__(self, ids: Sequence[int], answers: Sequence[bool]) -> None:
        self._ids, self._answers = ids, answers
        self.ids: list[int] = []
        self.answers: list[bool] = []
        self.take(ids[0])

    @property
    def finished(self) -> bool:
        """Whether all of it was taken."""
        return len(self.ids) == len(self._ids)

    def chance(self) -> float:
        """Nothing is left to it."""
        return 0.0

    def take(self, token: int) -> None:  # noqa: ARG002
        """Go on with the text's next token, and what stands between it and the next answer's."""
        end = len(self.ids) + 1
        while end < len(self._ids) and not self._answers[end]:
            end += 1
        self.ids += self._ids[len(self.ids) : end]
        self.answers += self._answers[len(self.answers) : end]
