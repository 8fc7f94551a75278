"""What a window's process and the engine process say to each other: JSON, a message a line.

Owns the messages and a connection that carries them. The line of an event is that of a trace. Knows
neither the engine nor who draws what it says.
"""

import json
import socket
from dataclasses import dataclass
from typing import Any, get_args

from sequoia_core.chat.race import Lane, Raced, RaceEvent
from sequoia_core.config import Lookup, Mode
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, PairDescription
from sequoia_core.recording.json_codec import MisfitError, brief, decode, encode
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap

from .messages import Ask, Clear, LoadFailed, Loading, Race, Restore, SetSystem

_RECEIVED = 65536
_EVENT = "event"
_OTHER = "is"


class WireError(SequoiaError):
    """The other end has gone, or says what is not understood."""


@dataclass(frozen=True, slots=True)
class Choose:
    """Use another tree; the fields are those of `TreeChoice`."""

    mode: Mode
    growmap: GrowMap | None
    adaptive: bool | None
    lookup: Lookup

    @classmethod
    def of(cls, choice: TreeChoice) -> "Choose":
        """The message that asks for it."""
        return cls(choice.mode, choice.growmap, choice.adaptive, choice.lookup)

    @property
    def choice(self) -> TreeChoice:
        """What is asked for."""
        return TreeChoice(self.mode, self.growmap, adaptive=self.adaptive, lookup=self.lookup)


@dataclass(frozen=True, slots=True)
class Tune:
    """Measure while nobody waits, until `Stop`."""


@dataclass(frozen=True, slots=True)
class Go:
    """Run on, after `Held`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End what is under way; what there is stays."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Nobody listens to what is under way any more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The models are loaded and a conversation has begun."""

    description: PairDescription


@dataclass(frozen=True, slots=True)
class Held:
    """There is more to come after `Go`; until then nothing is decoded."""


@dataclass(frozen=True, slots=True)
class Done:
    """The request was carried out."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request could not be carried out; `message` is one line fit to be shown."""

    message: str


Request = Ask | Race | Choose | Clear | SetSystem | Restore | Tune
"""What a window asks for, one at a time; `Done` or `Rejected` ends each.

The events of an answer or a race are held after each step.
"""

ToEngine = Request | Go | Stop | Leave
ToWindow = Loading | LoadFailed | Opened | Held | Done | Rejected | Event | RaceEvent

_KINDS: dict[str, Any] = {
    kind.__name__: kind for union in (ToEngine, ToWindow) for kind in get_args(union)
}


def to_line(message: ToEngine | ToWindow) -> bytes:
    """The message as one line."""
    return json.dumps(_record(message), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The message of a line.

    Raises:
        WireError: it is none.
    """
    try:
        return _message(json.loads(line))
    except MisfitError as error:
        raise WireError(f"not a message: {error}: {brief(line)}") from None
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise WireError(f"not a message: {brief(line)}") from None


def _record(message: ToEngine | ToWindow) -> dict[str, Any]:
    name = type(message).__name__
    if isinstance(message, Raced):
        lane, event = message.lane, _record(message.event)
        return {_OTHER: name, "lane": lane, "raced": event, "seconds": message.seconds}
    return {_EVENT if isinstance(message, Event) else _OTHER: name, **encode(message)}


def _message(record: dict[str, Any]) -> Any:
    kind = _KINDS[record.pop(_EVENT if _EVENT in record else _OTHER)]
    if kind is Raced:
        seconds = decode(float, record["seconds"])
        return Raced(Lane(record["lane"]), _message(record["raced"]), seconds)
    return decode(kind, record)


class Link:
    """One end of a connection. Sending never waits: what the other end is slow to take is kept.

    Args:
        connection: becomes this object's own.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._coming = bytearray()
        self._leaving = bytearray()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._leaving)

    def send(self, *messages: ToEngine | ToWindow) -> None:
        """Send these, in order, behind what waits already.

        Raises:
            WireError: the other end has gone.
        """
        for message in messages:
            self._leaving += to_line(message)
        self.flush()

    def flush(self) -> None:
        """Send as much of what waits as the other end takes now.

        Raises:
            WireError: the other end has gone.
        """
        try:
            while self._leaving:
                del self._leaving[: self._socket.send(self._leaving)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireError(f"the connection broke: {error.strerror}") from None

    def receive(self) -> list[Any]:
        """The messages that have arrived whole.

        Raises:
            WireError: the other end has gone, or says what is no message.
        """
        try:
            while part := self._socket.recv(_RECEIVED):
                self._coming += part
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireError(f"the connection broke: {error.strerror}") from None
        else:
            if b"\n" not in self._coming:
                raise WireError("the other end has gone")
        *lines, rest = self._coming.split(b"\n")
        self._coming = rest
        return [from_line(bytes(line)) for line in lines]

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
