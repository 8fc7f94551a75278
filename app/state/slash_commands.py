"""Slash commands: a line is read, or an error says in one line what is wrong with it."""

import re
import shlex
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sequoia_core.chat.race import PLAIN, PLAIN_AND_CHOSEN, RaceSide
from sequoia_core.config import NON_SEQUOIA_MODES, RANKED_MODES, Lookup, Mode
from sequoia_core.errors import ParameterError, SequoiaError, close_names, suggest
from sequoia_core.files import parse_toml, path_exists
from sequoia_core.tree.choice import ADAPTIVE, DYNAMIC
from sequoia_core.tree.files import growmap_names

from ..config.load import read_value
from ..config.model_choice import SHAPES, chosen_models, tree_choice
from ..config.settings import ANSWER_SETTINGS, CHAT_SETTINGS, Settings, shown


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
WORD_HELP: dict[str, str] = _TABLES["words"]
"""What a word of a command does, where its line in `USAGE` is of several."""
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


AGAINST = ("vs", "vs.", "versus", "against")
_LOOKUPS = {"lookup": Lookup.ON, "no-lookup": Lookup.OFF}
_KINDS = {"mode": "mode", "growmap": "growmap", "tree": "growmap", "draft": "draft"}
CURRENT_DRAFT = "current"  # the draft that is in use
_NONE = "none"  # no draft: plain decoding
_MOST_WORDS = 3  # of a side: mode, growmap, lookup


def parse_race(words: str, settings: Settings) -> tuple[tuple[RaceSide, RaceSide], str]:
    """Read the argument of `/race`: both sides, and the prompt or "".

    `A vs B` and `A vs B: PROMPT` name sides where A and B are names; all else is a prompt, and so
    is what comes after a colon at the beginning. Raises SlashError for a side that cannot be, or
    that is misspelt before a colon.
    """
    colon = re.search(r":(?=\s|$)", words)
    head, prompt = (words[: colon.start()], words[colon.end() :].strip()) if colon else (words, "")
    named = head.split()
    between = [at for at, word in enumerate(named) if word.lower() in AGAINST]
    if colon and not named:
        return PLAIN_AND_CHOSEN, prompt
    if len(between) != 1 or between[0] in (0, len(named) - 1):
        return PLAIN_AND_CHOSEN, words
    texts = [named[: between[0]], named[between[0] + 1 :]]
    kind = _KINDS.get(texts[0][0]) if len(texts[0]) == 2 else None
    if kind is not None:  # before the second it may be left out
        texts = [text[text[0] == named[0] and len(text) > 1 :] for text in texts]
    shapes = {*growmap_names(), *SHAPES}
    known = [all(_is_name(word, shapes) for word in text) for text in texts]
    single = max(map(len, texts)) == 1
    if not all(known) and not (single and (kind is not None or any(known))):
        if colon and kind != "draft" and max(map(len, texts)) <= _MOST_WORDS:
            _check_spelling([word for text in texts for word in text], shapes)
        return PLAIN_AND_CHOSEN, words
    labels = [" ".join(word.rpartition("/")[2] for word in text) for text in texts]
    if labels[0] == labels[1]:  # of shapes in several folders
        labels = [" ".join(text) for text in texts]
    try:
        first, second = (
            PLAIN
            if text in ([PLAIN.label], [Mode.AR.value])
            else _side(text, label, kind, settings)
            for text, label in zip(texts, labels, strict=True)
        )
    except SequoiaError as error:
        raise _no_side(str(error)) from None
    return (first, second), prompt


def _no_side(text: str) -> SlashError:
    way_out = "If this is a prompt: /race : PROMPT"
    asks = text.endswith("?")
    return SlashError(f"{text} {way_out}" if asks else f"{text}; {way_out[0].lower()}{way_out[1:]}")


def _check_spelling(words: Sequence[str], shapes: Collection[str]) -> None:
    """Raises SlashError if one of these words is nearly a name."""
    names = [PLAIN.label, *Mode, *_LOOKUPS, *shapes]
    for word in words:
        if not _is_name(word, shapes) and close_names(word, names):
            raise _no_side(f"{word!r:.60} is no mode or growmap; {suggest(word, names)}")


def race_words(before: Sequence[str]) -> Sequence[str]:
    """The words that can follow those of the sides of a race; none where it is a prompt."""
    between = [at for at, word in enumerate(before) if word.lower() in AGAINST]
    first, second = [*before], list[str]()
    if between:
        first, second = first[: between[0]], first[between[0] + 1 :]
    shapes = [*SHAPES, *growmap_names()]
    drafts = first[:1] == ["draft"]
    if drafts:
        first, second = first[1:], second[second[:1] == ["draft"] :]
    if len(between) > 1 or not (drafts or all(_is_name(each, shapes) for each in first + second)):
        return ()
    side = second if between else first
    ends = ([":"] if between else [AGAINST[0]]) if side else []
    if drafts:
        return ends if len(side) == 1 else [] if side else [CURRENT_DRAFT, _NONE]
    if {PLAIN.label, Mode.AR.value}.intersection(side):
        return ends
    parts = ([*map(str, Mode)], [*_LOOKUPS], shapes)
    unfit = {Mode.AR} if side else set[str]()
    if ADAPTIVE in side:
        unfit |= NON_SEQUOIA_MODES
    elif NON_SEQUOIA_MODES.intersection(side):
        unfit |= {ADAPTIVE}
    if any(map(_is_dynamic, side)):
        unfit |= {*Mode} - RANKED_MODES
    elif not RANKED_MODES.intersection(side):
        unfit |= {DYNAMIC}
    names = [name for part in parts if not {*part}.intersection(side) for name in part]
    alone = [] if side else [PLAIN.label] if before else [PLAIN.label, "draft"]
    return [*ends, *alone, *(name for name in names if name not in unfit)]


def _is_name(word: str, shapes: Container[str]) -> bool:
    """Whether a word names a part of a side."""
    named = word in tuple(Mode) or word in _LOOKUPS or word in shapes or word == PLAIN.label
    return (
        named or _is_dynamic(word) or (Path(word).suffix in (".json", ".pt") and path_exists(word))
    )


def _is_dynamic(word: str) -> bool:
    return word.partition(":")[0] == DYNAMIC


def _side(words: Sequence[str], label: str, kind: str | None, settings: Settings) -> RaceSide:
    """A side by the names of its mode, its growmap, and whether it looks up."""
    if words in ([PLAIN.label], [Mode.AR.value]):
        return PLAIN
    if kind == "draft":
        (draft,) = words
        if draft == _NONE:
            return PLAIN
        if draft == CURRENT_DRAFT or _in_use(draft, settings):
            return RaceSide(label)
        if not {"/", ":"} & set(draft) and not path_exists(draft):
            raise SlashError(f"draft {draft}: no such file or folder, and no hub id (owner/name)")
        return RaceSide(label, draft=draft)
    if settings.mode is Mode.AR:
        settings = replace(settings, mode=Mode.SEQUOIA)
    for word in words:
        if word in _LOOKUPS:
            settings = replace(settings, lookup=_LOOKUPS[word])
        elif word in tuple(Mode) or kind == "mode":
            _, settings = parse_set(f"mode {word}", settings)
        else:
            settings = replace(settings, growmap=word)
    return RaceSide(label, tree_choice(settings))


def _in_use(draft: str, settings: Settings) -> bool:
    """Whether the chat decodes with this draft, which then need not be loaded again."""
    now = chosen_models(settings).draft
    return now is not None and Path(draft).resolve() == Path(now).resolve()


def parse_answer(words: str) -> bool:
    """Whether a command says `answer`. Raises SlashError if it says anything else."""
    if words not in ("", "answer"):
        raise SlashError(f"{words!r:.40} is not known here; the only word is: answer")
    return bool(words)


def parse_again(words: str, settings: Settings) -> tuple[dict[str, str], Settings]:
    """Read the argument of `/again`: what differs for one answer, and all settings with it.

    A growmap that is named is used in show mode too. Raises SlashError if there is no such setting,
    or its value cannot be used.
    """
    given = settings
    try:
        parts = shlex.split(words)
    except ValueError:
        raise SlashError("a quotation mark is missing; a value with spaces has two") from None
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise SlashError(f"{part!r:.40} is no NAME=VALUE, such as temperature=0.9 or mode=ar")
        if name in CHAT_SETTINGS and name not in ANSWER_SETTINGS:
            raise SlashError(f"{name} is not of one answer; /set {name} changes it")
        given = with_settings({name: value}, given)
    changed = {
        name: shown(value) or setting.unset
        for name, setting in ANSWER_SETTINGS.items()
        if (value := getattr(given, name)) != getattr(settings, name)
    }
    return changed, given


def with_settings(given: Mapping[str, str], settings: Settings) -> Settings:
    """Settings with those of one answer, by name as they were typed.

    Raises SlashError if there is no such setting, or its value cannot be used.
    """
    for name, value in given.items():
        _, settings = parse_set(f"{name} {value}", settings)
        if name == "growmap":
            settings = replace(settings, show_tree=False)
    return settings


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]
