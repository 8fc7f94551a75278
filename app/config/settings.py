"""Every setting, declared once: options, variables, file, screen, `/set` and `/show` follow it."""
# ruff: noqa: RUF009 the calls in `Settings` make fields

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import EnumType, StrEnum
from functools import partial
from typing import Any, get_type_hints

from sequoia_core.config import (
    GraphChoice,
    Lookup,
    Mode,
    Offload,
    Quantize,
    SamplingParams,
    WeightFormat,
)  # fmt: skip

BETWEEN_TEXTS = " | "  # between the texts that end an answer, where several are typed


class DType(StrEnum):
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
    """What a person sees of a setting."""

    group: Group
    help: str  # one line in lower case
    values: str = ""  # placeholder in usage lines; "" where `choices` are listed instead
    unset: str = ""  # the word for None
    has_option: bool = True  # on the command line
    has_command: bool = True  # `/set` changes it
    restarts: bool = False  # a change starts the chat over
    name: str = ""  # of the field of `Settings`
    type: Any = None  # of the field

    @property
    def choices(self) -> tuple[str, ...]:
        """Every value; empty where values are typed."""
        if self.type is bool:
            return ("on", "off")
        values: Any = self.type if isinstance(self.type, EnumType) else ()
        return tuple(each.value for each in values)

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def usage(self) -> str:
        """How `/set` is called."""
        values = self.values or "|".join(self.choices)
        return f"/set {self.name} {values}" + (f"|{self.unset}" if self.unset else "")


def _setting(group: Group, default: Any, *words: Any, **options: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(group, *words, **options)})


_DEFAULTS = SamplingParams()
_models = partial(_setting, Group.MODELS)
_sampling = partial(_setting, Group.SAMPLING)
_tree = partial(_setting, Group.TREE)
_looks = partial(_setting, Group.LOOKS)
_record = partial(_setting, Group.RECORD)


@dataclass(frozen=True, slots=True)
class Settings:
    """The value of every setting. Raises ParameterError if a sampling value is out of range."""

    pair: str | None = _models(None, "a pair of the catalogue; see `sequoia models`", "NAME")
    target: str | None = _models(None, "hub id, directory, GGUF file or ollama's NAME:TAG", "MODEL")
    draft: str | None = _models(None, "the draft model, as target; or none", "MODEL")
    dtype: DType = _models(DType.AUTO, "number format of the weights")
    weights: WeightFormat = _models(
        WeightFormat.AUTO, "what computes on CPUs; int8 rounds the weights"
    )
    quantize: Quantize = _models(
        Quantize.NONE, "round the target's matrices to fewer bits: another model, near it"
    )
    device: str = _models(
        "auto", "where to compute; a list spreads the target", "auto|cpu|cuda|cuda:N[,cuda:N...]"
    )
    offload: Offload = _models(
        Offload.NONE, "where the target's layers are kept until they are used"
    )
    graphs: GraphChoice = _models(
        GraphChoice.AUTO, "whether a GPU's kernels are recorded and replayed as CUDA graphs"
    )
    tensor_parallel: int = _models(
        1, "processes, each with a device, that divide every layer of the target", "NUMBER"
    )
    context_window: int | None = _models(
        None,
        "most tokens of context; fewer take less memory (longrope: see the guide)",
        "NUMBER",
    )
    insight: bool = _models(
        True, "keep why each token was accepted or rejected; costs some time and memory"
    )
    temperature: float = _sampling(
        _DEFAULTS.temperature, "how random; 0 always takes the most probable token", "NUMBER"
    )
    top_p: float = _sampling(
        _DEFAULTS.top_p,
        "keep the most probable tokens up to this sum, above 0 and at most 1",
        "NUMBER",
    )
    top_k: int = _sampling(
        _DEFAULTS.top_k, "keep so many of the most probable tokens; 0 keeps all", "NUMBER"
    )
    seed: int | None = _sampling(
        _DEFAULTS.seed,
        "repeat random draws; whole answers with a named growmap and no lookup",
        "NUMBER",
        "random",
    )
    max_new_tokens: int = _sampling(_DEFAULTS.max_new_tokens, "longest answer", "NUMBER")
    system: str | None = _sampling(
        None, "system prompt; a change in the chat starts it over", "TEXT", "default", restarts=True
    )
    stop: tuple[str, ...] = _sampling(
        _DEFAULTS.stop,
        f"text that ends the answer; may be repeated, in the chat with{BETWEEN_TEXTS}between",
        "TEXT",
        has_command=False,
    )
    mode: Mode = _tree(Mode.SEQUOIA, "how guesses are drawn and judged; ar is plain decoding")
    growmap: str = _tree(
        "auto",
        "tree shape: a file, a name, adaptive, dynamic, measured, or auto",
        "FILE|NAME|auto|adaptive|dynamic|measured",
    )
    show_tree: bool = _tree(
        False, "larger trees than pay here, to look at them in the panel", has_option=False
    )
    lookup: Lookup = _tree(Lookup.AUTO, "also guess what the conversation repeats")
    theme: str = _looks(
        "sequoia", "colours; your own go into themes/ next to config.toml", "NAME", has_option=False
    )
    accessible: bool = _looks(False, "no frames, no motion, linear text, verdicts in words")
    vim_keys: bool = _looks(
        False, "move by h j k l g G in lists, in the tree and in the chat's text"
    )
    record: bool = _record(True, "keep chats; off: they are gone with the window")
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By the id of an action, where a person changed them."""

    def __post_init__(self) -> None:
        self.sampling()

    def sampling(self) -> SamplingParams:
        """What an answer is sampled with."""
        return SamplingParams(
            **{each.name: getattr(self, each.name) for each in fields(SamplingParams)}
        )


TYPES: dict[str, Any] = get_type_hints(Settings)
SETTINGS: dict[str, Setting] = {
    each.name: replace(each.metadata["setting"], name=each.name, type=TYPES[each.name])
    for each in fields(Settings)
    if each.metadata
}
"""Every setting but the keys, by name."""
CHAT_SETTINGS = {
    name: each for name, each in SETTINGS.items() if each.group.live and each.has_command
}
"""Those that `/set` changes and `/show` lists."""

ANSWER_SETTINGS = {
    name: each
    for name, each in CHAT_SETTINGS.items()
    if each.group in (Group.SAMPLING, Group.TREE) and not each.restarts
}
"""Those that `/again` changes for one answer."""


def shown(value: object) -> str:
    """A value as it is typed; None is empty."""
    match value:
        case None:
            return ""
        case bool():
            return "on" if value else "off"
        case tuple():
            return BETWEEN_TEXTS.join(map(str, value))
        case float():
            return f"{value:g}"
    return str(value)
