"""What is said to the decode thread and what it reports, between processes as lines of JSON."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Race, RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, PairDescription, Progress
from sequoia_core.files import Record, TaggedRecord, decode, encode, parse_json
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice

EngineFactory = Callable[[Progress], ChatEngine]
"""Makes the engine; called in the decode thread, since it takes seconds."""

_RECEIVED = 65536


class LoadAbortedError(Exception):
    """Raised out of the progress call, so that quitting need not wait for a load."""


class Ask(TaggedRecord, frozen=True):
    prompt: str
    params: SamplingParams


class ContinueAnswer(TaggedRecord, frozen=True):
    """Go on with the answer of a turn, which follows those there are, where its text ends."""

    turn: Turn
    params: SamplingParams


class ChooseTree(TaggedRecord, frozen=True):
    choice: TreeChoice


class Clear(TaggedRecord, frozen=True):
    """Forget all turns."""


class Restore(TaggedRecord, frozen=True):
    turns: tuple[Turn, ...]


class SetSystem(TaggedRecord, frozen=True):
    """Start over with another system prompt."""

    system_prompt: str | None
    before: str | None = None  # the one in use if none was set yet


Start = Clear | Restore | SetSystem  # says what the engine goes on from

Request = Ask | ContinueAnswer | Race | ChooseTree | Start


@dataclass(frozen=True, slots=True)
class Switch:
    """Load other models in place of those in use; it stays in this process."""

    # both receive the engine in use, None if there is none or it was released
    check: Callable[[ChatEngine | None], bool]  # raises what speaks against it; whether both fit
    load: Callable[[ChatEngine | None, Progress], ChatEngine]
    load_again: EngineFactory  # loads those in use, should the others fail
    turns: tuple[Turn, ...]  # to go on from


class Loading(TaggedRecord, frozen=True):
    """The engine is being made; `fraction` is None if not known."""

    message: str
    fraction: float | None


class LoadFailed(TaggedRecord, frozen=True):
    message: str


class Ready(TaggedRecord, frozen=True):
    """The models are loaded, a conversation has begun, and requests are taken."""

    description: PairDescription


class SwitchFailed(Record, frozen=True):
    """Other models could not be loaded."""

    message: str
    description: PairDescription | None  # what is in use; None if nothing is any more


class Answering(Record, frozen=True):
    """An event of the answer to the last `Ask`; the last one is `Finished` or `Failed`."""

    event: Event


class RaceEnded(Record, frozen=True):
    """The race is over; `message` is the error it ended by."""

    message: str | None


class Refused(TaggedRecord, frozen=True):
    """What was asked for could not be done; `message` is one line fit to be shown."""

    message: str


class SystemRefused(Record, frozen=True):
    message: str
    refused: str | None  # the system prompt that was wanted
    system_prompt: str | None  # the one in use


class Unreached(Record, frozen=True):
    """The engine did not get to the turns to go on from; the next answer tries again."""

    message: str


Report = (
    Loading | LoadFailed | Ready | SwitchFailed | Answering | RaceEvent | RaceEnded | Event
    | Refused | SystemRefused | Unreached
)  # fmt: skip
"""A bare `Event` is one of the measuring between answers."""


# Between processes


class WireError(SequoiaError):
    """The other end has gone, or sends what is not understood."""


class Tune(TaggedRecord, frozen=True):
    """Measure while nobody waits, until `Stop`."""


class Go(TaggedRecord, frozen=True):
    """Continue after `Held`."""


class Stop(TaggedRecord, frozen=True):
    """End what is running; what was decoded stays."""


class Held(TaggedRecord, frozen=True):
    """Nothing is decoded until `Go`."""


class Done(TaggedRecord, frozen=True):
    """The request was carried out."""


RemoteRequest = Request | Tune
"""What a window asks for, one at a time; `Done` or `Refused` ends each.

The events of an answer or a race are held after each step.
"""

ToEngine = RemoteRequest | Go | Stop
ToWindow = Loading | LoadFailed | Ready | Held | Done | Refused | Event | RaceEvent


def to_line(message: ToEngine | ToWindow) -> bytes:
    """The message as one line, an event as in a trace."""
    return json.dumps(encode(message), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The message of a line, or WireError."""
    try:
        return decode(ToEngine | ToWindow, parse_json(line))
    except (ValueError, SequoiaError) as error:
        raise WireError(f"not a message: {error}: {line!r:.40}") from None


class Link:
    """One end of a connection, which becomes this object's own.

    Sending never waits: what the other end does not take is kept. All but `close` raise WireError
    if the other end has gone or sent what is no message.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._received = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._unsent)

    def send(self, *messages: ToEngine | ToWindow) -> None:
        """Send messages in order, after what waits already."""
        for message in messages:
            self._unsent += to_line(message)
        self.flush()

    def flush(self) -> None:
        """Send as much of what waits as the other end takes now."""
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireError(f"the connection broke: {error.strerror}") from None

    def receive(self) -> list[Any]:
        """The messages that have arrived whole."""
        try:
            while part := self._socket.recv(_RECEIVED):
                self._received += part
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireError(f"the connection broke: {error.strerror}") from None
        else:
            if b"\n" not in self._received:
                raise WireError("the other end has gone")
        *lines, self._received = self._received.split(b"\n")
        return [from_line(bytes(line)) for line in lines]

    def close(self) -> None:
        self._socket.close()
