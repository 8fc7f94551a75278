"""Requests to the decode thread and its reports; the engine process takes most of them too."""

from collections.abc import Callable
from dataclasses import dataclass

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.events import Event, PairDescription, Progress
from sequoia_core.files import Record
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice

EngineFactory = Callable[[Progress], ChatEngine]
"""Makes the engine; called in the decode thread, since it takes seconds."""


class LoadAbortedError(Exception):
    """Raised out of the progress call, so that quitting need not wait for a load."""


class Ask(Record, frozen=True):
    """Answer a prompt."""

    prompt: str
    params: SamplingParams


class Race(Record, frozen=True):
    """Answer a prompt plainly and speculatively at once, outside the conversation.

    Attributes:
        turns: what comes before the prompt.
        prompt: what is asked.
        params: how to sample, for both.
    """

    turns: tuple[Turn, ...]
    prompt: str
    params: SamplingParams


class ChooseTree(Record, frozen=True):
    """Use another mode or growmap from the next answer on."""

    choice: TreeChoice


class Clear(Record, frozen=True):
    """Forget all turns."""


class Restore(Record, frozen=True):
    """Go on from exactly these turns."""

    turns: tuple[Turn, ...]


class SetSystem(Record, frozen=True):
    """Start over with another system prompt.

    Attributes:
        system_prompt: the new one.
        before: the one in use if none was set yet.
    """

    system_prompt: str | None
    before: str | None = None


Start = Clear | Restore | SetSystem
"""Says what the engine goes on from."""

Request = Ask | Race | ChooseTree | Start


class Loading(Record, frozen=True):
    """The engine is being made; `fraction` is None if not known."""

    message: str
    fraction: float | None


class LoadFailed(Record, frozen=True):
    """There will be no engine; the thread has ended."""

    message: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine takes requests."""

    description: PairDescription


@dataclass(frozen=True, slots=True)
class Answering:
    """An event of the answer to the last `Ask`; the last one is `Finished` or `Failed`."""

    event: Event


@dataclass(frozen=True, slots=True)
class Racing:
    """An event of the race that runs."""

    event: RaceEvent


@dataclass(frozen=True, slots=True)
class RaceEnded:
    """The race is over; `message` is the error it ended by, or None."""

    message: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """An event of the measuring between answers."""

    event: Event


@dataclass(frozen=True, slots=True)
class Refused:
    """A tree could not be chosen, or tuning ended by an error."""

    message: str


@dataclass(frozen=True, slots=True)
class SystemRefused:
    """A `SetSystem` failed.

    Attributes:
        message: why.
        refused: the system prompt that was wanted.
        system_prompt: the one in use.
    """

    message: str
    refused: str | None
    system_prompt: str | None


@dataclass(frozen=True, slots=True)
class OutOfSync:
    """The engine could not be taken to the turns it was to go on from.

    Every `Ask` fails until a `Restore` or a `Clear` has succeeded.

    Attributes:
        message: why.
        request: what failed.
    """

    message: str
    request: Start


Report = (
    Loading
    | LoadFailed
    | Ready
    | Answering
    | Racing
    | RaceEnded
    | Tuning
    | Refused
    | SystemRefused
    | OutOfSync
)
