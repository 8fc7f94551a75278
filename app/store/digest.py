"""All of a finished answer but its steps, so that a chat is shown without reading its trees."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    Piece,
    PrefillDone,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.files import Record

from ..state.answer import Answer, Chosen
from ..state.stats import Statistics

CUT_OFF = "cut off: the program was ended in the middle of this answer"


class Digest(Record, frozen=True):
    """All of an answer but its steps.

    Attributes:
        deltas: its text as it came.
        token_ids: as in `Answer`.
        trees: as in `Answer`.
        prefill: reading the prompt, or None before it was done.
        statistics: after the last step, or None before the first.
        finished: how it ended, or None if it failed.
        failure: why it failed.
    """

    deltas: tuple[TextDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    trees: tuple[Chosen, ...] = ()
    prefill: PrefillDone | None = None
    statistics: Statistics | None = None
    finished: Finished | None = None
    failure: str | None = None

    @property
    def text(self) -> str:
        """The text as the model wrote it."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def ending(self) -> str:
        """How it ended, in a word or two."""
        if self.finished is not None:
            return self.finished.reason.value
        return "cut off" if self.failure == CUT_OFF else "failed"

    def answer(self, prompt: str) -> Answer:
        """The answer as the screen remembers an old one."""
        answer = Answer(prompt)
        for delta in self.deltas:
            answer.add(delta)
        answer.token_ids.extend(self.token_ids)
        answer.trees.extend(self.trees)
        answer.prefill = self.prefill
        if self.statistics is not None:
            answer.statistics.append(self.statistics)
        answer.finished, answer.failure = self.finished, self.failure
        answer.forget_steps()
        return answer


@dataclass(slots=True)
class DigestBuilder:
    """Makes the digest of an answer from its events."""

    deltas: list[TextDelta] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    trees: list[Chosen] = field(default_factory=list)
    prefill: PrefillDone | None = None
    finished: Finished | None = None
    failure: str | None = None
    steps: int = 0

    def add(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case TextDelta():
                self.deltas.append(event)
            case Step():
                self.steps += 1
                self.token_ids += event.token_ids
            case TreeChosen():
                self.trees.append(Chosen(event, self.steps + 1))
            case PrefillDone():
                self.prefill = event
            case Finished():
                self.finished = event
            case Failed(message):
                self.failure = message

    def digest(self, statistics: Statistics | None, failure: str | None = None) -> Digest:
        """The digest of the events so far; without an end, the answer failed by `failure`."""
        ended = self.finished is not None or self.failure is not None
        return Digest(
            tuple(self.deltas),
            tuple(self.token_ids),
            tuple(self.trees),
            self.prefill,
            statistics,
            self.finished,
            self.failure if ended else failure,
        )


def digest_of(events: Iterable[Event], failure: str = CUT_OFF) -> Digest:
    """The digest of an answer; without an end, it failed by `failure`."""
    builder, statistics = DigestBuilder(), Statistics()
    for event in events:
        builder.add(event)
        if isinstance(event, Step):
            statistics = statistics.plus(event)
    return builder.digest(statistics if statistics.totals.steps else None, failure)


def plain_digest(text: str, ending: str) -> Digest:
    """A digest of an answer of which only the text is known."""
    deltas = (TextDelta(0, text, (Piece(text, 0),)),) if text else ()
    return Digest(deltas, failure=f"{ending}; its figures are not in the record")
