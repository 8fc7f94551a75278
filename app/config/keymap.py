"""The keys in use: the defaults of `actions.toml`, and what a person changed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace
from textual.binding import Binding
from textual.keys import Keys as KnownKeys

from sequoia_core.errors import suggest

from .actions import Action

_EVERYWHERE = "app"
_TYPED = frozenset({"app", "chat", "prompt", "search", "models"})
"""Contexts in which letters are typed."""
_EMPTY_PROMPT = frozenset(
    {
        "chat.step", "chat.step_before", "chat.step_after", "chat.first_step", "chat.live",
        "chat.explain",
    }
)  # fmt: skip
"""These act only while the prompt is empty, so they may have letters."""
_TYPING = frozenset({"space", "enter", "backspace", "tab"})
_MODIFIERS = frozenset({"ctrl", "alt", "shift", "super", "hyper", "meta"})
_UNNAMED = frozenset({"newline"})  # sent by some terminals for another key
_NAMES = {
    "escape": "esc", "left_square_bracket": "[", "right_square_bracket": "]", "slash": "/",
    "question_mark": "?", "plus": "+", "minus": "-", "equals_sign": "=", "comma": ",",
    "full_stop": ".", "asterisk": "*", "pageup": "page up", "pagedown": "page down",
    "backslash": "\\",
}  # fmt: skip
_BASES = {key.value.rpartition("+")[2] for key in KnownKeys} | _UNNAMED | _NAMES.keys()
_ID = re.compile(r"\b[a-z]+\.[a-z_\d]+\b")


@dataclass(frozen=True, slots=True)
class Keys:
    actions: Mapping[str, Action] = field(default_factory=dict)  # by id, with the keys in use
    changed: frozenset[str] = frozenset()  # ids whose keys a person chose

    def of(self, action: str) -> tuple[str, ...]:
        """The keys of an action; none if there is no such action."""
        return self.actions[action].keys if action in self.actions else ()

    def by_key(self, actions: Iterable[str]) -> dict[str, str]:
        """Which of these actions each key does."""
        return {key: action for action in actions for key in self.of(action)}

    def shown(self, text: str, *, most: int | None = 1) -> str:
        """A text with at most so many keys, None for all, in place of each id of an action."""

        def named(found: re.Match[str]) -> str:
            keys = self.of(found.group())
            names = [key_name(key) for key in keys if key not in _UNNAMED] or keys
            return ", ".join(names[:most]) or found.group()

        return _ID.sub(named, text)

    def keymap(self) -> dict[str, str]:
        """For `App.set_keymap`."""
        return {action: ",".join(self.of(action)) for action in sorted(self.changed)}


def remapped(
    defaults: Iterable[Action], wanted: Mapping[str, Sequence[str]]
) -> tuple[Keys, tuple[str, ...]]:
    """Give actions other keys, `wanted` by their id; those without keys by default are left out.

    Returns the keys in use, and one line for each action that keeps its keys.
    """
    actions = {each.id: each for each in defaults if each.keys}
    problems: list[str] = []
    granted: dict[str, Action] = {}
    for name, keys in wanted.items():
        try:
            if name not in actions:
                hint = suggest(name, actions, otherwise="F5 lists them")
                raise ValueError(f"there is no action {name!r}; {hint}")
            if not keys:
                raise ValueError(f"{name} needs a key")
            known = tuple(_known(actions[name], key) for key in keys)
            granted[name] = replace(actions[name], keys=known)
        except ValueError as error:
            problems.append(f"keys: {error}")
    while clash := _first_clash({**actions, **granted}, granted):
        loser, other, key = clash
        kept = ", ".join(map(key_name, actions[loser].keys))
        problems.append(
            f"keys: {loser} cannot have {key_name(key)}, {other.id} has it "
            f"({other.title.lower()}); it keeps {kept}"
        )
        del granted[loser]
    return Keys({**actions, **granted}, frozenset(granted)), tuple(problems)


def key_name(key: str) -> str:
    *modifiers, base = key.split("+") if key != "+" else ["plus"]
    name = _NAMES.get(base, base)
    if modifiers == ["ctrl"] and len(name) == 1:
        return f"^{name}"
    return "+".join([*modifiers, name])


def _known(action: Action, key: str) -> str:
    """The key as Textual names it. Raises ValueError if there is none, or it is for typing."""
    given = key.strip()
    *modifiers, base = given.lower().split("+") if len(given) > 1 else [given]
    base = {"esc": "escape", "return": "enter", ",": "comma"}.get(base, base)
    if not set(modifiers) <= _MODIFIERS or (len(base) != 1 and base not in _BASES):
        raise ValueError(f"{action.id}: no key {key!r}; such as f9, ctrl+t or alt+left")
    types = base in _TYPING or len(_NAMES.get(base, base)) == 1
    if len(base) == 1:
        (binding,) = Binding.make_bindings([Binding(base, "")])
        base = binding.key
    types = types and not modifiers and action.context in _TYPED and action.id not in _EMPTY_PROMPT
    if types and (action.id, base) != ("prompt.send", "enter"):
        raise ValueError(f"{action.id}: {given} is needed for typing")
    return "+".join([*modifiers, base])


def _first_clash(
    actions: Mapping[str, Action], changed: Mapping[str, Action]
) -> tuple[str, Action, str] | None:
    """A changed action, another that has one of its keys, and the key."""
    for name in reversed(list(changed)):
        for other in actions.values():
            if other.id != name and _meet(changed[name], other):
                for key in changed[name].keys:
                    if key in other.keys:
                        return name, other, key
    return None


def _meet(one: Action, other: Action) -> bool:
    """Whether both can act at the same time."""
    contexts = {one.context, other.context}
    return len(contexts) == 1 or _EVERYWHERE in contexts or contexts == {"chat", "prompt"}
