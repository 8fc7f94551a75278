"""Slash commands: a line is read, or an error says in one line what is wrong with it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sequoia_core.errors import ParameterError, SequoiaError, suggest
from sequoia_core.files import parse_toml

from ..config.load import read_value
from ..config.settings import CHAT_SETTINGS, Settings


class SlashError(SequoiaError):
    """A slash command that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Command:
    """A slash command without the slash, and its argument or ""."""

    name: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class CopyRequest:
    what: str  # answer, code or selection
    number: int | None  # which answer or block of code, if given


_TABLES = parse_toml(Path(__file__).with_name("slash_commands.toml").read_text("utf-8"))
USAGE: tuple[tuple[str, str], ...] = (
    *((each.usage, each.help) for each in CHAT_SETTINGS.values()),
    *_TABLES["usage"].items(),
)
"""Each command and what it does; ids of actions are replaced by their keys."""
_NAMES = list(dict.fromkeys(usage.split()[0][1:] for usage, _ in USAGE))
WITH_WORDS = {usage.split()[0][1:] for usage, _ in USAGE if " " in usage}
COMPLETED: dict[str, str] = _TABLES["completed"]
"""Where suggestions for a command's argument come from, where they are not words of `USAGE`."""
_SAME: dict[str, str] = _TABLES["same"]
_INSTEAD: dict[str, str] = _TABLES["instead"]


def is_command(text: str) -> bool:
    """Whether a prompt is meant as a command: one line that begins with a slash and a word."""
    return text.startswith("/") and "\n" not in text.strip() and not text.startswith("//")


def command_name(word: str) -> str:
    """The name of the command that a word with a slash is or stands for."""
    return _SAME.get(word[1:], word[1:])


def parse_command(text: str) -> Command:
    """Read a slash command. Raises SlashError if there is none, or it takes no argument."""
    word, _, words = text.strip().partition(" ")
    command = Command(command_name(word), words.strip())
    if command.name not in _NAMES:
        if word in _INSTEAD:
            raise SlashError(f"no command {word}; {_INSTEAD[word]}")
        sets = {f"/{name}": f"/set {name}" for name in CHAT_SETTINGS}
        known = [*(f"/{name}" for name in (*_NAMES, *_SAME)), *sets.values()]
        also = _TABLES["suggested"] | sets
        hint = suggest(word, known, also=also, otherwise="/? lists all")
        raise SlashError(f"no command {word}. {_capitalized(hint)}")
    if command.words and command.name not in WITH_WORDS:
        raise SlashError(f"{word} takes nothing after it")
    return command


def parse_copy(words: str) -> CopyRequest:
    """Read the argument of `/copy`. Raises SlashError if it is none."""
    given = words.split()
    what = given.pop(0) if given and given[0] in ("code", "selection") else "answer"
    most = 0 if what == "selection" else 1
    if len(given) > most or not all(word.isdecimal() and int(word) > 0 for word in given):
        raise SlashError("copy what? /copy, /copy N, /copy code, /copy code N or /copy selection")
    return CopyRequest(what, int(given[0]) if given else None)


def parse_set(words: str, settings: Settings) -> tuple[str, Settings]:
    """Read the argument of `/set`: the name of a setting, and all settings with its new value.

    Raises SlashError if there is no such setting, or its value cannot be used.
    """
    name, _, value = words.partition(" ")
    if not name:
        raise SlashError(f"/set what? One of {', '.join(CHAT_SETTINGS)}")
    setting = CHAT_SETTINGS.get(name)
    if setting is None:
        hint = suggest(name, CHAT_SETTINGS, also={"tree": "growmap", "colors": "theme"})
        raise SlashError(f"no setting {name!r}. {_capitalized(hint)}")
    value = value.strip()
    if not value:
        raise SlashError(f"a value is missing: {setting.usage}")
    try:
        read: Any = None if value == setting.unset else read_value(name, value.strip('"').strip())
        return name, replace(settings, **{name: read})
    except ParameterError as error:
        raise SlashError(str(error)) from None
    except ValueError:
        raise SlashError(f"{value!r} is no value for {name}: {setting.usage}") from None


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
