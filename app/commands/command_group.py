"""A group of commands that says what a wrong command or option may have meant."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from sequoia_core.errors import close_names, suggest

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
        with _options_named():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read the options of the command, and run it."""
        with _options_named():
            return super().invoke(ctx)


@contextmanager
def _options_named() -> Iterator[None]:
    """Write into the error for an unknown option what may have been meant."""
    try:
        yield
    except TyperException as error:
        if getattr(error, "possibilities", None) is not None:
            _name_option(error)
        raise


def _name_option(error: Any) -> None:
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
