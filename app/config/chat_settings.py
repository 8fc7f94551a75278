"""What a person may set in a chat while it is open."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sequoia_core.config import Lookup, Mode, SamplingParams


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
