"""Slash commands: text in, a command or one clear line out. Pure; carries nothing out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sequoia_core.config import Lookup, Mode
from sequoia_core.errors import ParameterError, SequoiaError, suggest

from ..config.chat_settings import ChatSettings


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
class ShowSettings:
    """`/settings`: change settings, and keep them."""


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
class Sessions:
    """`/sessions`, `/search WORDS`, `/save NAME`, `/load NAME`, `/continue`."""

    act: str
    words: str


@dataclass(frozen=True, slots=True)
class CopyAsked:
    """`/copy`, `/copy N`, `/copy code [N]`, `/copy selection`.

    Attributes:
        what: answer, code or selection.
        number: which, or None where it was left out.
    """

    what: str
    number: int | None


@dataclass(frozen=True, slots=True)
class Bye:
    """`/bye`: quit."""


@dataclass(frozen=True, slots=True)
class Help:
    """`/?`: keys and commands."""


Command = (
    Set | Show | ShowSettings | ClearChat | RaceAsked | Export | Sessions | CopyAsked | Bye | Help
)

USAGE: tuple[tuple[str, str], ...] = (
    ("/set temperature NUMBER", "0 is greedy; from the next answer on"),
    ("/set top_p NUMBER", "nucleus mass, above 0 and at most 1"),
    ("/set top_k NUMBER", "how many tokens are kept; 0 keeps all"),
    ("/set seed NUMBER|random", "repeat the same draws, or fresh ones"),
    ("/set max_new_tokens NUMBER", "longest answer"),
    ("/set system TEXT|default", "start over with another system prompt"),
    ("/set mode sequoia|greedy|specinfer|topk|chain|ar", "how tokens are decided; ar: plain"),
    ("/set growmap NAME|FILE|auto|adaptive|measured", "tree shape"),
    ("/set lookup on|off|auto", "speculate with what the conversation repeats"),
    ("/set theme NAME", "colours"),
    ("/set accessible on|off", "no frames, no motion, linear text, verdicts in words"),
    ("/settings", "change and keep all settings and keys (chat.settings)"),
    ("/show", "settings, model pair and tree"),
    ("/race [PROMPT]", "plain and speculative decoding side by side (chat.race)"),
    ("/clear", "begin another chat; this one stays in the list of sessions"),
    ("/sessions", "open, rename or delete a chat (chat.sessions)"),
    ("/search WORDS", "in everything that was ever said"),
    ("/save NAME", "call this chat something; it is saved as it grows"),
    ("/load NAME", "open a chat by its name or how it begins"),
    ("/continue", "go on with the chat that the program was killed in"),
    ("/export FILE.md|.json|.jsonl|.svg", "to read, for programs, to replay, as a picture"),
    ("/copy [N]", "the last answer, or the N-th from the end (chat.copy)"),
    ("/copy code [N]", "a code block of the last answer that has any; the last, or the N-th"),
    ("/copy selection", "what is selected with the mouse (Ctrl+C)"),
    ("/bye", "quit"),
    ("/?", "keys and commands"),
)

_PLAIN: dict[str, Command] = {
    "/show": Show(),
    "/settings": ShowSettings(),
    "/clear": ClearChat(),
    "/bye": Bye(),
    "/exit": Bye(),
    "/quit": Bye(),
    "/?": Help(),
    "/help": Help(),
    "/sessions": Sessions("sessions", ""),
    "/continue": Sessions("continue", ""),
}
_WITH_WORDS = ("/search", "/save", "/load")
_COMMANDS = ("/set", "/race", "/copy", "/export", *_WITH_WORDS)
_ALSO = {
    "/new": "/clear", "/reset": "/clear", "/restart": "/clear", "/history": "/sessions",
    "/list": "/sessions", "/chats": "/sessions", "/find": "/search", "/open": "/load",
    "/rename": "/save", "/config": "/settings", "/info": "/show", "/status": "/show",
    "/colors": "/set theme", "/leave": "/bye", "/end": "/bye", "/commands": "/?",
    "/keys": "/?", "/compare": "/race", "/write": "/export", "/resume": "/continue",
}  # fmt: skip
"""What other programs call them."""
_INSTEAD = {
    "/tree": "chat.tree shows and hides it; /set growmap changes its shape",
    "/heat": "chat.tree shows the heat map after the tree",
    "/map": "chat.tree shows the heat map after the tree",
    "/tint": "chat.tint tints the tokens",
    "/pause": "chat.pause pauses and resumes",
    "/stop": "chat.stop stops the answer",
    "/edit": "chat.edit edits the last message",
    "/again": "chat.again asks the last message again",
    "/retry": "chat.again asks the last message again",
    "/regenerate": "chat.again asks the last message again",
    "/branch": "chat.branch_before and chat.branch_after go to other branches",
    "/why": "tab goes to the tree, tree.why there explains a node",
} | dict.fromkeys(
    ("/models", "/model", "/pair", "/pairs"),
    "a chat keeps its pair; `sequoia models` in a shell lists others",
)
"""What does it where no command does; ids of actions read as their keys."""


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
    if word == "/copy":
        return _parse_copy(rest.split())
    if word == "/export":
        if not rest.strip():
            raise SlashError("a file is missing: /export FILE.md|.json|.jsonl|.svg")
        return Export(rest.strip())
    if word in _WITH_WORDS:
        return Sessions(word[1:], rest.strip())
    command = _PLAIN.get(word)
    if command is None:
        raise _no_command(word)
    if rest.strip():
        raise SlashError(f"{word} takes nothing after it")
    return command


def _parse_copy(words: list[str]) -> CopyAsked:
    named = words[0] if words and words[0] in ("code", "selection") else "answer"
    rest = words if named == "answer" else words[1:]
    most = 0 if named == "selection" else 1
    if len(rest) > most or not all(word.isdecimal() and int(word) > 0 for word in rest):
        raise SlashError("copy what? /copy, /copy N, /copy code, /copy code N or /copy selection")
    return CopyAsked(named, int(rest[0]) if rest else None)


def _parse_set(rest: str, settings: ChatSettings) -> Set:
    name, _, value = rest.partition(" ")
    if not name:
        raise SlashError(f"/set what? One of {', '.join(_READERS)}")
    reader = _READERS.get(name)
    if reader is None:
        hint = suggest(name, _READERS, also={"tree": "growmap", "colors": "theme"})
        raise SlashError(f"no setting {name!r}. {hint[0].upper()}{hint[1:]}")
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


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError(value)
    return value == "on"


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
    "accessible": _switch,
}


def _no_command(word: str) -> SlashError:
    known = [*_COMMANDS, *_PLAIN, *(f"/set {name}" for name in _READERS)]
    also = _ALSO | {f"/{name}": f"/set {name}" for name in _READERS}
    if word in _INSTEAD:
        return SlashError(f"no command {word}; {_INSTEAD[word]}")
    hint = suggest(word, known, also=also, otherwise="/? lists all")
    return SlashError(f"no command {word}. {hint[0].upper()}{hint[1:]}")
