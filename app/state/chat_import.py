"""Chats from files: exported ones, recordings, and messages in the format of OpenAI's API."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from sequoia_core.events import (
    AnswerStart,
    Event,
    Failed,
    Finished,
    FinishReason,
    PairDescription,
    Piece,
    TextDelta,
    Totals,
)  # fmt: skip
from sequoia_core.files import MisfitError, Record, decode, parse_json, read_text
from sequoia_core.recording.trace_file import Asked, Caption, TraceReader, check_event

from .answer import Answer
from .chat_session import ChatError
from .history import Exchange, History

_MOST_BYTES = 64_000_000
_CUT = "cut off: the recording ends in the middle of this answer"
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class _Exported(Record, frozen=True):
    """An exchange of an exported chat, as `screens/chat/export.py` writes it."""

    id: str
    parent: str | None
    started: datetime
    prompt: str
    answer: str
    finish_reason: FinishReason | None
    error: str | None
    figures: Any  # of steps that the file does not have
    given: str = ""  # the beginning of `answer`
    edited: bool = False
    settings: dict[str, str] = msgspec.field(default_factory=dict)  # as in `AnswerStart`


class _ExportedChat(Record, frozen=True):
    format: str
    version: int
    exported: str
    pair: PairDescription | None
    branch: tuple[str, ...]
    exchanges: tuple[_Exported, ...]
    system: str | None = None


@dataclass(slots=True)
class ImportedChat:
    """A chat of a file with new ids.

    Attributes:
        events: of each answer, by the id of its exchange.
        unanswered: the last message if it has no answer, else "".
        target: the name of the model that answered, "" if the file does not say.
    """

    history: History = field(default_factory=History)
    events: dict[str, Sequence[Event]] = field(default_factory=dict)
    system: str | None = None
    target: str = ""
    unanswered: str = ""
    _ids: dict[str, str] = field(default_factory=dict)  # new ones, by those of the file

    def add(self, asked: Asked, events: Sequence[Event], started: float) -> None:
        """Add an exchange. Raises ChatError if one of that id is there, or none of its parent's."""
        if asked.id in self._ids:
            raise ChatError(f"two of its messages have the id {asked.id!r:.60}")
        if asked.parent is not None and asked.parent not in self._ids:
            raise ChatError(f"the message before {asked.id!r:.60} is missing")
        self._ids[asked.id] = exchange = uuid4().hex
        parent = None if asked.parent is None else self._ids[asked.parent]
        answer = Answer(asked.prompt)
        for event in events:
            answer.add(event)
        if not answer.done:
            events = [*events, Failed(_CUT)]
            answer.add(events[-1])
        answer.forget_steps()
        self.history.add(Exchange(exchange, parent, asked.prompt, answer, started))
        self.events[exchange] = events

    def show(self, exchange: str) -> None:
        """Let the branch run through the exchange that has this id in the file."""
        if exchange in self._ids:
            self.history.select(self.history.exchanges[self._ids[exchange]])


def read_chat(path: Path, now: float) -> ImportedChat:
    """The chat of a file; `now`, in seconds since the epoch, is when messages without a date began.

    Raises SequoiaError if there is no such file or it holds no chat.
    """
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return _from_trace(TraceReader(path), now)
        found = parse_json(read_text(path, _MOST_BYTES))
        if isinstance(found, dict) and "format" in found:
            return _from_export(decode(_ExportedChat, found))
        messages = found.get("messages") if isinstance(found, dict) else found
        if not isinstance(messages, list):
            raise ChatError("it holds no chat: /export FILE.json, or a list of messages")
        return _from_messages(messages, now)
    except OSError as error:
        raise ChatError(f"{path}: {error.strerror or error}") from None
    except (ValueError, ChatError) as error:
        raise ChatError(f"{path} cannot be imported: {error}") from None


def _from_trace(reader: TraceReader, now: float) -> ImportedChat:
    chat = ImportedChat(target=reader.description.target)
    asked: Asked | None = None
    events: list[Event] = []
    for entry in reader:
        if isinstance(entry, Asked):
            if asked is not None:
                chat.add(asked, events, asked.started or now)
            asked, events = entry, []
        elif not isinstance(entry, Caption):
            events.append(entry)
    if asked is None:
        raise ChatError("it names no message, as recordings of the first version")
    chat.add(asked, events, asked.started or now)
    chat.show(asked.id)
    return chat


def _from_export(found: _ExportedChat) -> ImportedChat:
    if (found.format, found.version) != ("sequoia-chat", 1):
        raise ChatError(
            f"it is {found.format!r:.40} of version {found.version}, which is not known"
        )
    chat = ImportedChat(system=found.system, target=found.pair.target if found.pair else "")
    for each in found.exchanges:
        reason = each.finish_reason or FinishReason.CANCELLED
        end = Finished(reason, Totals()) if each.error is None else Failed(each.error)
        asked = Asked(each.prompt, each.id, each.parent, each.started.timestamp())
        check_event(asked)
        start = AnswerStart(each.settings, each.given, edited=each.edited)
        decoded = _written(each.answer.removeprefix(each.given))
        special = [start] if start != AnswerStart() else []
        chat.add(asked, [*special, *decoded, end], each.started.timestamp())
    if not found.exchanges:
        raise ChatError("it has no messages")
    chat.show(found.branch[-1] if found.branch else "")
    return chat


def _from_messages(messages: Sequence[Any], now: float) -> ImportedChat:
    """Messages of one role after each other are one, with a blank line between them."""
    said: list[tuple[str, str]] = []
    for number, message in enumerate(messages, start=1):
        role, text = _message(number, message)
        if said and said[-1][0] == role:
            said[-1] = role, f"{said[-1][1]}\n\n{text}"
        else:
            said.append((role, text))
    chat = ImportedChat()
    if said and said[0][0] == "system":
        chat.system = said.pop(0)[1]
    if any(role == "system" for role, _ in said):
        raise ChatError("it has a system message in the middle; only the first one can be used")
    if not said or said[0][0] != "user":
        raise ChatError("its first message is not a user's")
    if len(said) % 2:
        chat.unanswered = said.pop()[1]
    end = Finished(FinishReason.STOP, Totals())
    for number, ((_, prompt), (_, answer)) in enumerate(zip(said[::2], said[1::2], strict=True)):
        asked = Asked(prompt, str(number), str(number - 1) if number else None)
        chat.add(asked, [*_written(answer), end], now)
    return chat


def _message(number: int, message: Any) -> tuple[str, str]:
    """Role and text of a message of OpenAI's format."""
    if not isinstance(message, dict):
        raise MisfitError(f"message {number} is not an object")
    role = message.get("role")
    if role not in _ROLES:
        raise MisfitError(
            f"message {number} is by {role!r:.40}; only user, assistant and system can be"
        )
    more = [name for name, value in message.items() if value and name not in ("role", "content")]
    if more:
        raise MisfitError(f"message {number} has {more[0]!r:.40}, which a chat cannot keep")
    return _ROLES[role], "\n\n".join(_texts(number, message.get("content")))


def _texts(number: int, content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else None
            what = kind if isinstance(kind, str) and kind != "text" else "no text"
            raise MisfitError(f"message {number} has {what!r:.40}; only text can be imported")
        yield text


def _written(text: str) -> Iterable[TextDelta]:
    return [TextDelta(0, text, (Piece(text, 0),))] if text else []
