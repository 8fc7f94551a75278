"""What a person chose: flags over environment over configuration file over defaults.

Owns the names, types and precedence of settings. Ranges are checked by `ChatSettings`; nothing here
knows how a setting is used.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sequoia_core.config import Lookup, Mode, Offload, WeightFormat
from sequoia_core.errors import ParameterError, SequoiaError, close_names
from sequoia_core.files import parse_toml, read_text
from sequoia_core.text.detokenizer import well_formed

from .chat_settings import ChatSettings
from .paths import config_file

ENV_PREFIX = "SEQUOIA_"
"""Of environment variables."""
_DEFAULTS = ChatSettings()
_MOST_BYTES = 1_000_000
_MODEL_FIELDS = ("pair", "target", "draft")
_REMOVED = {
    "exact": "at temperature 0 the text is plain decoding's without it; remove the line",
}
"""Settings of earlier versions, and what to do about each."""


class SettingsError(SequoiaError):
    """The configuration file or a setting in it, or in the environment, cannot be used."""


def _as_list(value: object) -> object:
    """One stop string stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _as_keys(value: object) -> object:
    """`chat.tree = "f9, ctrl+t"`, a list of keys, or a table of the context."""
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
    if not isinstance(value, str) or len(value) == 1:
        return _as_list(value)
    return tuple(key.strip() for key in value.split(",") if key.strip())


class Settings(BaseSettings):
    """Every setting, resolved. Field names are those of `ChatSettings` and `load_pair`."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    pair: str | None = None
    target: str | None = None
    draft: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    weights: WeightFormat = WeightFormat.AUTO
    offload: Offload = Offload.NONE
    insight: bool = True
    record: bool = True
    mode: Mode = _DEFAULTS.mode
    growmap: str = _DEFAULTS.growmap
    lookup: Lookup = _DEFAULTS.lookup
    temperature: float = _DEFAULTS.temperature
    top_p: float = _DEFAULTS.top_p
    top_k: int = _DEFAULTS.top_k
    seed: int | None = _DEFAULTS.seed
    max_new_tokens: int = _DEFAULTS.max_new_tokens
    system: str | None = _DEFAULTS.system
    stop: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_as_list)] = _DEFAULTS.stop
    theme: str = _DEFAULTS.theme
    accessible: bool = _DEFAULTS.accessible
    keys: Annotated[dict[str, tuple[str, ...]], BeforeValidator(_as_keys)] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the library's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file; whichever names a target or pair first decides the models."""
        file_settings = InitSettingsSource(settings_cls, _from_file(config_file()))
        layers = [source() for source in (init_settings, env_settings, file_settings)]
        decided = False
        for layer in layers:
            if decided:
                for name in _MODEL_FIELDS:
                    layer.pop(name, None)
            if "pair" in layer and "target" in layer:
                raise ParameterError("both a pair and a target are set; give one of them")
            decided = decided or "pair" in layer or "target" in layer
        return tuple(InitSettingsSource(settings_cls, layer) for layer in layers)

    @field_validator("temperature", "top_p", "top_k", "seed", "max_new_tokens", mode="before")
    @classmethod
    def _is_number(cls, value: Any) -> Any:
        """Python counts true and false among the numbers."""
        if isinstance(value, bool):
            raise ValueError("Input should be a valid number")
        return value

    @field_validator("system", "theme", "stop")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Bytes of a command line or variable that are no UTF-8 arrive as lone surrogates."""
        texts = value if isinstance(value, tuple) else (value or "",)
        if any(well_formed(text) != text for text in texts):
            raise ValueError("a byte in it is not UTF-8")
        return value

    def chat(self) -> ChatSettings:
        """The part that may change during a chat.

        Raises:
            ParameterError: a sampling value is outside its range.
        """
        return ChatSettings(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            system=self.system,
            mode=self.mode,
            growmap=self.growmap,
            lookup=self.lookup,
            theme=self.theme,
            accessible=self.accessible,
            keys=self.keys,
        )


def _from_file(path: Path) -> dict[str, Any]:
    """What the configuration file says; nothing where there is none.

    Raises:
        SettingsError: it cannot be read, or is no TOML.
    """
    try:
        return parse_toml(read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """Settings with the given flags on top.

    Raises:
        SettingsError: the configuration file or an environment variable is not understood.
        ParameterError: a flag is not.
    """
    path = config_file()
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise _explained(error, flags, path) from None


def read_flags(descriptor: str) -> dict[str, Any]:
    """The flags that the server of `sequoia web` hands over to a process.

    Args:
        descriptor: number of an inherited one, which is closed.
    """
    with os.fdopen(int(descriptor), "rb") as file:
        flags: dict[str, Any] = json.loads(file.read())
    return flags


def _explained(error: ValidationError, flags: Mapping[str, Any], path: Path) -> SequoiaError:
    """The first of the problems, and where the value came from."""
    first = error.errors(include_url=False)[0]
    name, problem = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
    if name in flags:
        return ParameterError(f"--{name.replace('_', '-')}: {problem}")
    if first["type"] == "extra_forbidden" and name in _REMOVED:
        return SettingsError(f"{path}: {name} is no setting any more: {_REMOVED[name]}")
    if first["type"] == "extra_forbidden":
        close = close_names(name, Settings.model_fields, most=3) or Settings.model_fields
        return SettingsError(f"{path}: unknown setting {name!r}; there is {', '.join(close)}")
    variable = ENV_PREFIX + name.upper()
    where = variable if variable in map(str.upper, os.environ) else f"{path}: {name}"
    return SettingsError(f"{where}: {problem}, not {first['input']!r:.60}")
