"""The entries of a `config.json`: which of them a family reads, and the refusal of all others."""

import functools
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text("utf-8"))


@functools.cache
def known_entries() -> dict[str, Any]:
    """The tables of `config_entries.toml`."""
    return _table("config_entries.toml")


@dataclass(frozen=True, slots=True)
class Family:
    """A table of `families.toml`, which says what its parts are."""

    architecture: str
    sliding: str = ""
    features: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    read: Sequence[str] = ()
    no_effect: Sequence[str] = ()
    only_values: Mapping[str, list[Any]] = field(default_factory=dict)
    float16_overflows: bool = False

    def check(self, config: Mapping[str, Any]) -> None:
        """Refuse every entry that could change the forward pass and is not computed."""
        known = known_entries()
        own = {*self.read, *self.no_effect, *self.numbers.values()}
        only_values = {**known["only_values"], **self.only_values}
        read = {*known["read"], *known["no_effect"]} - self.only_values.keys() | own
        for name, value in config.items():
            if value is None or name in read:
                continue
            stated = f"config: {shown(name)} is {reprlib.repr(value)}"
            if name not in only_values:
                raise ModelLoadError(
                    f"{stated}; this entry is unknown here and could change what the model "
                    "computes (if it does not, take it out of config.json)"
                )
            if value not in (values := only_values[name]):
                allowed = " or ".join(map(repr, values)) or "null"
                raise ModelLoadError(f"{stated}; only {allowed} is supported")
        if config.get("embeddings_from") not in (None, "target"):
            raise ModelLoadError(
                f"config: embeddings_from is {config['embeddings_from']!r}; only 'target' is "
                "supported"
            )


@functools.cache
def families() -> dict[str, Family]:
    """By `model_type`."""
    return {name: Family(**table) for name, table in _table("families.toml").items()}


def family_names() -> str:
    return ", ".join(families())


def shown(name: str) -> str:
    """A name from an untrusted file, short and without control characters."""
    return name if name.isprintable() and len(name) < 80 else reprlib.repr(name)


def whole(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Raises KeyError, TypeError."""
    value = config[name] if default is None else config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int:  # True is an int, but no size
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return value


def flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value not in (None, True, False):
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return bool(value)


def number(config: Mapping[str, Any], name: str) -> float | None:
    """None if it is null or missing."""
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value}")
    return float(value)
