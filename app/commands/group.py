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

HOMES = {
    "ask": "ask", "replay": "chat", "models": "listings", "doctor": "doctor",
    "calibrate": "calibrate", "bench": "bench", "distill": "distill", "accept": "reproduce",
    "search": "search", "web": "web", "growmap": "listings", "config": "listings",
    "reproduce": "reproduce",
}  # fmt: skip
"""The module of each command, or group of commands, of that name."""

_COMMANDS = {
    "serve": "web", "server": "web", "browser": "web", "benchmark": "bench", "train": "distill",
    "tune": "calibrate", "measure": "calibrate", "play": "replay", "trees": "growmap",
    "tree": "growmap", "list": "models", "pairs": "models", "check": "doctor", "run": "ask",
    "settings": "config", "generate": "ask",
}  # fmt: skip
_OPEN = "`sequoia` alone opens the chat"
_SESSIONS = "in the chat, /sessions lists them"
_THEME = "it is a setting: /set theme in the chat, or theme = NAME in config.toml"
_IN_CHAT = {
    "chat": _OPEN, "open": _OPEN, "start": _OPEN, "sessions": _SESSIONS, "history": _SESSIONS,
    "theme": _THEME, "themes": _THEME,
    "help": "`sequoia --help` lists all",
    "version": "did you mean --version?",
    "race": "in the chat, /race runs one",
    "export": "in the chat, /export writes a file; `sequoia ask --trace` records an answer",
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
    found = getattr(import_module(f".{HOMES[name]}", __package__), name)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(found)
    return typer.main.get_command(alone)


class CommandGroup(TyperGroup):
    """Commands; a wrong name is answered with a close one, or with all there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
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
        with _option_hints():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _option_hints():
            return super().invoke(ctx)


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
        if getattr(error, "possibilities", None) is not None:
            name, command = error.option_name, error.ctx.command
            names = (n for each in command.params for n in (*each.opts, *each.secondary_opts))
            known = [each for each in names if each.startswith("--")]
            also = {other: meant for other, meant in _OPTIONS.items() if meant in known}
            hint = _SETTINGS.get(name) or suggest(
                name, known, also=also, most=2,
                otherwise=f"`{error.ctx.command_path} --help` lists all",
            )  # fmt: skip
            error.message, error.possibilities = f"No such option: {name}; {hint}", None
        raise
