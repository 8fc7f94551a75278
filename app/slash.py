"""Slash commands: text in, a command or one clear line out. Pure; carries nothing out."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sequoia_core.config import Mode
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.protocols import Lookup

from .messages import ChatSettings


class SlashError(SequoiaError):
    """A slash command that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Set:
    """`/set NAME VALUE`: the settings with one value changed."""

    name: str
    settings: ChatSettings


@dataclass(frozen=True, slots=True)
class Show:
    """`/show`: settings, pair and tree."""


@dataclass(frozen=True, slots=True)
class ClearChat:
    """`/clear`: forget the conversation."""


@dataclass(frozen=True, slots=True)
class RaceAsked:
    """`/race [PROMPT]`: plain and speculative decoding side by side; "" is the last prompt."""

    prompt: str


@dataclass(frozen=True, slots=True)
class Export:
    """`/export FILE`: write the chat into a file."""

    file: str


@dataclass(frozen=True, slots=True)
class Bye:
    """`/bye`: quit."""


@dataclass(frozen=True, slots=True)
class Help:
    """`/?`: keys and commands."""


Command = Set | Show | ClearChat | RaceAsked | Export | Bye | Help

USAGE: tuple[tuple[str, str], ...] = (
    ("/set temperature NUMBER", "0 is greedy; from the next answer on"),
    ("/set top_p NUMBER", "nucleus mass, above 0 and at most 1"),
    ("/set top_k NUMBER", "how many tokens are kept; 0 keeps all"),
    ("/set seed NUMBER|random", "repeat the same draws, or fresh ones"),
    ("/set max_new_tokens NUMBER", "longest answer"),
    ("/set system TEXT|default", "start over with another system prompt"),
    ("/set mode sequoia|greedy|specinfer|topk|chain|ar", "how tokens are decided; ar: plain"),
    ("/set growmap NAME|FILE|auto|adaptive", "tree shape"),
    ("/set lookup on|off|auto", "speculate with what the conversation repeats"),
    ("/set theme NAME", "colours"),
    ("/show", "settings, model pair and tree"),
    ("/race [PROMPT]", "plain and speculative decoding side by side (F3)"),
    ("/clear", "forget the conversation"),
    ("/export FILE.md|.json|.jsonl|.svg", "to read, for programs, to replay, as a picture"),
    ("/bye", "quit"),
    ("/?", "keys and commands"),
)

_PLAIN: dict[str, Command] = {
    "/show": Show(),
    "/clear": ClearChat(),
    "/bye": Bye(),
    "/exit": Bye(),
    "/quit": Bye(),
    "/?": Help(),
    "/help": Help(),
}


def is_command(text: str) -> bool:
    """Whether a prompt is meant as a command: one line that begins with a slash and a word."""
    return text.startswith("/") and "\n" not in text.strip() and not text.startswith("//")


def parse_command(text: str, settings: ChatSettings) -> Command:
    """Read a slash command.

    Args:
        text: as typed, beginning with "/".
        settings: what `/set` changes one value of.

    Raises:
        SlashError: unknown command or setting, or a value of the wrong kind.
        ParameterError: a value outside its range.
    """
    word, _, rest = text.strip().partition(" ")
    if word == "/set":
        return _parse_set(rest.strip(), settings)
    if word == "/race":
        return RaceAsked(rest.strip())
    if word == "/export":
        if not rest.strip():
            raise SlashError("a file is missing: /export FILE.md|.json|.jsonl|.svg")
        return Export(rest.strip())
    command = _PLAIN.get(word)
    if command is None:
        known = ["/set", "/race", "/export", *_PLAIN]
        raise SlashError(f"no command {word}.{_closest(word, known)} /? lists all")
    if rest.strip():
        raise SlashError(f"{word} takes nothing after it")
    return command


def _parse_set(rest: str, settings: ChatSettings) -> Set:
    name, _, value = rest.partition(" ")
    if not name:
        raise SlashError(f"/set what? One of {', '.join(_READERS)}")
    reader = _READERS.get(name)
    if reader is None:
        raise SlashError(f"no setting {name!r}.{_closest(name, list(_READERS))} /? lists all")
    if not value.strip():
        usage = next(usage for usage, _ in USAGE if usage.startswith(f"/set {name} "))
        raise SlashError(f"a value is missing: {usage}")
    try:
        return Set(name, replace(settings, **{name: reader(value.strip())}))
    except ParameterError as error:
        raise SlashError(str(error)) from None
    except ValueError:
        usage = next(usage for usage, _ in USAGE if usage.startswith(f"/set {name} "))
        raise SlashError(f"{value.strip()!r} is no value for {name}: {usage}") from None


def _seed(value: str) -> int | None:
    return None if value == "random" else int(value)


def _system(value: str) -> str | None:
    return None if value == "default" else value.strip('"').strip()


_READERS: dict[str, Callable[[str], Any]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "seed": _seed,
    "max_new_tokens": int,
    "system": _system,
    "mode": Mode,
    "growmap": str,
    "lookup": Lookup,
    "theme": str,
}


def _closest(word: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean {matches[0]}?" if matches else ""
