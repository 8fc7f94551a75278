"""What can be typed in the prompt after a slash or an @, each with a line on what it is."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sequoia_core.errors import SequoiaError, counted
from sequoia_core.model.loading.catalogue import catalogue
from sequoia_core.model.loading.ollama import pulled_models
from sequoia_core.tree.files import find_growmap, growmap_names

from ...config.paths import working_folder
from ...config.presets import NO_PRESET, load_presets
from ...config.settings import ANSWER_SETTINGS, CHAT_SETTINGS
from ...present.words import value_text
from ...state.attachments import BINARIES
from ...state.chat_session import ChatSession
from ...state.completion import (
    ANSWER_WORDS,
    COMMANDS,
    EXPORTS,
    FILES,
    SIDES,
    VALUES,
    WORDS,
    Suggestion,
    Typing,
)
from ...state.slash_commands import (
    AGAINST,
    CURRENT_DRAFT,
    USAGE,
    WITH_WORDS,
    WORD_HELP,
    race_words,
)
from ...store.recorder import DatabaseRecorder, Recorder
from ...ui.base_app import BaseApp
from ...widgets.completions import Source
from ...widgets.line import sparkline
from .export import ENDINGS
from .scene_export import ENDINGS as TRACE_ENDINGS
from .tree_export import ENDINGS as TREE_ENDINGS

_IN_USE = "in use"
_GROWMAPS = {
    "auto": "chosen for this machine",
    "adaptive": "grown in each step by the draft's own probabilities",
    "dynamic": "the draft's most probable paths, in the modes topk and greedy",
    "measured": "a fixed shape, chosen by measured times",
}
_EXPORTS = ("to read", "for programs", "to replay", "a picture of the screen")
_TREE = "the tree of the step on show as a picture"
_WORD = re.compile("[a-z_]+")
_LEVELS = 10  # of a tree that its thumbnail shows
_FULL_BAR = 8  # nodes of a level, at least, for the highest bar
_MOST_FILES, _MOST_SEEN = 4_000, 40_000  # files that are offered, entries of folders that are read
_NO_SOURCES = frozenset({"__pycache__", "node_modules", "site-packages", "venv", "target", "dist"})
"""Folders of what programs made."""


@dataclass(frozen=True, slots=True)
class CompletionSources:
    """The suggestions for the arguments of commands; each method is a source, run in a thread."""

    session: ChatSession
    app: BaseApp
    recorder: Recorder

    def table(self) -> Mapping[str, Source]:
        """The sources by the names that `completed` in `slash_commands.toml` gives them."""
        return {
            COMMANDS: self._commands,
            WORDS: self._words,
            VALUES: self._values,
            ANSWER_WORDS: self._answer_settings,
            FILES: lambda _: [*files_below(working_folder())],
            "sessions": self._sessions,
            "presets": _presets,
            EXPORTS: _exports,
            SIDES: self._sides,
            "pairs": lambda _: [
                *(
                    Suggestion(each.name, f"{each.target.name} ← {each.draft.name}")
                    for each in catalogue()
                ),
                *(Suggestion(name, "of ollama") for name in pulled_models()),
            ],
            "imports": lambda _: [*files_below(working_folder(), _is_chat)],
        }

    def _commands(self, _: Typing) -> Sequence[Suggestion]:
        commands = {"/set": "change a setting of this chat"}
        for usage, text in USAGE:
            commands.setdefault(usage.split()[0], self.app.keys.shown(text))
        return [Suggestion(name, text, name[1:] in WITH_WORDS) for name, text in commands.items()]

    def _words(self, typing: Typing) -> Sequence[Suggestion]:
        """The words that a command takes, such as the names of settings."""
        found: dict[str, Suggestion] = {}
        for usage, text in USAGE:
            command, *words = usage.split()
            for name in words[0].strip("[]").split("|") if words else ():
                if command == f"/{typing.of}" and _WORD.fullmatch(name):
                    remark = ""
                    if typing.of == "set" and name in CHAT_SETTINGS:
                        remark = f"{value_text(self.session.settings, name)}; "
                    remark += WORD_HELP.get(f"{typing.of} {name}", text)
                    found.setdefault(name, Suggestion(name, remark, len(words) > 1))
        return list(found.values())

    def _answer_settings(self, _: Typing) -> Sequence[Suggestion]:
        return [
            Suggestion(f"{name}=", f"{value_text(self.session.settings, name)}; {each.help}", True)
            for name, each in ANSWER_SETTINGS.items()
        ]

    def _values(self, typing: Typing) -> Sequence[Suggestion]:
        setting = CHAT_SETTINGS.get(typing.of)
        if setting is None:
            return ()
        helps = dict.fromkeys(setting.choices, "")
        if setting.name == "growmap":
            helps = self._shapes()
        elif setting.name == "theme":
            themes = sorted(self.app.own_themes.items())
            helps = {name: "dark" if theme.dark else "light" for name, theme in themes}
        if setting.unset:
            helps[setting.unset] = "none of one's own"
        now = value_text(self.session.settings, setting.name)
        return [
            Suggestion(value, ", ".join(filter(None, (text, _IN_USE if value == now else ""))))
            for value, text in helps.items()
        ]

    def _shapes(self) -> dict[str, str]:
        """What growmaps there are, those made for the target first."""
        shapes = growmaps(bars=not self.app.accessible)
        target = "" if self.session.pair is None else self.session.pair.target.lower()
        made_for = (name for name in shapes if name.partition("/")[0] in target)
        return _GROWMAPS | {name: shapes[name] for name in made_for} | shapes

    def _sides(self, typing: Typing) -> Sequence[Suggestion]:
        """What can follow in the sides of a race; nothing need follow the second one."""
        before, shapes = typing.of.split(), self._shapes()
        words = race_words(before)
        helps = {name: WORD_HELP[f"race {name}"] for name in words if name not in shapes}
        helps |= {name: text for name, text in shapes.items() if name in words}
        if CURRENT_DRAFT in words:
            helps |= self._known_drafts()
        second = any(each.lower() in AGAINST for each in before)
        return [Suggestion(name, text, name == ":" or not second) for name, text in helps.items()]

    def _known_drafts(self) -> Mapping[str, str]:
        """Those of the catalogue for the target, besides the embedded one."""
        pair = self.session.pair
        target = "" if pair is None else pair.target.lower()
        return {
            each.draft.name: f"a draft of {each.target.name}"
            for each in catalogue()
            if not each.embedded and each.target.name.lower().endswith(target)
        }

    def _sessions(self, _: Typing) -> Sequence[Suggestion]:
        if not isinstance(self.recorder, DatabaseRecorder):
            return ()
        try:
            infos = self.recorder.archive.sessions()
        except SequoiaError:
            return ()  # the command itself says what is wrong
        return [
            Suggestion(each.label, counted(each.exchanges, "message"))
            for each in infos
            if not each.deleted and each.id != self.recorder.session
        ]


@lru_cache(maxsize=2)
def growmaps(*, bars: bool) -> dict[str, str]:
    """The packaged tree shapes with size and, as `bars`, the number of nodes on each level."""
    shapes = {}
    for name in growmap_names():
        tree = find_growmap(name)
        shapes[name] = f"{tree.size} nodes, depth {tree.depth}"
        if bars:
            levels = [len(level) for level in tree.levels[:_LEVELS]]
            thumbnail = sparkline([*levels, _FULL_BAR], len(levels) + 1)[:-1]
            shapes[name] = f"{thumbnail:<{_LEVELS}}  {shapes[name]}"
    return shapes


def _exports(typing: Typing) -> Sequence[Suggestion]:
    what, space, name = typing.typed.partition(" ")
    if what == "tree" and space:
        stem, endings = f"tree {name.strip() or 'tree'}", dict.fromkeys(TREE_ENDINGS, "")
    else:
        stem, endings = typing.typed or "chat", dict(zip(ENDINGS, _EXPORTS, strict=True))
    if Path(stem).suffix:
        return ()
    files = [Suggestion(stem + ending, text) for ending, text in endings.items()]
    return files if space else [*files, Suggestion("tree", _TREE, goes_on=True)]


def _presets(_: Typing) -> Sequence[Suggestion]:
    try:
        presets = {**load_presets(), NO_PRESET: "the model's own system prompt, or none"}
    except SequoiaError:
        return ()  # the command itself says what is wrong
    return [
        *(Suggestion(name, text) for name, text in presets.items()),
        Suggestion("save", "keep the system prompt of this chat under a name", goes_on=True),
        *(Suggestion(f"delete {name}") for name in presets if name != NO_PRESET),
    ]


def _is_chat(path: str) -> bool:
    return path.endswith((".json", *TRACE_ENDINGS))


def _is_text(path: str) -> bool:
    return Path(path).suffix.lower() not in BINARIES


def files_below(folder: Path, wanted: Callable[[str], bool] = _is_text) -> Iterator[Suggestion]:
    """Files that may be text, or others, the nearest first; of very large folders not all."""
    seen, left, folders = 0, _MOST_FILES, [""]
    while folders and left and seen < _MOST_SEEN:
        below: list[str] = []
        for name in folders:
            entries = _entries(folder / name)
            seen += len(entries)
            for entry in entries:
                path = f"{name}/{entry.name}".removeprefix("/")
                if entry.is_dir(follow_symlinks=False):
                    below += [path] * (entry.name not in _NO_SOURCES)
                elif left and wanted(path):
                    left -= 1
                    yield Suggestion(path, _size(entry), goes_on=True)
        folders = below


def _entries(folder: Path) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as found:
            seen = [each for each, _ in zip(found, range(_MOST_SEEN), strict=False)]
    except OSError:
        return []
    plain = (each for each in seen if not each.name.startswith(".") and each.name.isprintable())
    return sorted((each for each in plain if '"' not in each.name), key=lambda each: each.name)


def _size(entry: "os.DirEntry[str]") -> str:
    try:
        size = entry.stat().st_size
    except OSError:  # a broken link
        return ""
    return f"{size} bytes" if size < 1000 else f"{size / 1000:,.0f} kB"
