"""A recorded chat as a value, and an engine that replays it without a model or a clock."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Race, RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError, TraceError
from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PairDescription,
    Progress,
    Step,
    StopCheck,
    Totals,
)
from sequoia_core.recording.trace_file import Asked, Caption, Entry, TraceReader
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded chat; since version 2 the entries have the prompts before their answers."""

    description: PairDescription
    entries: tuple[Entry, ...]
    note: str = ""  # see `TraceReader.note`

    @property
    def events(self) -> tuple[Event, ...]:
        """The entries without prompts and captions."""
        return tuple(each for each in self.entries if not isinstance(each, Asked | Caption))


def read_trace(path: Path) -> Trace:
    """Read a whole trace; see `TraceReader` for errors."""
    reader = TraceReader(path)
    entries = tuple(reader)
    return Trace(reader.description, entries, reader.note)


class ReplayEngine(ChatEngine):
    """Answers with recorded events, one recorded answer per prompt.

    When the recorded answers are used up it begins again with the first. Stopping, blank prompts
    and the chosen tree behave as in a real engine; turns and the system prompt change nothing.

    Args:
        trace: what to replay.
        before: called before each event is handed out; a demonstration sleeps here.

    Raises:
        TraceError: the trace holds no complete answer.
    """

    def __init__(self, trace: Trace, before: Callable[[Event], None] | None = None) -> None:
        self.description = trace.description
        self.tree_choice = TreeChoice()
        self._answers = _split_answers(trace.entries)
        self._before = before
        self._next = 0

    @override
    def reply(self, prompt: str, params: SamplingParams, should_stop: StopCheck) -> Iterator[Event]:
        if not prompt.strip():
            raise ParameterError("the prompt is blank; type a message first")
        answer = self._answers[self._next % len(self._answers)]
        self._next += 1
        return self._replay(answer, should_stop)

    @override
    def continue_answer(
        self, turn: Turn, params: SamplingParams, should_stop: StopCheck
    ) -> Iterator[Event]:
        return self.reply(turn.prompt, params, should_stop)

    @override
    def clear(self) -> None:
        self._next = 0

    @override
    def restore(self, turns: Sequence[Turn]) -> None:
        pass

    @override
    def set_system_prompt(self, system_prompt: str | None) -> None:
        self.clear()

    @override
    def race(self, race: Race, should_stop: StopCheck, progress: Progress) -> Iterator[RaceEvent]:
        raise ParameterError("nothing to race: this is a recording, no model is loaded")

    @override
    def tune(self, should_stop: StopCheck) -> Iterator[Event]:
        return iter(())

    def _replay(self, answer: Iterable[Event], should_stop: StopCheck) -> Iterator[Event]:
        totals = Totals()
        between_steps = True
        for event in answer:
            if between_steps and not isinstance(event, Finished | Failed) and should_stop():
                yield Finished(FinishReason.CANCELLED, totals)
                return
            if self._before is not None:
                self._before(event)
            between_steps = isinstance(event, Step)
            if isinstance(event, Step):
                totals = totals.plus(event)
            yield event


def _split_answers(entries: Sequence[Entry]) -> list[tuple[Event, ...]]:
    """The complete answers; a recorder that was killed leaves one that is not."""
    answers: list[tuple[Event, ...]] = []
    answer: list[Event] = []
    for entry in entries:
        if isinstance(entry, Asked):
            answer = []
            continue
        if isinstance(entry, Caption):
            continue
        answer.append(entry)
        if isinstance(entry, Finished | Failed):
            answers.append(tuple(answer))
            answer = []
    if not answers:
        raise TraceError("the trace holds no complete answer; record one to its end")
    return answers
