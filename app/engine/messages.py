"""What the screen and the decode thread say to each other, and what a person may set in a chat.

Plain values only; knows neither the thread nor any widget.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import RaceEvent
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.events import Event, PairDescription
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice

LoadProgress = Callable[[str, float | None], None]
"""Told while an engine loads: what is happening, and the fraction done where it is known."""

EngineFactory = Callable[[LoadProgress], ChatEngine]
"""Makes the engine; called in the decode thread, since it takes seconds."""


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What the chat begins with and `/set` changes.

    Attributes:
        temperature: as in `SamplingParams`.
        top_p: as in `SamplingParams`.
        top_k: as in `SamplingParams`.
        seed: as in `SamplingParams`.
        max_new_tokens: as in `SamplingParams`.
        stop: as in `SamplingParams`.
        system: the system prompt, or None for the chat template's own default.
        mode: how tokens are decided.
        growmap: name or path of a tree shape, "adaptive" for one that the draft's own probabilities
            decide each step, "measured" for the fixed one that is fastest on this machine, or
            "auto" for adaptive where the native library computes both models, else measured.
        lookup: whether continuations found in the conversation are speculated with.
        theme: name of a theme.
        accessible: no box drawing, no motion, linear text, verdicts in words.
        keys: keys by the id of what they do, where a person changed them.

    Raises:
        ParameterError: a sampling value is outside its range.
    """

    temperature: float = 0.6
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()
    system: str | None = None
    mode: Mode = Mode.SEQUOIA
    growmap: str = "auto"
    lookup: Lookup = Lookup.AUTO
    theme: str = "sequoia"
    accessible: bool = False
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingParams:
        """The part of the settings that an answer is sampled with."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
        )


@dataclass(frozen=True, slots=True)
class Ask:
    """Answer a prompt."""

    prompt: str
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Race:
    """Answer a prompt plainly and speculatively at once, beside the conversation.

    Attributes:
        turns: what comes before the prompt.
        prompt: what is asked.
        params: how to sample, for both.
    """

    turns: tuple[Turn, ...]
    prompt: str
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class ChooseTree:
    """Use another mode or growmap from the next answer on."""

    choice: TreeChoice


@dataclass(frozen=True, slots=True)
class Clear:
    """Forget all turns."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Go on from exactly these turns."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class SetSystem:
    """Start over with another system prompt.

    Attributes:
        system_prompt: the other one.
        before: the one in use when nothing else was asked for yet.
    """

    system_prompt: str | None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the thread."""


Start = Clear | Restore | SetSystem
"""Says what the engine goes on from."""

Request = Ask | Race | ChooseTree | Start | Shutdown


@dataclass(frozen=True, slots=True)
class Loading:
    """The engine is being made; `fraction` is None where it is not known."""

    message: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class LoadFailed:
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
    """An event of the race under way."""

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
    """A `SetSystem` could not be done.

    Attributes:
        message: why.
        refused: the one that was wanted.
        system_prompt: the one in use.
    """

    message: str
    refused: str | None
    system_prompt: str | None


@dataclass(frozen=True, slots=True)
class Astray:
    """The engine could not be taken to the turns it was to go on from.

    It answers nothing until it is on turns that the screen knows of: every `Ask` fails before a
    `Restore` or a `Clear` has succeeded.

    Attributes:
        message: why.
        request: what could not be done.
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
    | Astray
)
