"""All of an answer but its steps, so that an old chat is shown without reading its trees."""

from collections.abc import Iterable

import msgspec

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

from ..state.answer import Answer, Chosen
from ..state.stats import Statistics

CUT_OFF = "cut off: the program was ended in the middle of this answer"


class Digest(msgspec.Struct, forbid_unknown_fields=True):
    """All of an answer but its steps; grows with the answer's events.

    Attributes:
        deltas: its text as it came.
        token_ids: as in `Answer`.
        trees: as in `Answer`.
        prefill: reading the prompt, or None before it was done.
        statistics: after the last step, or None before the first.
        finished: how it ended, or None if it failed.
        failure: why it failed.
    """

    deltas: list[TextDelta] = []
    token_ids: list[int] = []
    trees: list[Chosen] = []
    prefill: PrefillDone | None = None
    statistics: Statistics | None = None
    finished: Finished | None = None
    failure: str | None = None

    def add(self, event: Event, steps: int) -> None:
        """Take in the next event, except for the statistics.

        Args:
            event: of the answer.
            steps: of the answer before the event.
        """
        match event:
            case TextDelta():
                self.deltas.append(event)
            case Step():
                self.token_ids += event.token_ids
            case TreeChosen():
                self.trees.append(Chosen(event, steps + 1))
            case PrefillDone():
                self.prefill = event
            case Finished():
                self.finished = event
            case Failed(message):
                self.failure = message

    def close(self, failure: str) -> None:
        """An answer that has not ended failed by `failure`."""
        if self.finished is None and self.failure is None:
            self.failure = failure

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


def digest_of(events: Iterable[Event], failure: str = CUT_OFF) -> Digest:
    """The digest of an answer; without an end, it failed by `failure`."""
    digest, statistics = Digest(), Statistics()
    for event in events:
        digest.add(event, statistics.totals.steps)
        if isinstance(event, Step):
            digest.statistics = statistics = statistics.plus(event)
    digest.close(failure)
    return digest


def plain_digest(text: str, ending: str) -> Digest:
    """A digest of an answer of which only the text is known."""
    deltas = [TextDelta(0, text, (Piece(text, 0),))] if text else []
    return Digest(deltas, failure=f"{ending}; its figures are not in the record")
