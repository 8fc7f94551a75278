"""Settings from the command line, environment variables and the configuration file."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from sequoia_core.errors import ParameterError, SequoiaError, close_names
from sequoia_core.files import parse_toml, read_text
from sequoia_core.text.detokenizer import well_formed

from .paths import config_file
from .settings import SETTINGS, TYPES, Settings

_ENV_PREFIX = "SEQUOIA_"
_MOST_BYTES = 1_000_000
_KINDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    int | None: "a whole number",
    str: "a text",
    str | None: "a text",
    tuple[str, ...]: "a text or a list of texts",
    Mapping[str, tuple[str, ...]]: "a table with the keys of each action",
}
_SWITCH = {"on": True, "yes": True, "off": False, "no": False}
_TEXTS = ("system", "theme", "stop")  # names of files are no texts: they may hold any byte
_REMOVED = {
    "exact": "at temperature 0 the text is plain decoding's without it; remove the line",
}
"""Settings of earlier versions, and what to do about each."""


class SettingsError(SequoiaError):
    """The configuration file, or a setting in it or in the environment, cannot be used."""


class Source(StrEnum):
    """Where a value comes from, the strongest first."""

    CHAT = "this chat"
    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Loaded:
    """All settings, and the sources of those that have no default value."""

    settings: Settings
    sources: Mapping[str, Source]


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """The settings with these of the command line; raises as `load`."""
    return load(flags).settings


def load(flags: Mapping[str, Any]) -> Loaded:
    """Flags over environment over configuration file over defaults.

    The strongest place that names a target or a pair decides the models; weaker ones do not count.

    Raises:
        SettingsError: the configuration file or an environment variable is not understood.
        ParameterError: a flag is not, or a sampling value is outside its range.
    """
    layers = {Source.FLAG: flags, Source.ENVIRONMENT: _environment(), Source.FILE: _file()}
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for source, layer in layers.items():
        known = set(sources)
        if known & {"pair", "target"}:
            known |= {"pair", "target", "draft"}
        given = {name: value for name, value in layer.items() if name not in known}
        if "pair" in given and "target" in given:
            raise ParameterError("both a pair and a target are set; give one of them")
        for name, value in given.items():
            try:
                values[name] = read_value(name, value)
            except ValueError as error:
                kind = ParameterError if source is Source.FLAG else SettingsError
                raise kind(f"{_place(name, source)}: {error}") from None
        sources |= dict.fromkeys(given, source)
    return Loaded(Settings(**values), sources)


def above_file(name: str, flags: Mapping[str, Any]) -> str:
    """The flag or variable that takes precedence over the file; "" if neither is given."""
    if name in flags:
        return _place(name, Source.FLAG)
    return _place(name, Source.ENVIRONMENT) if name in _environment() else ""


def read_value(name: str, value: Any) -> Any:
    """The value of a setting from text or from what TOML holds.

    Raises ValueError, which says what is wanted, if it has another type.
    """
    kind = TYPES[name]
    if name == "keys":
        value = _as_keys(value)
    elif name == "stop" and isinstance(value, str):
        value = (value,)
    elif kind is bool and isinstance(value, str):
        value = _SWITCH.get(value.lower(), value)
    try:
        read = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        wanted = _KINDS.get(kind)
        if wanted is None:
            *others, last = SETTINGS[name].choices
            wanted = f"{', '.join(others)} or {last}"
        raise ValueError(f"should be {wanted}, not {value!r:.60}") from None
    if name in _TEXTS:
        for text in read if isinstance(read, tuple) else (read or "",):
            if well_formed(text) != text:
                raise ValueError("a byte in it is not UTF-8")
    return read


def as_toml(settings: Settings) -> dict[str, Any]:
    """Every setting that has a value, in the types of TOML."""
    values = msgspec.to_builtins(settings)
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def read_flags(descriptor: str) -> dict[str, Any]:
    """The flags that `sequoia web` passes to a process, by the number of a file descriptor."""
    with os.fdopen(int(descriptor), "rb") as file:
        flags: dict[str, Any] = json.loads(file.read())
    return flags


def _as_keys(value: object) -> object:
    """`chat.tree = "f9, ctrl+t"`, a list of keys, or a table of the context."""
    if isinstance(value, str):  # an environment variable
        with suppress(ValueError):
            value = json.loads(value)
    if not isinstance(value, Mapping):
        return value
    keys: dict[str, object] = {}
    for name, given in value.items():
        if isinstance(given, Mapping):
            keys |= {f"{name}.{inner}": _key_list(each) for inner, each in given.items()}
        else:
            keys[name] = _key_list(given)
    return keys


def _key_list(value: object) -> object:
    if value == ",":
        return (value,)
    if not isinstance(value, str):
        return value
    return tuple(key.strip() for key in value.split(",") if key.strip())


def _environment() -> dict[str, Any]:
    """Variables in either case; others that begin with the prefix are not ours."""
    given = {
        variable.upper().removeprefix(_ENV_PREFIX).lower(): value
        for variable, value in os.environ.items()
        if variable.upper().startswith(_ENV_PREFIX)
    }
    return {name: value for name, value in given.items() if name in TYPES}


def _file() -> dict[str, Any]:
    """Entries of the configuration file; none where there is no file."""
    path = config_file()
    try:
        table = parse_toml(read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    for name in table:
        if name in _REMOVED:
            raise SettingsError(f"{path}: {name} is no setting any more: {_REMOVED[name]}")
        if name not in TYPES:
            close = close_names(name, TYPES, most=3) or TYPES
            raise SettingsError(f"{path}: unknown setting {name!r}; there is {', '.join(close)}")
    return table


def _place(name: str, source: Source) -> str:
    if source is Source.FLAG:
        return f"--{name.replace('_', '-')}"
    if source is Source.ENVIRONMENT:
        return _ENV_PREFIX + name.upper()
    return f"{config_file()}: {name}"
