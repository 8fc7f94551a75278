"""Command line options that commands share, made from the settings.

A command gets a mapping of those that were given, the strongest layer of the settings.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sequoia_core.errors import ParameterError
from sequoia_core.files import read_text

from ..config.settings import SETTINGS, Group

_FLAGS = "sequoia.flags"
_DEBUG = "sequoia.debug"
_LONGEST_SYSTEM = 10_000_000
"""Bytes of a file for the system prompt; no model reads more."""


def _option(kind: Any, text: str, group: Group, values: str = "") -> Any:
    option = typer.Option(
        help=f"{text[0].upper()}{text[1:]}.",
        rich_help_panel=group,
        metavar=values or None,
        show_default=False,
    )
    return Annotated[kind | None, option]


_OPTIONS: dict[str, Any] = {
    each.name: _option(
        list[str] if each.type == tuple[str, ...] else each.type, each.help, each.group, each.values
    )
    for each in SETTINGS.values()
    if each.has_option
} | {
    "system_file": _option(
        Path, "system prompt from a file; `ps` lists --system, not this", Group.SAMPLING, "FILE"
    )
}
MODEL_OPTIONS = ("pair", "target", "draft", "dtype", "weights", "device", "offload")


def _remember_debug(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.meta[_DEBUG] = True


DEBUG_OPTION = Annotated[
    bool,
    typer.Option("--debug", help="Show a traceback on errors.", callback=_remember_debug),
]


def debugging(ctx: typer.Context) -> bool:
    """Whether `--debug` was given, before or after the command's name."""
    return bool(ctx.meta.get(_DEBUG))


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Add the shared options to a command.

    Its first two parameters are the `typer.Context` and the mapping of the options that were given.
    Options before the command's name count too, but weaker. A command's own option replaces the
    shared one of the same name.
    """
    own = inspect.signature(command).parameters
    return _added(command, [name for name in _OPTIONS if name not in own])


def with_only(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `with_settings`, with these options only; others before the command's name are refused.

    `MODEL_OPTIONS` are those that say what is loaded.
    """

    def add(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def checked(ctx: typer.Context, flags: dict[str, Any], **arguments: Any) -> None:
            idle = [f"--{name.replace('_', '-')}" for name in flags if name not in names]
            if idle:
                raise ParameterError(f"{idle[0]} before {ctx.info_name} does nothing; leave it out")
            command(ctx, flags, **arguments)

        own = inspect.signature(command).parameters
        return _added(checked, [name for name in names if name not in own])

    return add


def _read_system(flags: dict[str, Any]) -> None:
    """Set the system prompt to the contents of `--system-file`.

    Raises:
        ParameterError: both are given, or the file cannot be read as text.
    """
    file = flags.pop("system_file", None)
    if file is None:
        return
    if "system" in flags:
        raise ParameterError("both --system and --system-file are given; give one of them")
    try:
        flags["system"] = read_text(file.expanduser(), _LONGEST_SYSTEM).removesuffix("\n")
    except OSError as error:
        raise ParameterError(f"--system-file {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise ParameterError(f"--system-file {file}: not a text: {error}") from None


def _added(command: Callable[..., None], names: Sequence[str]) -> Callable[..., None]:
    context, _, *own = inspect.signature(command).parameters.values()

    @functools.wraps(command)
    def run(ctx: typer.Context, **arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in names}
        del arguments["debug"]
        flags = ctx.meta.setdefault(_FLAGS, {})
        flags.update({name: value for name, value in given.items() if value not in (None, [])})
        _read_system(flags)
        command(ctx, flags, **arguments)

    shared = {name: (_OPTIONS[name], None) for name in names} | {"debug": (DEBUG_OPTION, False)}
    set_parameters(run, [context], own, shared)
    return run


def set_parameters(
    command: Callable[..., None],
    first: Sequence[inspect.Parameter],
    own: Sequence[inspect.Parameter],
    options: Mapping[str, tuple[Any, Any]],
) -> None:
    """Let typer see a function with these parameters.

    Args:
        command: the function.
        first: as they are.
        own: as keywords.
        options: annotation and default by name, as keywords after them.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        *first,
        *(each.replace(kind=keyword) for each in own),
        *(
            inspect.Parameter(name, keyword, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
