"""Groups of commands, which answer a wrong command or option with a close one.

`sequoia`'s commands are imported one by one: all of them take as long to import as the screen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from sequoia_core.errors import close_names, suggest

_HOMES = {
    "ask": "ask:ask",
    "replay": "replay:replay",
    "models": "models:models",
    "doctor": "doctor:doctor",
    "calibrate": "calibrate:calibrate",
    "bench": "bench:bench",
    "distill": "distill:distill",
    "accept": "accept:accept",
    "search": "search:search",
    "web": "web:web",
    "growmap": "growmap:growmap_app",
    "config": "config:config_app",
    "reproduce": "reproduce:reproduce_app",
}
"""Module and function, or group of commands."""

NAMES = tuple(_HOMES)

_COMMANDS = {
    "serve": "web", "server": "web", "browser": "web", "benchmark": "bench", "train": "distill",
    "tune": "calibrate", "measure": "calibrate", "play": "replay", "trees": "growmap",
    "tree": "growmap", "list": "models", "pairs": "models", "check": "doctor", "run": "ask",
    "settings": "config", "generate": "ask",
}  # fmt: skip
_IN_CHAT = dict.fromkeys(
    ("chat", "open", "start"), "`sequoia` alone opens the chat"
) | {
    "help": "`sequoia --help` lists all",
    "version": "did you mean --version?",
    "sessions": "in the chat, /sessions lists them",
    "history": "in the chat, /sessions lists them",
    "race": "in the chat, /race runs one",
    "export": "in the chat, /export writes a file; `sequoia ask --trace` records an answer",
    "theme": "it is a setting: /set theme in the chat, or theme = NAME in config.toml",
    "themes": "it is a setting: /set theme in the chat, or theme = NAME in config.toml",
    "set": "in the chat, /set changes a setting; `sequoia config path` says where they are kept",
}  # fmt: skip
_OPTIONS = {
    "--model": "--target", "--tree": "--growmap", "--max-tokens": "--max-new-tokens",
    "--draft-model": "--draft", "--temp": "--temperature", "--quantization": "--weights",
    "--speculation": "--mode",
}  # fmt: skip
_SETTINGS = {
    "--exact": "at temperature 0 the text is plain decoding's without it; leave it out",
    "--theme": "it is a setting: /set theme in the chat, theme = NAME in config.toml, or "
    "SEQUOIA_THEME",
    "--keys": "keys are settings: F5 in the chat, or [keys] in config.toml",
}


def load_command(name: str) -> Any:
    """Import the command, or the group of commands, of this name."""
    module, _, attribute = _HOMES[name].partition(":")
    found = getattr(import_module(f".{module}", __package__), attribute)
    holder = typer.Typer(add_completion=False)
    holder.callback()(lambda: None)  # with it a single command stays one of a group
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    built = typer.main.get_command(holder)
    assert isinstance(built, TyperGroup)
    return built.commands[name]


class CommandGroup(TyperGroup):
    """Commands; a wrong name is answered with a close one, or with all there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments begin with."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            root = ctx.parent is None
            known = self.list_commands(ctx)
            close = close_names(name, known, _COMMANDS if root else None)
            hint = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
            if root:
                hint = _IN_CHAT.get(name, hint)
            ctx.fail(f"No such command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the group's own options."""
        with _option_hints():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the options of the command, and run it."""
        with _option_hints():
            return super().invoke(ctx)


@contextmanager
def _option_hints() -> Iterator[None]:
    """Add to the error for an unknown option what may have been meant."""
    try:
        yield
    except TyperException as error:
        if getattr(error, "possibilities", None) is not None:
            _add_hint(error)
        raise


def _add_hint(error: Any) -> None:
    name = error.option_name
    known = [
        option
        for parameter in error.ctx.command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("--")
    ]
    also = {other: meant for other, meant in _OPTIONS.items() if meant in known}
    help_option = f"`{error.ctx.command_path} --help` lists all"
    hint = _SETTINGS.get(name) or suggest(name, known, also=also, otherwise=help_option, most=2)
    error.message, error.possibilities = f"No such option: {name}; {hint}", None
