"""A recorded chat as a timeline, which grows entry by entry: what was on the screen, and when."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from uuid import uuid4

from sequoia_core.events import Event, Notice, PrefillDone, Step
from sequoia_core.recording.trace_file import Asked, Caption, Entry

from .answer import Answer
from .history import Exchange, History

PAUSE_SECONDS = 1.5  # between an answer and the next prompt
PROMPT_SECONDS = 0.8  # how long a prompt is shown at least before its first step
_LONGEST_SECONDS = 1e6  # of a step; a longer one is damaged, and takes no time


@dataclass(frozen=True, slots=True)
class Moment:
    """A step, a prompt with what came before its first step, or a caption on one of these."""

    answer: int  # index of the recorded answer
    steps: int  # number of its steps so far; 0 for the prompt alone
    seconds: float  # when it is shown, from the start of the recording
    caption: Caption | None = None  # of this moment, or of the last one with a caption before it
    captioned: bool = False  # the caption is of this moment

    @property
    def node(self) -> int | None:
        """The node that its caption explains."""
        return self.caption.node if self.captioned and self.caption is not None else None


@dataclass(slots=True)
class Recorded:
    """A recorded answer, as far as it was read."""

    exchange: Exchange
    asked: Asked | None  # None in a trace of version 1
    first: int  # index of the moment of its prompt
    notes: list[tuple[int, str]] = field(default_factory=list)  # step from which each is shown

    def answer_after(self, steps: int) -> Answer:
        """The answer as it was after so many steps."""
        whole = self.exchange.answer
        if steps == len(whole.steps):
            return whole
        return Answer(
            whole.prompt,
            start=whole.start,
            trees=[each for each in whole.trees if each.since <= max(1, steps)],
            prefill=whole.prefill,
            spans=whole.spans[: bisect_right(whole.spans, steps, key=lambda span: span.step)],
            lookups=whole.lookups,
            steps=whole.steps[:steps],
            statistics=whole.statistics[:steps],
        )


class ItemKind(StrEnum):
    PROMPT = "prompt"
    ANSWER = "answer"
    NOTE = "note"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Item:
    kind: ItemKind
    exchange: str  # id of the exchange that it belongs to
    text: str = ""  # "" for an answer, whose text may grow


@dataclass(frozen=True, slots=True)
class View:
    """What is on the screen at a moment."""

    items: Sequence[Item]  # the transcript
    recorded: Recorded  # the last answer
    answer: Answer  # the last answer as it was at the moment
    moment: Moment


class Timeline:
    """The moments of a trace, and its answers, in their order."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self.recorded: list[Recorded] = []
        self._by_id: dict[str, Recorded] = {}
        self.seconds = 0.0  # when the last moment, with its caption, is over
        self.captioned = False  # it has captions
        self._history = History()
        self._waited = 0.0

    def add(self, entry: Entry) -> None:
        if isinstance(entry, Asked):
            self._begin(entry)
            return
        if isinstance(entry, Caption):
            if self.moments:
                self._caption(entry)
            return
        last = self.recorded[-1] if self.recorded else None
        # only where prompts are not recorded does an answer begin by itself
        if last is None or (last.asked is None and last.exchange.answer.done):
            self._begin(None)
        self._take(entry)

    def at(self, seconds: float) -> int:
        """Index of the moment that is shown then."""
        return max(0, bisect_right(self.moments, seconds, key=lambda each: each.seconds) - 1)

    def answer(self, exchange: str) -> Answer:
        """The answer of an exchange, as far as it was read."""
        return self._by_id[exchange].exchange.answer

    def view(self, at: int) -> View:
        moment = self.moments[at]
        recorded = self.recorded[moment.answer]
        answer = recorded.answer_after(moment.steps)
        items: list[Item] = []
        for each in self._history.before(recorded.exchange):
            items += self._items(self._by_id[each.id], each.answer)
        items += self._items(recorded, answer)
        return View(items, recorded, answer, moment)

    def _items(self, recorded: Recorded, answer: Answer) -> Iterator[Item]:
        exchange, whole = recorded.exchange, recorded.exchange.answer
        place = self._history.siblings(exchange).index(exchange) + 1
        if place > 1:
            text = f"answer {place} in this place: the chat went back and on from here again"
            yield Item(ItemKind.NOTE, exchange.id, text)
        yield Item(ItemKind.PROMPT, exchange.id, exchange.prompt)
        yield Item(ItemKind.ANSWER, exchange.id)
        for since, note in recorded.notes:
            if answer is whole or since <= max(1, len(answer.steps)):
                yield Item(ItemKind.NOTE, exchange.id, note)
        if answer.failure is not None:
            yield Item(ItemKind.ERROR, exchange.id, answer.failure)

    def _begin(self, asked: Asked | None) -> None:
        if asked is None:
            last = self.recorded[-1].exchange.id if self.recorded else None
            exchange = Exchange(uuid4().hex, last, "", Answer(""), 0.0)
        else:
            name = uuid4().hex if asked.id in self._by_id else asked.id
            parent = asked.parent if asked.parent in self._by_id else None
            answer = Answer(asked.prompt)
            exchange = Exchange(name, parent, asked.prompt, answer, asked.started or 0.0)
        recorded = Recorded(exchange, asked, len(self.moments))
        self._history.add(exchange)
        self._by_id[exchange.id] = recorded
        self.recorded.append(recorded)
        self._waited = PROMPT_SECONDS
        self._appear(0, PAUSE_SECONDS)

    def _take(self, event: Event) -> None:
        recorded = self.recorded[-1]
        answer = recorded.exchange.answer
        answer.add(event)
        match event:
            case Notice(_, message):
                recorded.notes.append((len(answer.steps) + 1, message))
            case PrefillDone():
                self._waited = max(self._waited, event.seconds)
            case Step():
                took = self._waited + event.timings.total_ms / 1e3
                if not 0.0 <= took <= _LONGEST_SECONDS:
                    took = 0.0
                self._waited = 0.0
                self._appear(len(answer.steps), took)

    def _appear(self, steps: int, after: float) -> None:
        self.seconds += after if self.moments else 0.0
        # a caption is of its answer
        caption = self.moments[-1].caption if steps and self.moments else None
        self.moments.append(Moment(len(self.recorded) - 1, steps, self.seconds, caption))

    def _caption(self, caption: Caption) -> None:
        """Show a caption: from the moment before it on, or after the caption that it has."""
        self.captioned = True
        last = self.moments[-1]
        shown = replace(last, caption=caption, captioned=True, seconds=self.seconds)
        if last.captioned:
            self.moments.append(shown)
        else:
            self.moments[-1] = shown
        self.seconds += caption.seconds
