"""The settings, each declared once, in `Settings`.

From it come the options of the command line, the environment variables, the entries of the
configuration file, the settings screen, `/set` and `/show`. Values are read by `load`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum, EnumType, StrEnum
from typing import Annotated, Any, get_args, get_type_hints

from sequoia_core.config import Lookup, Mode, Offload, SamplingParams, WeightFormat

BETWEEN_TEXTS = " | "
"""Between the texts that end an answer, where several are typed."""


class DType(StrEnum):
    """Number formats of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Group(StrEnum):
    """Headings over settings, in the order of the settings screen."""

    LOOKS = "Looks"
    SAMPLING = "Sampling"
    TREE = "Tree"
    MODELS = "Models"
    RECORD = "Record"

    @property
    def live(self) -> bool:
        """Whether the open chat follows a change; otherwise the next start does."""
        return self not in (Group.MODELS, Group.RECORD)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person sees of a setting.

    Attributes:
        group: where it is listed, and when a change applies.
        help: one line in lower case.
        values: placeholder for a value in usage lines; "" where `choices` are listed instead.
        unset: the word for None.
        has_option: whether the command line has an option for it.
        has_command: whether `/set` changes it.
        restarts: whether a change starts the chat over.
        name: as in the configuration file; taken from the field of `Settings`.
        type: of its values; taken from the field.
    """

    group: Group
    help: str
    values: str = ""
    unset: str = ""
    has_option: bool = True
    has_command: bool = True
    restarts: bool = False
    name: str = ""
    type: Any = None

    @property
    def choices(self) -> tuple[str, ...]:
        """Every value; empty where values are typed."""
        if self.type is bool:
            return ("on", "off")
        values: Any = self.type if isinstance(self.type, EnumType) else ()
        return tuple(each.value for each in values)

    @property
    def option(self) -> str:
        """On the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def usage(self) -> str:
        """How `/set` is called."""
        values = self.values or "|".join(self.choices)
        return f"/set {self.name} {values}" + (f"|{self.unset}" if self.unset else "")


@dataclass(frozen=True, slots=True)
class Settings:
    """The value of every setting.

    Raises:
        ParameterError: a sampling value is outside its range.
    """

    pair: Annotated[
        str | None, Setting(Group.MODELS, "a pair of the catalogue; see `sequoia models`", "NAME")
    ] = None
    target: Annotated[
        str | None, Setting(Group.MODELS, "hub id, directory or GGUF file", "MODEL")
    ] = None
    draft: Annotated[
        str | None,
        Setting(Group.MODELS, "the draft model, as target; none decodes plainly", "MODEL"),
    ] = None
    dtype: Annotated[DType, Setting(Group.MODELS, "number format of the weights")] = DType.AUTO
    weights: Annotated[
        WeightFormat, Setting(Group.MODELS, "what computes on CPUs; int8 is another model")
    ] = WeightFormat.AUTO
    device: Annotated[
        str,
        Setting(
            Group.MODELS,
            "where to compute; a list spreads the target",
            "auto|cpu|cuda|cuda:N[,cuda:N...]",
        ),
    ] = "auto"
    offload: Annotated[
        Offload, Setting(Group.MODELS, "where the target's layers are kept until they compute")
    ] = Offload.NONE
    insight: Annotated[
        bool, Setting(Group.MODELS, "keep why each step came out so; costs some time and memory")
    ] = True
    temperature: Annotated[float, Setting(Group.SAMPLING, "0 is greedy", "NUMBER")] = 0.6
    top_p: Annotated[
        float, Setting(Group.SAMPLING, "nucleus mass, above 0 and at most 1", "NUMBER")
    ] = 1.0
    top_k: Annotated[
        int, Setting(Group.SAMPLING, "how many tokens are kept; 0 keeps all", "NUMBER")
    ] = 0
    seed: Annotated[
        int | None,
        Setting(
            Group.SAMPLING,
            "repeat draws; answers too with a named growmap and no lookup",
            "NUMBER",
            unset="random",
        ),
    ] = None
    max_new_tokens: Annotated[int, Setting(Group.SAMPLING, "longest answer", "NUMBER")] = 512
    system: Annotated[
        str | None,
        Setting(
            Group.SAMPLING,
            "system prompt; a change in the chat starts it over",
            "TEXT",
            unset="default",
            restarts=True,
        ),
    ] = None
    stop: Annotated[
        tuple[str, ...],
        Setting(
            Group.SAMPLING,
            f"text that ends the answer; may be repeated, in the chat with{BETWEEN_TEXTS}between",
            "TEXT",
            has_command=False,
        ),
    ] = ()
    mode: Annotated[Mode, Setting(Group.TREE, "how tokens are decided; ar is plain decoding")] = (
        Mode.SEQUOIA
    )
    growmap: Annotated[
        str,
        Setting(
            Group.TREE,
            "tree shape: a file, a name, adaptive, measured, or auto",
            "FILE|NAME|auto|adaptive|measured",
        ),
    ] = "auto"
    lookup: Annotated[
        Lookup, Setting(Group.TREE, "speculate with what the conversation repeats")
    ] = Lookup.AUTO
    theme: Annotated[
        str,
        Setting(
            Group.LOOKS,
            "colours; your own go into themes/ beside config.toml",
            "NAME",
            has_option=False,
        ),
    ] = "sequoia"
    accessible: Annotated[
        bool, Setting(Group.LOOKS, "no frames, no motion, linear text, verdicts in words")
    ] = False
    record: Annotated[
        bool, Setting(Group.RECORD, "keep chats; without, they are gone with the window")
    ] = True
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the id of an action, where a person changed them."""

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingParams:
        """What an answer is sampled with."""
        names = (each.name for each in fields(SamplingParams))
        return SamplingParams(**{name: getattr(self, name) for name in names})


SETTINGS = {
    name: replace(kind.__metadata__[0], name=name, type=get_args(kind)[0])
    for name, kind in get_type_hints(Settings, include_extras=True).items()
    if hasattr(kind, "__metadata__")
}
"""Every setting but the keys, by name."""
CHAT_SETTINGS = {
    name: each for name, each in SETTINGS.items() if each.group.live and each.has_command
}
"""Those that `/set` changes and `/show` lists."""


def shown(value: object) -> str:
    """A value as it is typed; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return BETWEEN_TEXTS.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
