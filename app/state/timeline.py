"""A recorded chat as a timeline: what was on the screen, and when.

It grows entry by entry, so that the first moments can be shown while the rest is read. A moment is
a prompt with what came before its first step, or one step. Steps take the time that they took; the
time between an answer and the next prompt is always the same.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from sequoia_core.events import Event, Failed, Finished, Notice, PrefillDone, Step, TextDelta
from sequoia_core.recording.trace_file import Asked, Entry

from .answer import Answer
from .history import Exchange, History

PAUSE_SECONDS = 1.5
"""Between an answer and the next prompt."""
_LONGEST_SECONDS = 1e6
"""Of a step; a longer one is damaged, and takes no time."""
PROMPT_SECONDS = 0.8
"""How long a prompt is shown at least before its first step."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A step, or a prompt.

    Attributes:
        answer: index of the recorded answer.
        steps: number of its steps so far; 0 for the prompt alone.
        seconds: when it is shown, from the start of the recording.
    """

    answer: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Mark:
    """The length of an answer's parts after one of its steps."""

    spans: int = 0
    trees: int = 0
    notes: int = 0


@dataclass(slots=True)
class Recorded:
    """A recorded answer, as far as it was read.

    Attributes:
        exchange: prompt and answer.
        asked: the recorded prompt; None in a trace of version 1.
        first: index of the moment of its prompt.
        notes: notices in order.
        marks: after the prompt, and after each step.
    """

    exchange: Exchange
    asked: Asked | None
    first: int
    notes: list[str] = field(default_factory=list)
    marks: list[_Mark] = field(default_factory=lambda: [_Mark()])


class ItemKind(StrEnum):
    """The kinds of entries in a transcript."""

    PROMPT = "prompt"
    ANSWER = "answer"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Item:
    """An entry of the transcript.

    Attributes:
        kind: what it is.
        exchange: id of the exchange that it belongs to.
        text: "" for an answer, whose text may grow.
    """

    kind: ItemKind
    exchange: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen at a moment.

    Attributes:
        items: the transcript; only its last answer may be incomplete.
        recorded: the last answer.
        answer: the last answer as it was at the moment.
    """

    items: Sequence[Item]
    recorded: Recorded
    answer: Answer


class Timeline:
    """The moments of a trace.

    Attributes:
        moments: in order.
        recorded: the answers in their order.
    """

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.recorded: list[Recorded] = []
        self._by_id: dict[str, Recorded] = {}
        self._history = History()
        self._open = False
        self._waited = 0.0

    @property
    def seconds(self) -> float:
        """When the last moment is shown."""
        return self.moments[-1].seconds if self.moments else 0.0

    def add(self, entry: Entry) -> None:
        """Take in the next entry of the trace."""
        if isinstance(entry, Asked):
            self._begin(entry)
            return
        # Only where prompts are not recorded does an answer begin by itself.
        if not self.recorded or not (self._open or self.recorded[-1].asked):
            self._begin(None)
        self._take(entry)

    def at(self, seconds: float) -> int:
        """Index of the moment that is shown then."""
        return max(0, bisect_right(self.moments, seconds, key=lambda each: each.seconds) - 1)

    def answer(self, exchange: str) -> Answer:
        """The answer of an exchange, as far as it was read."""
        return self._by_id[exchange].exchange.answer

    def first_of(self, answer: int) -> int:
        """Index of the moment of an answer's prompt."""
        return self.recorded[answer].first

    def view(self, at: int) -> View:
        """What is on the screen at a moment."""
        moment = self.moments[at]
        recorded = self.recorded[moment.answer]
        exchange = recorded.exchange
        whole = moment.steps == len(recorded.marks) - 1
        answer = exchange.answer if whole else _as_of(recorded, moment.steps)
        notes = recorded.notes if whole else recorded.notes[: recorded.marks[moment.steps].notes]
        items = [
            item
            for each in self._history.before(exchange)
            for item in self._items(self._by_id[each.id], each.answer, self._by_id[each.id].notes)
        ]
        return View((*items, *self._items(recorded, answer, notes)), recorded, answer)

    def _items(self, recorded: Recorded, answer: Answer, notes: Sequence[str]) -> Iterator[Item]:
        exchange = recorded.exchange
        place = self._history.siblings(exchange).index(exchange) + 1
        if place > 1:
            text = f"answer {place} in this place: the chat went back and on from here again"
            yield Item(ItemKind.NOTE, exchange.id, text)
        yield Item(ItemKind.PROMPT, exchange.id, exchange.prompt)
        yield Item(ItemKind.ANSWER, exchange.id)
        for note in notes:
            yield Item(ItemKind.NOTE, exchange.id, note)
        if answer.failure is not None:
            yield Item(ItemKind.ERROR, exchange.id, answer.failure)

    def _begin(self, asked: Asked | None) -> None:
        last = self.recorded[-1].exchange.id if self.recorded else None
        parent = asked.parent if asked else last
        if parent not in self._by_id:
            parent = None
        name = asked.id if asked and asked.id not in self._by_id else uuid4().hex
        prompt = asked.prompt if asked else ""
        started = (asked.started if asked else None) or 0.0
        exchange = Exchange(name, parent, prompt, Answer(prompt), started)
        recorded = Recorded(exchange, asked, len(self.moments))
        self._history.add(recorded.exchange)
        self._by_id[name] = recorded
        self.recorded.append(recorded)
        self._open, self._waited = True, PROMPT_SECONDS
        self._appear(0, PAUSE_SECONDS)

    def _take(self, event: Event) -> None:
        recorded = self.recorded[-1]
        answer = recorded.exchange.answer
        answer.add(event)
        if isinstance(event, Notice):
            recorded.notes.append(event.message)
        if isinstance(event, PrefillDone):
            self._waited = max(self._waited, event.seconds)
        if isinstance(event, Step):
            took = self._waited + event.timings.total_ms / 1e3
            if not 0.0 <= took <= _LONGEST_SECONDS:
                took = 0.0
            self._waited = 0.0
            self._appear(len(answer.steps), took)
            recorded.marks.append(_Mark(len(answer.spans), len(answer.trees), len(recorded.notes)))
        elif not answer.steps and not isinstance(event, TextDelta):
            recorded.marks[0] = _Mark(0, len(answer.trees), len(recorded.notes))
        self._open = not isinstance(event, Finished | Failed)

    def _appear(self, steps: int, after: float) -> None:
        seconds = self.seconds + after if self.moments else 0.0
        self.moments.append(Moment(len(self.recorded) - 1, steps, seconds))


def _as_of(recorded: Recorded, steps: int) -> Answer:
    """The answer after so many steps."""
    whole, mark = recorded.exchange.answer, recorded.marks[steps]
    return Answer(
        whole.prompt,
        trees=whole.trees[: mark.trees],
        prefill=whole.prefill,
        spans=list(whole.spans[: mark.spans]),
        steps=whole.steps[:steps],
        statistics=whole.statistics[:steps],
    )
