"""Plain values as JSON values, and back: frozen dataclasses, enums and tuples.

Owns how such a value is written and what is told when a JSON value does not fit. Knows no file, no
format and no kind of value in particular: the type hints say what is expected.
"""

import types
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

Reader = Callable[[Any], Any]
"""Makes a value of one type from what `json.loads` gave for it."""

_LONGEST_TOLD = 40


class MisfitError(Exception):
    """A JSON value does not fit the type it should have; reads on after that type's name."""


def encode(value: Any) -> Any:
    """What `json.dumps` takes for a value; `decode` makes the value of it again."""
    if value is None or isinstance(value, str | int | float):
        return value  # an enum that is a string is written as one
    if is_dataclass(value):
        return {name: encode(getattr(value, name)) for name in _written(value.__class__)}
    if isinstance(value, tuple):
        if value and isinstance(value[0], str | int | float):
            return list(value)  # a step has hundreds of these, and all items are of one type
        return [encode(item) for item in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def decode(kind: Any, value: Any) -> Any:
    """The value of type `kind` that `value`, from `json.loads`, stands for.

    Args:
        kind: str, int, float, bool, an enum, a dataclass of such, a tuple of any number of
            them, or one of these or None.
        value: what was read.

    Raises:
        MisfitError: it stands for none.
    """
    return _reader(kind)(value)


@cache
def _written(kind: Any) -> tuple[str, ...]:
    """The fields that a dataclass is made from."""
    return tuple(field.name for field in fields(kind) if field.init)


def _needed(kind: Any) -> set[str]:
    """The fields without a default."""
    return {
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING
    }


@cache
def _reader(kind: Any) -> Reader:
    """The reader of a type; made once, since a step is made of hundreds of values."""
    if isinstance(kind, type) and is_dataclass(kind):
        return _fields(kind, _written(kind), _needed(kind))
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (arm,) = (arm for arm in get_args(kind) if arm is not types.NoneType)
        return _optional(_reader(arm))
    if origin is tuple:
        item = get_args(kind)[0]
        return _tuple(_reader(item), item)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _enum(kind)
    return _float if kind is float else _plain(kind)


def _optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _tuple(read: Reader, item: Any) -> Reader:
    as_they_are = {item} & {str, int, float, bool}

    def read_all(value: Any) -> Any:
        if not isinstance(value, list):
            raise MisfitError(f"wants a list, not {brief(value)}")
        if set(map(type, value)) == as_they_are:
            return tuple(value)
        return tuple([read(each) for each in value])

    return read_all


def _fields(kind: Any, names: tuple[str, ...], needed: set[str]) -> Reader:
    hints = get_type_hints(kind)
    readers = {name: _reader(hints[name]) for name in names}

    def read_fields(value: Any) -> Any:
        if not isinstance(value, dict):
            raise MisfitError(f"wants an object, not {brief(value)}")
        if odd := sorted((value.keys() - readers.keys()) | (needed - value.keys())):
            raise MisfitError(f"has entry {odd[0]!r} missing or too many")
        return kind(**{name: readers[name](each) for name, each in value.items()})

    return read_fields


def _enum(kind: type[Enum]) -> Reader:
    def read_enum(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise MisfitError(f"knows no {kind.__name__} {brief(value)}") from None

    return read_enum


def _float(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise MisfitError("has a number out of range") from None
    raise MisfitError(f"wants float, not {brief(value)}")


def _plain(kind: Any) -> Reader:
    def read_plain(value: Any) -> Any:
        if type(value) is not kind:
            raise MisfitError(f"wants {kind.__name__}, not {brief(value)}")
        return value

    return read_plain


def brief(value: Any) -> str:
    """What was read, short enough for a line."""
    text = repr(value)
    return text if len(text) <= _LONGEST_TOLD else text[: _LONGEST_TOLD - 1] + "…"
