"""Record and replay of events: one JSON object per line after a versioned header line.

Owns the file format and an engine that replays it. Knows nothing of models, files' whereabouts or
screens: recording is writing lines to an open text file, so a trace grows while an answer is
decoded and what was written survives a kill.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_args

from sequoia_core.config import SamplingParams
from sequoia_core.encoding import MisfitError, decode, encode
from sequoia_core.errors import ParameterError, TraceError
from sequoia_core.events import Event, Failed, Finished, FinishReason, Step, Totals
from sequoia_core.protocols import PairDescription, TreeChoice

FORMAT = "sequoia-trace"
VERSION = 1
_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


@dataclass(frozen=True, slots=True)
class Trace:
    """A recorded conversation: who decoded, and every event in order."""

    description: PairDescription
    events: tuple[Event, ...]


def write_header(file: TextIO, description: PairDescription) -> None:
    """Begin a trace; must be the first line of the file."""
    header = {"format": FORMAT, "version": VERSION, "pair": encode(description)}
    file.write(json.dumps(header) + "\n")


def write_event(file: TextIO, event: Event) -> None:
    """Append one event as one line."""
    file.write(json.dumps({"event": type(event).__name__, **encode(event)}) + "\n")


def read_trace(path: Path) -> Trace:
    """Read a whole trace.

    Raises:
        TraceError: the file is missing, damaged, or of an unknown version.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise TraceError(f"cannot read the trace {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path} is not a trace: it is not UTF-8 text") from None
    if not lines:
        raise TraceError(f"{path} is not a trace: it is empty")
    description = _read_header(path, lines[0])
    events = [_read_event(path, number, line) for number, line in enumerate(lines[1:], start=2)]
    return Trace(description, tuple(events))


class ReplayEngine:
    """A `ChatEngine` that answers with recorded events, one recorded answer per prompt.

    Deterministic: no model, no clock. When the recorded answers are used up it begins again with
    the first. Stopping, blank prompts and the chosen tree behave as in a real engine.

    Args:
        trace: what to replay.
        before: called before each event is handed out; a demonstration sleeps here.

    Raises:
        TraceError: the trace holds no complete answer.
    """

    def __init__(self, trace: Trace, before: Callable[[Event], None] | None = None) -> None:
        self._description = trace.description
        self._answers = _split_answers(trace.events)
        self._before = before
        self._next = 0
        self._choice = TreeChoice()

    @property
    def description(self) -> PairDescription:
        """The pair that was recorded."""
        return self._description

    @property
    def tree_choice(self) -> TreeChoice:
        """What was asked for last; the recorded trees are replayed whatever it is."""
        return self._choice

    def choose_tree(self, choice: TreeChoice) -> None:
        """Remember the choice."""
        self._choice = choice

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """Replay the next recorded answer; `params` do not change what was recorded.

        Raises:
            ParameterError: the prompt is blank.
        """
        del params
        if not prompt.strip():
            raise ParameterError("the prompt is blank; type a message first")
        answer = self._answers[self._next % len(self._answers)]
        self._next += 1
        return self._replay(answer, should_stop)

    def clear(self) -> None:
        """Begin again with the first recorded answer."""
        self._next = 0

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over; the recorded answers do not depend on the system prompt."""
        del system_prompt
        self.clear()

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """There is nothing to measure."""
        del should_stop
        return iter(())

    def _replay(self, answer: Sequence[Event], should_stop: Callable[[], bool]) -> Iterator[Event]:
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


def _split_answers(events: Sequence[Event]) -> list[tuple[Event, ...]]:
    answers: list[tuple[Event, ...]] = []
    answer: list[Event] = []
    for event in events:
        answer.append(event)
        if isinstance(event, Finished | Failed):
            answers.append(tuple(answer))
            answer = []
    if not answers:
        raise TraceError("the trace holds no complete answer; record one to its end")
    return answers


def _read_header(path: Path, line: str) -> PairDescription:
    header = _parse(path, 1, line)
    if header.get("format") != FORMAT:
        raise TraceError(f"{path} is not a trace: line 1 is not a {FORMAT} header")
    if header.get("version") != VERSION:
        raise TraceError(
            f"{path} is a trace of version {header.get('version')}; this program reads {VERSION}"
        )
    try:
        description: PairDescription = decode(PairDescription, header.get("pair"))
    except MisfitError as error:
        raise TraceError(f"{path} is damaged at line 1: {error}") from None
    return description


def _read_event(path: Path, number: int, line: str) -> Event:
    record = _parse(path, number, line)
    name = record.pop("event", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise TraceError(f"{path} is damaged at line {number}: unknown event {name!r}")
    try:
        event: Event = decode(kind, record)
    except MisfitError as error:
        raise TraceError(f"{path} is damaged at line {number}: {name} {error}") from None
    return event


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise TraceError(f"{path} is damaged at line {number}: not a JSON object") from None
    if not isinstance(record, dict):
        raise TraceError(f"{path} is damaged at line {number}: not a JSON object")
    return record
