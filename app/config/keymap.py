"""The keys in use: the defaults of `ACTIONS`, and what a person changed."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from textual.binding import Binding
from textual.keys import Keys as KnownKeys

from sequoia_core.errors import suggest

from .actions import Action

_EVERYWHERE = "app"
_TYPED = frozenset({"app", "chat", "prompt", "search"})
"""Contexts in which letters are typed."""
_EMPTY_PROMPT = frozenset(
    {"chat.step", "chat.step_before", "chat.step_after", "chat.first_step", "chat.live"}
)
"""These act only while the prompt is empty, so they may have letters."""
_TYPING = frozenset({"space", "enter", "backspace", "tab"})
_MODIFIERS = frozenset({"ctrl", "alt", "shift", "super", "hyper", "meta"})
_BASES = frozenset(key.value.rpartition("+")[2] for key in KnownKeys) | {
    "space",
    "enter",
    "newline",
}
_ID = re.compile(r"\b[a-z]+\.[a-z_]+\b")
_UNNAMED = frozenset({"newline"})
"""Sent by some terminals for another key."""
_NAMES = {
    "escape": "esc", "left_square_bracket": "[", "right_square_bracket": "]", "slash": "/",
    "question_mark": "?", "plus": "+", "minus": "-", "equals_sign": "=", "comma": ",",
    "full_stop": ".", "pageup": "page up", "pagedown": "page down", "backslash": "\\",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys in use.

    Attributes:
        actions: by id, with the keys in use.
        changed: ids whose keys a person chose.
    """

    actions: Mapping[str, Action] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()

    def of(self, action: str) -> tuple[str, ...]:
        """The keys of an action; none if there is no such action."""
        return self.actions[action].keys if action in self.actions else ()

    def by_key(self, actions: Iterable[str]) -> dict[str, str]:
        """Which of these actions each key does."""
        return {key: action for action in actions for key in self.of(action)}

    def shown(self, text: str, *, every: bool = False) -> str:
        """A text in which ids of actions are replaced by the names of their keys.

        Args:
            text: ids and other words.
            every: name all keys of an action, not only the first.
        """
        return _ID.sub(lambda found: self._named(found.group(), every), text)

    def _named(self, word: str, every: bool) -> str:
        keys = self.of(word)
        if not keys:
            return word
        names = [key_name(key) for key in keys if key not in _UNNAMED] or [key_name(keys[0])]
        return ", ".join(names if every else names[:1])

    def keymap(self) -> dict[str, str]:
        """For `App.set_keymap`."""
        return {action: ",".join(self.of(action)) for action in sorted(self.changed)}


def remapped(
    defaults: Iterable[Action], wanted: Mapping[str, Sequence[str]]
) -> tuple[Keys, tuple[str, ...]]:
    """Give actions other keys.

    Args:
        defaults: the actions; those without keys are left out.
        wanted: keys by the id of an action.

    Returns:
        The keys in use, and one line for each action that keeps its keys.
    """
    actions = {each.id: each for each in defaults if each.keys}
    problems: list[str] = []
    granted: dict[str, Action] = {}
    for name, keys in wanted.items():
        try:
            granted[name] = _changed(actions, name, keys)
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
    """The name of a key on the screen."""
    *modifiers, base = key.split("+") if key != "+" else ["plus"]
    name = _NAMES.get(base, base)
    if modifiers == ["ctrl"] and len(name) == 1:
        return f"^{name}"
    return "+".join([*modifiers, name])


def _changed(actions: Mapping[str, Action], name: str, keys: Sequence[str]) -> Action:
    action = actions.get(name)
    if action is None:
        hint = suggest(name, actions, otherwise="F5 lists them")
        raise ValueError(f"there is no action {name!r}; {hint}")
    if not keys:
        raise ValueError(f"{name} needs a key")
    return replace(action, keys=tuple(_known(name, action.context, key) for key in keys))


def _known(name: str, context: str, key: str) -> str:
    """The key as Textual names it.

    Raises:
        ValueError: there is no such key, or it is needed for typing.
    """
    *modifiers, base = key.strip().lower().split("+") if len(key.strip()) > 1 else [key.strip()]
    if not base or not set(modifiers) <= _MODIFIERS:
        raise ValueError(f"{name}: no key {key!r}; such as f9, ctrl+t or alt+left")
    if len(base) == 1:
        (binding,) = Binding.make_bindings([Binding("comma" if base == "," else base, "")])
        base, typed = binding.key, True
    else:
        base = {"esc": "escape", "return": "enter"}.get(base, base)
        typed = base in _TYPING or len(_NAMES.get(base, "")) == 1
        if base not in _BASES and base not in _NAMES:
            raise ValueError(f"{name}: no key {key!r}; such as f9, ctrl+t or alt+left")
    types = typed and not modifiers and context in _TYPED and name not in _EMPTY_PROMPT
    if types and (name, base) != ("prompt.send", "enter"):
        raise ValueError(f"{name}: {key.strip()} is needed for typing")
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
