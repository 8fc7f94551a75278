"""Command line options that several commands share, each declared once.

Owns their names and help texts. A command gets them as a mapping of those that were given, the top
layer of the settings.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sequoia_core.config import Lookup, Mode, Offload, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.files import read_text

_FLAGS = "sequoia.flags"
_DEBUG = "sequoia.debug"
_MODELS = "Models"
_SAMPLING = "Sampling"
_TREE = "Tree"
_LOOKS = "Looks"
_RECORD = "Record"
_LONGEST_SYSTEM = 10_000_000
"""Bytes; no model reads more."""


class DType(StrEnum):
    """Number formats of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


def _option(kind: Any, text: str, panel: str, metavar: str | None = None) -> Any:
    option = typer.Option(help=text, rich_help_panel=panel, metavar=metavar, show_default=False)
    return Annotated[kind | None, option]


_SETTINGS: dict[str, Any] = {
    "pair": _option(str, "A pair of the catalogue; see `sequoia models`.", _MODELS, "NAME"),
    "target": _option(str, "Hub id, directory or GGUF file.", _MODELS, "MODEL"),
    "draft": _option(str, "Likewise; `none` decodes plainly.", _MODELS, "MODEL"),
    "dtype": _option(DType, "Number format of the weights.", _MODELS),
    "weights": _option(WeightFormat, "What computes on CPUs; int8 is another model.", _MODELS),
    "device": _option(
        str, "auto, cpu, cuda, cuda:N; a list spreads the target.", _MODELS, "DEVICE[,DEVICE...]"
    ),
    "offload": _option(Offload, "Where the target's layers stay meanwhile.", _MODELS),
    "insight": _option(bool, "Keep why each step came out so, to be asked later.", _TREE),
    "mode": _option(Mode, "How tokens are decided; ar is plain decoding.", _TREE),
    "growmap": _option(
        str,
        "Tree shape: a file, a name, adaptive, measured, or auto.",
        _TREE,
        "FILE|NAME|auto|adaptive|measured",
    ),
    "lookup": _option(Lookup, "Speculate with what the conversation repeats.", _TREE),
    "temperature": _option(float, "0 is greedy.", _SAMPLING, "NUMBER"),
    "top_p": _option(float, "Nucleus mass, above 0 and at most 1.", _SAMPLING, "NUMBER"),
    "top_k": _option(int, "How many tokens are kept; 0 keeps all.", _SAMPLING, "NUMBER"),
    "seed": _option(
        int,
        "Repeat draws; answers too with a named growmap, no look-up.",
        _SAMPLING,
        "NUMBER",
    ),
    "max_new_tokens": _option(int, "Longest answer.", _SAMPLING, "NUMBER"),
    "system": _option(
        str, "System prompt, which `ps` lists; default: the chat template's.", _SAMPLING, "TEXT"
    ),
    "system_file": _option(
        Path, "System prompt from a file, which `ps` does not list.", _SAMPLING, "FILE"
    ),
    "accessible": _option(bool, "No frames, no motion, linear text, verdicts in words.", _LOOKS),
    "record": _option(bool, "Keep chats; without, they are gone with the window.", _RECORD),
    "stop": _option(list[str], "Text that ends the answer; may be repeated.", _SAMPLING, "TEXT"),
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
    """Add the shared options to a command's own and pass what was given as the first argument.

    The command's first two parameters are the `typer.Context` and the mapping. Options given before
    the command's name count too, below its own. A command's own option takes the place of a shared
    one of its name.
    """
    own = inspect.signature(command).parameters
    return _added(command, [name for name in _SETTINGS if name not in own])


def with_only(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As `with_settings`, but with these of the shared options; the others are refused.

    Refused even before the command's name, where every one of them is understood. `MODEL_OPTIONS`
    names those that say what is loaded. A command's own option takes the place of a shared one.
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
    """Put what `--system-file` names in the place of `--system`.

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

    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, keyword, default=None, annotation=_SETTINGS[name]) for name in names
    ]
    shared.append(inspect.Parameter("debug", keyword, default=False, annotation=DEBUG_OPTION))
    parameters = [context, *(each.replace(kind=keyword) for each in own), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
