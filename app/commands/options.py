"""Options and groups of commands: how they are declared, and the answer to a wrong name."""

import functools
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from sequoia_core.errors import ParameterError, close_names, suggest
from sequoia_core.files import expanded, read_text

from ..config.settings import SETTINGS, Group

_FLAGS, DEBUG = "sequoia.flags", "sequoia.debug"
"""In the context's `meta`: settings that were given, and whether tracebacks are shown."""
_LONGEST_SYSTEM = 10_000_000  # bytes of a file for the system prompt; no model reads more
_PYTHONS = re.compile("Value error, |, unable to parse string .*")
"""What the library adds to the error for a wrong value, and nobody needs who types it."""

Command = Callable[..., None]


def flag(
    names: str, text: str, panel: str | None = None, metavar: str | None = None, **more: Any
) -> Any:
    """An option; its names are separated by spaces, or "" for that of the parameter."""
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, metavar=metavar, **more)


def option(
    kind: Any,
    text: str,
    metavar: str | None = None,
    panel: str | None = None,
    default: Any = None,
    names: str = "",
    **more: Any,
) -> tuple[Any, Any]:
    """Annotation and default of an option, for `with_settings`."""
    if default is None:
        kind, more["show_default"] = kind | None, False
    return Annotated[kind, flag(names, text, panel, metavar, **more)], default


_SETTINGS = {
    each.name: option(
        list[str] if each.type == tuple[str, ...] else each.type,
        f"{each.help[0].upper()}{each.help[1:]}.",
        each.values or None,
        each.group,
    )
    for each in SETTINGS.values()
    if each.has_option
}
_SETTINGS["system_file"] = option(
    Path, "System prompt from a file; `ps` lists --system, not this.", "FILE", Group.SAMPLING
)
_SETTINGS["preset"] = option(
    str, "System prompt by the name of a preset; /preset in the chat lists them.", "NAME",
    Group.SAMPLING,
)  # fmt: skip
ALL_SETTINGS = tuple(_SETTINGS)
MODEL_OPTIONS = (
    "pair", "target", "draft", "dtype", "weights", "quantize", "device", "offload", "graphs",
    "tensor_parallel", "context_window",
)  # fmt: skip
"""Those that say what is loaded."""
_DEBUG = option(bool, "Show a traceback on errors.", default=False, names="--debug")


def with_settings(*names: str, **added: tuple[Any, Any]) -> Callable[[Command], Command]:
    """Add options to those that a command declares with `Annotated`.

    Settings before the command's name count too, but weaker. The command may have parameters for
    the `ctx`, the `flags`, which are the settings that were given, and all `settings`.

    Args:
        names: of the settings that it takes; others before its name are refused.
        added: annotation and default of further options.
    """

    def decorate(command: Command) -> Command:
        wanted = inspect.signature(command, follow_wrapped=False).parameters
        options = {
            name: (each.annotation, each.default)
            for name, each in inspect.signature(command).parameters.items()
            if get_origin(each.annotation) is Annotated
        } | added
        shared = [name for name in names if name not in options]
        options |= {name: _SETTINGS[name] for name in shared} | {"debug": _DEBUG}

        @functools.wraps(command)
        def run(ctx: typer.Context, debug: bool, **arguments: Any) -> None:
            ctx.meta[DEBUG] = debug or ctx.meta.get(DEBUG)
            flags = ctx.meta.setdefault(_FLAGS, {})
            given = {name: arguments.pop(name) for name in shared}
            flags.update({name: value for name, value in given.items() if value not in (None, [])})
            _take_system(flags)
            for name in [each for each in flags if each not in names]:
                before = f"--{name.replace('_', '-')} before {ctx.info_name}"
                raise ParameterError(f"{before} does nothing; leave it out")
            known = {"ctx": ctx, "flags": flags}
            if "settings" in wanted:
                from ..config.load import load_settings

                known["settings"] = load_settings(flags)
            arguments |= {name: value for name, value in known.items() if name in wanted}
            command(**arguments)

        options = {"ctx": (typer.Context, inspect.Parameter.empty), **options}
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter(name, keyword, default=default, annotation=annotation)
            for name, (annotation, default) in options.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return run

    return decorate


def _take_system(flags: dict[str, Any]) -> None:
    """Set the system prompt to that of `--preset` or the contents of `--system-file`."""
    given = [name for name in ("system", "system_file", "preset") if name in flags]
    if len(given) > 1:
        both = " and ".join(f"--{name.replace('_', '-')}" for name in given[:2])
        raise ParameterError(f"both {both} are given; give one of them")
    if (preset := flags.pop("preset", None)) is not None:
        from ..config.presets import find_preset

        flags["system"] = find_preset(preset)
    file = flags.pop("system_file", None)
    if file is None:
        return
    try:
        flags["system"] = read_text(expanded(file), _LONGEST_SYSTEM).removesuffix("\n")
    except OSError as error:
        raise ParameterError(f"--system-file {file}: {error.strerror or error}") from None
    except ValueError as error:
        raise ParameterError(f"--system-file {file}: not a text: {error}") from None


class CommandGroup(TyperGroup):
    """Commands; a wrong name is answered with a close one, or with all there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            root, hints = ctx.parent is None, _hints()
            known = self.list_commands(ctx)
            close = close_names(name, known, hints["commands"] if root else None)
            hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
            if root:
                hint = hints["elsewhere"].get(name, hint)
            ctx.fail(f"No such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _untyped(command.get_params(ctx))
        return command

    def get_params(self, ctx: Any) -> Any:
        return _untyped(super().get_params(ctx))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        with _option_hints():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _option_hints():
            return super().invoke(ctx)


def _untyped(params: list[Any]) -> list[Any]:
    """Those of an option or argument; help says no `<bool>` of what takes no value."""
    for each in params:
        if getattr(each, "is_flag", False):
            each.metavar = ""
    return params


def command_group(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name, cls=CommandGroup, help=text, no_args_is_help=True, add_completion=False
    )


@contextmanager
def _option_hints() -> Iterator[None]:
    """Add to the error for an unknown option what may have been meant."""
    try:
        yield
    except TyperException as found:
        error: Any = found
        error.message = _PYTHONS.sub("", error.message)
        if getattr(error, "possibilities", None) is not None:
            name, command = error.option_name, error.ctx.command
            names = (n for each in command.params for n in (*each.opts, *each.secondary_opts))
            known = [each for each in names if each.startswith("--")]
            hints = _hints()
            also = {other: meant for other, meant in hints["options"].items() if meant in known}
            hint = hints["settings"].get(name) or suggest(
                name, known, also=also, most=2,
                otherwise=f"`{error.ctx.command_path} --help` lists all",
            )  # fmt: skip
            error.message, error.possibilities = f"No such option: {name}; {hint}", None
        raise


@functools.cache
def _hints() -> dict[str, dict[str, str]]:
    return tomllib.loads(Path(__file__).with_name("hints.toml").read_text(encoding="utf-8"))
