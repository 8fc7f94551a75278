"""The `sequoia` command.

Exit codes: 0, 1 for a failure, 2 for wrong usage, 130 after Ctrl+C. Imports neither torch,
transformers nor textual, so that help is instant; commands import what they need.
"""

import io
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

import sequoia_core
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.model.malloc_trim import keep_to_one_arena

from .commands.chat import end_ranks, leave, open_chat
from .commands.options import ALL_SETTINGS, DEBUG, CommandGroup, flag, with_settings
from .config.interrupts import INTERRUPTS

HOMES = {
    "demo": "chat", "ask": "ask", "replay": "chat", "models": "listings", "doctor": "doctor",
    "calibrate": "calibrate", "bench": "bench", "distill": "distill", "accept": "reproduce",
    "fidelity": "fidelity",
    "search": "search", "web": "web", "growmap": "listings", "config": "listings",
    "reproduce": "reproduce",
}  # fmt: skip
"""The module of each command, or group of commands, of that name."""


class _Commands(CommandGroup):
    """Imports commands when they are called, and prints their errors as one line.

    The line goes to standard error; `--debug` shows the traceback instead.
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 the library's signature
        return list(HOMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in HOMES and cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        # an answer may have characters that the terminal's encoding lacks
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        try:
            return super().invoke(ctx)
        except Exception as error:
            INTERRUPTS.check()  # a library may have made another error of it
            # typer ends commands by its own exceptions, and handles a closed pipe
            own = type(error).__module__.startswith(("click", "typer"))
            if own or isinstance(error, BrokenPipeError) or ctx.meta.get(DEBUG):
                raise
            line = str(error)
            if not isinstance(error, SequoiaError):
                line = f"unexpected {type(error).__name__}: {line} (--debug shows where)"
            from .state.sanitize import visible

            typer.echo(f"sequoia: {visible(' '.join(line.split()))}", err=True)
            raise typer.Exit(2 if isinstance(error, ParameterError) else 1) from None


def _load(name: str) -> Any:
    found = getattr(import_module(f"{__package__}.commands.{HOMES[name]}"), name)
    INTERRUPTS.check()
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


app = typer.Typer(
    name="sequoia",
    cls=_Commands,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
@with_settings(*ALL_SETTINGS)
def chat(
    ctx: typer.Context,
    flags: dict[str, Any],
    version: Annotated[bool, flag("--version", "Print the version.")] = False,
    go_on: Annotated[bool, flag("--continue -c", "Open the last chat.")] = False,
) -> None:
    """Chat with a model that decodes by tree speculation, every tree drawn live.

    Without a command it opens the chat.
    """
    if version:
        typer.echo(f"sequoia {sequoia_core.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        open_chat(flags, go_on=go_on)
    elif go_on:
        raise ParameterError(
            f"--continue opens the chat; leave it out before {ctx.invoked_subcommand}"
        )


def main() -> None:
    """The `sequoia` command, once this module is imported."""
    keep_to_one_arena()
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0":
        from sequoia_core.model.parallel.follower import follow

        follow()
    try:
        app(prog_name="sequoia")
    except SystemExit as ended:
        if f"{__package__}.app" in sys.modules and isinstance(ended.code, int):
            leave(ended.code)
        end_ranks()
        raise
