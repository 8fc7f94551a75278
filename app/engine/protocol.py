"""What a window's process and the engine process say to each other: JSON, a message a line.

The line of an event is that of a trace.
"""

import json
import socket
from typing import Any

from sequoia_core.chat.race import Lane, Raced, RaceEvent
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, PairDescription
from sequoia_core.files import Record, decode, decode_tagged, encode_tagged, parse_json

from .messages import Ask, ChooseTree, Clear, LoadFailed, Loading, Race, Restore, SetSystem

_RECEIVED = 65536


class WireError(SequoiaError):
    """The other end has gone, or sends what is not understood."""


class Tune(Record, frozen=True):
    """Measure while nobody waits, until `Stop`."""


class Go(Record, frozen=True):
    """Continue after `Held`."""


class Stop(Record, frozen=True):
    """End what is running; what was decoded stays."""


class Leave(Record, frozen=True):
    """Nobody reads what is running any more."""


class Opened(Record, frozen=True):
    """The models are loaded and a conversation has begun."""

    description: PairDescription


class Held(Record, frozen=True):
    """Nothing is decoded until `Go`."""


class Done(Record, frozen=True):
    """The request was carried out."""


class Rejected(Record, frozen=True):
    """The request could not be carried out; `message` is one line fit to be shown."""

    message: str


Request = Ask | Race | ChooseTree | Clear | SetSystem | Restore | Tune
"""What a window asks for, one at a time; `Done` or `Rejected` ends each.

The events of an answer or a race are held after each step.
"""

ToEngine = Request | Go | Stop | Leave
ToWindow = Loading | LoadFailed | Opened | Held | Done | Rejected | Event | RaceEvent


def to_line(message: ToEngine | ToWindow) -> bytes:
    """The message as one line; an event of a race has two entries more."""
    if isinstance(message, Raced):
        record = encode_tagged(message.event)
        record |= {"lane": message.lane, "lane_seconds": message.seconds}
    else:
        record = encode_tagged(message)
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """The message of a line.

    Raises:
        WireError: it is none.
    """
    try:
        record = parse_json(line)
        if isinstance(record, dict) and "lane" in record:
            lane, seconds = decode(Lane, record.pop("lane")), record.pop("lane_seconds", None)
            return Raced(lane, decode_tagged(Event, record), decode(float, seconds))
        return decode_tagged(ToEngine | ToWindow, record)
    except (ValueError, SequoiaError) as error:
        raise WireError(f"not a message: {error}: {line!r:.40}") from None


class Link:
    """One end of a connection. Sending never waits: what the other end does not take is kept.

    Args:
        connection: becomes this object's own.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._received = bytearray()
        self._unsent = bytearray()

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for the other end to read."""
        return bool(self._unsent)

    def send(self, *messages: ToEngine | ToWindow) -> None:
        """Send messages in order, after what waits already.

        Raises:
            WireError: the other end has gone.
        """
        for message in messages:
            self._unsent += to_line(message)
        self.flush()

    def flush(self) -> None:
        """Send as much of what waits as the other end takes now.

        Raises:
            WireError: the other end has gone.
        """
        try:
            while self._unsent:
                del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            raise WireError(f"the connection broke: {error.strerror}") from None

    def receive(self) -> list[Any]:
        """The messages that have arrived whole.

        Raises:
            WireError: the other end has gone, or sent what is no message.
        """
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
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        return [from_line(bytes(line)) for line in lines]

    def close(self) -> None:
        """End the connection."""
        self._socket.close()
