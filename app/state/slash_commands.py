"""Slash commands: parses a line into a command, or says in one line what is wrong with it."""

from dataclasses import dataclass, replace
from typing import Any

from sequoia_core.errors import ParameterError, SequoiaError, suggest

from ..config.load import read_value
from ..config.settings import CHAT_SETTINGS, Settings


class SlashError(SequoiaError):
    """A slash command that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Set:
    """`/set NAME VALUE`: the settings with one value changed."""

    name: str
    settings: Settings


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
    *((each.usage, each.help) for each in CHAT_SETTINGS.values()),
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
"""Each command and what it does; ids of actions are replaced by their keys."""

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
_ALSO = {
    "/new": "/clear", "/reset": "/clear", "/restart": "/clear", "/history": "/sessions",
    "/list": "/sessions", "/chats": "/sessions", "/find": "/search", "/open": "/load",
    "/rename": "/save", "/config": "/settings", "/info": "/show", "/status": "/show",
    "/colors": "/set theme", "/leave": "/bye", "/end": "/bye", "/commands": "/?",
    "/keys": "/?", "/compare": "/race", "/write": "/export", "/resume": "/continue",
}  # fmt: skip
"""Names that other programs have for them."""
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
"""How to do it without a command; ids of actions are replaced by their keys."""


def is_command(text: str) -> bool:
    """Whether a prompt is meant as a command: one line that begins with a slash and a word."""
    return text.startswith("/") and "\n" not in text.strip() and not text.startswith("//")


def parse_command(text: str, settings: Settings) -> Command:
    """Read a slash command.

    Args:
        text: as typed, beginning with "/".
        settings: of which `/set` changes one.

    Raises:
        SlashError: unknown command or setting, or a value of the wrong kind.
        ParameterError: a value outside its range.
    """
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    match word:
        case "/set":
            return _parse_set(rest, settings)
        case "/race":
            return RaceAsked(rest)
        case "/copy":
            return _parse_copy(rest.split())
        case "/export" if not rest:
            raise SlashError("a file is missing: /export FILE.md|.json|.jsonl|.svg")
        case "/export":
            return Export(rest)
        case "/search" | "/save" | "/load":
            return Sessions(word[1:], rest)
    command = _PLAIN.get(word)
    if command is None:
        raise _no_command(word)
    if rest:
        raise SlashError(f"{word} takes nothing after it")
    return command


def _parse_copy(words: list[str]) -> CopyAsked:
    named = words[0] if words and words[0] in ("code", "selection") else "answer"
    rest = words if named == "answer" else words[1:]
    most = 0 if named == "selection" else 1
    if len(rest) > most or not all(word.isdecimal() and int(word) > 0 for word in rest):
        raise SlashError("copy what? /copy, /copy N, /copy code, /copy code N or /copy selection")
    return CopyAsked(named, int(rest[0]) if rest else None)


def _parse_set(rest: str, settings: Settings) -> Set:
    name, _, value = rest.partition(" ")
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
        read: Any = None
        if value != setting.unset:
            read = read_value(name, value.strip('"').strip())
        return Set(name, replace(settings, **{name: read}))
    except ParameterError as error:
        raise SlashError(str(error)) from None
    except ValueError:
        raise SlashError(f"{value!r} is no value for {name}: {setting.usage}") from None


def _no_command(word: str) -> SlashError:
    if word in _INSTEAD:
        return SlashError(f"no command {word}; {_INSTEAD[word]}")
    sets = {f"/{name}": f"/set {name}" for name in CHAT_SETTINGS}
    known = [*(usage.split()[0] for usage, _ in USAGE), *_PLAIN, *sets.values()]
    hint = suggest(word, known, also=_ALSO | sets, otherwise="/? lists all")
    return SlashError(f"no command {word}. {_capitalized(hint)}")


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
