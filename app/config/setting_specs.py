"""What can be set, what it is set to and where that comes from; and how a change is kept.

Owns the list that the settings screen shows: its order, its words, and the reading of a typed
value. Knows the configuration file and no screen.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

from sequoia_core.config import Lookup, Mode, Offload, WeightFormat
from sequoia_core.errors import ParameterError

from .chat_settings import ChatSettings
from .paths import config_file
from .resolve import chosen_models, tree_choice
from .settings import ENV_PREFIX, Settings, load_settings
from .settings_file import Value, write_key, write_setting


class Source(StrEnum):
    """Where a value comes from, the strongest first."""

    CHAT = "this chat"
    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Spec:
    """A setting that can be changed.

    Attributes:
        name: as in the configuration file.
        told: what it is.
        choices: all values there are; empty where it is typed.
        live: the chat under way follows it; else the next start does.
    """

    name: str
    told: str
    choices: tuple[str, ...] = ()
    live: bool = True


def _values(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(str(each.value) for each in kind)


_SWITCH = ("false", "true")
BETWEEN_TEXTS = " | "
"""Between the texts that end an answer, where there are several."""
GROUPS: tuple[tuple[str, tuple[Spec, ...]], ...] = (
    ("Looks", (
        Spec("theme", "colours; own ones go into themes/ beside the file"),
        Spec("accessible", "no frames, no motion, linear text, verdicts in words", _SWITCH),
    )),
    ("Sampling, from the next answer on", (
        Spec("temperature", "0 is greedy"),
        Spec("top_p", "nucleus mass, above 0 and at most 1"),
        Spec("top_k", "how many tokens are kept; 0 keeps all"),
        Spec("seed", "repeats the same draws; empty for fresh ones"),
        Spec("max_new_tokens", "longest answer"),
        Spec("stop", "text that ends the answer; several with | between"),
        Spec("system", "starts the chat over; empty: the template's own"),
    )),
    ("Tree, from the next answer on", (
        Spec("mode", "how tokens are decided; ar is plain decoding", _values(Mode)),
        Spec("growmap", "tree shape: a name, a file, auto, adaptive or measured"),
        Spec("lookup", "speculate with what the conversation repeats", _values(Lookup)),
    )),
    ("Models, from the next start on", (
        Spec("pair", "a pair of the catalogue, see sequoia models", live=False),
        Spec("target", "hub id, folder or GGUF file", live=False),
        Spec("draft", "likewise; none decodes plainly", live=False),
        Spec("dtype", "number format of the weights",
             ("auto", "float32", "bfloat16", "float16"), live=False),
        Spec("weights", "what computes on CPUs; int8 is another model",
             _values(WeightFormat), live=False),
        Spec("device", "auto, cpu, cuda or cuda:N", live=False),
        Spec("offload", "where the target's layers stay meanwhile", _values(Offload), live=False),
        Spec("insight", "keep why steps came out so; costs some time and room", _SWITCH,
             live=False),
    )),
    ("Record, from the next start on", (
        Spec("record", "keep chats; without, they are gone with the window", _SWITCH, live=False),
    )),
)  # fmt: skip
"""Headings and what is under them; keys come after these."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was kept.

    Attributes:
        settings: the settings of the next start, without what goes above the file.
        value: as a setting of Python's type.
        remark: what keeps it from counting at the next start; "" for nothing.
    """

    settings: Settings
    value: Any
    remark: str


class Preferences:
    """The settings of a person: read from everywhere, changed in the file.

    Args:
        flags: settings from the command line.
        path: the configuration file; None for the usual one.
    """

    def __init__(self, flags: Mapping[str, Any] | None = None, path: Path | None = None) -> None:
        self._flags = dict(flags or {})
        self.path = path or config_file()

    def load(self) -> Settings:
        """The settings as another start would find them.

        Raises:
            SequoiaError: the file or the environment cannot be used.
        """
        return load_settings(self._flags)

    def source(self, name: str, loaded: Settings, chat: ChatSettings) -> Source:
        """Where the value in use comes from."""
        if getattr(chat, name, getattr(loaded, name)) != getattr(loaded, name):
            return Source.CHAT
        above = self._above(name)
        if above is not None:
            return above
        return Source.FILE if name in loaded.model_fields_set else Source.DEFAULT

    def write(self, name: str, text: str) -> Changed:
        """Keep a value in the file.

        Args:
            name: of the setting.
            text: as typed; empty takes it out of the file, so that the default holds.

        Raises:
            SequoiaError: the value cannot be used, or the file cannot be written.
        """
        given = text.split(BETWEEN_TEXTS) if name == "stop" else text
        above = {**self._flags} if not text else {**self._flags, name: given}
        if name == "pair" and text:
            above.pop("target", None)
        elif name == "target" and text:
            above.pop("pair", None)
        checked = load_settings(above) if text else None
        if checked is not None:
            checked.chat()
            tree_choice(checked)
            chosen_models(checked)
        write_setting(self.path, name, _for_file(checked, name) if checked else None)
        fresh = checked or self.load()
        return Changed(fresh, getattr(fresh, name), self._remark(name))

    def write_key(self, action: str, keys: tuple[str, ...] | None) -> str:
        """Keep the keys of an action in the file; None for those it has by default.

        Returns:
            What keeps it from counting at the next start; "" for nothing.

        Raises:
            SequoiaError: the file cannot be written.
        """
        write_key(self.path, action, keys)
        return self._remark("keys")

    def _above(self, name: str) -> Source | None:
        if name in self._flags:
            return Source.FLAG
        variable = ENV_PREFIX + name.upper()
        return Source.ENVIRONMENT if variable in map(str.upper, os.environ) else None

    def _remark(self, name: str) -> str:
        above = self._above(name)
        if above is None:
            return ""
        what = f"--{name.replace('_', '-')}" if above is Source.FLAG else ENV_PREFIX + name.upper()
        return f"{what} goes above it when it is given again"


def shown(value: object) -> str:
    """A value as it is typed; None is empty."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return BETWEEN_TEXTS.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _for_file(settings: Settings, name: str) -> Value:
    value: Value = settings.model_dump(mode="json")[name]
    if isinstance(value, list) and len(value) == 1:
        return str(value[0])
    if value is None:
        raise ParameterError(f"{name}: there is no such value")
    return value
