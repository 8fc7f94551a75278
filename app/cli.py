"""The `sequoia` command: its subcommands, and what becomes of errors.

Owns exit codes: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl+C. Imports neither torch,
transformers nor textual, so that help is instant; commands import what they need.
"""

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import sequoia_core
from sequoia_core.errors import ParameterError, SequoiaError

from .commands.accept import accept
from .commands.ask import ask
from .commands.bench import bench
from .commands.calibrate import calibrate
from .commands.chat import open_chat
from .commands.config import config_app
from .commands.distill import distill
from .commands.doctor import doctor
from .commands.growmap import growmap_app
from .commands.models import models
from .commands.replay import replay
from .commands.reproduce import reproduce_app
from .commands.search import search
from .commands.web import web
from .options import debugging, with_settings


class _ErrorsInOneLine(TyperGroup):
    """Errors become one line on standard error; a traceback only with `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        # an answer may hold characters that the terminal's encoding lacks
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except Exception as error:
            # typer ends commands by exceptions of its own, and handles a reader that went away
            own = type(error).__module__.startswith(("click", "typer"))
            if own or isinstance(error, BrokenPipeError):
                raise
            self._fail(ctx, error)

    def _fail(self, ctx: typer.Context, error: Exception) -> None:
        if debugging(ctx):
            raise error
        if isinstance(error, SequoiaError):
            line = str(error)
        else:
            line = f"unexpected {type(error).__name__}: {error} (--debug shows where)"
        typer.echo(f"sequoia: {_one_line(line)}", err=True)
        raise typer.Exit(2 if isinstance(error, ParameterError) else 1) from None


def _one_line(text: str) -> str:
    from .visible import visible

    return visible(" ".join(text.split()))


app = typer.Typer(
    name="sequoia",
    cls=_ErrorsInOneLine,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sequoia {sequoia_core.__version__}")
        raise typer.Exit


_Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
]


@app.callback(invoke_without_command=True)
@with_settings
def chat(
    ctx: typer.Context,
    flags: dict[str, Any],
    _version: _Version = False,
) -> None:
    """Chat with a model that decodes by tree speculation, every tree drawn live.

    Without a command it opens the chat.
    """
    if ctx.invoked_subcommand is None:
        open_chat(flags)


app.command()(ask)
app.command()(replay)
app.command()(models)
app.command()(doctor)
app.command()(calibrate)
app.command()(bench)
app.command()(distill)
app.command()(accept)
app.command()(search)
app.command()(web)
app.add_typer(growmap_app, name="growmap")
app.add_typer(config_app, name="config")
app.add_typer(reproduce_app, name="reproduce")


def main() -> None:
    """Entry point of the `sequoia` command."""
    app(prog_name="sequoia")
