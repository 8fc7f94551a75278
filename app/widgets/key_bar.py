"""The footer row: the keys that matter now, as many as fit."""

from textual.content import Content

from ..config.keymap import Keys
from .line import Line

KeyRow = tuple[tuple[str, str], ...]
"""Ids of actions, or keys that cannot be changed, and what they do."""

IDLE: KeyRow = (
    ("prompt.send", "send"), ("chat.pause", "pause"), ("chat.step_before chat.step_after", "steps"),
    ("chat.race", "race"), ("chat.tree", "tree"), ("chat.edit", "edit"), ("chat.again", "again"),
    ("chat.tint", "tint"), ("chat.settings", "settings"), ("app.palette", "palette"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip
DECODING: KeyRow = (
    ("chat.stop", "stop"), ("chat.pause", "pause"), ("chat.step_before chat.step_after", "steps"),
    ("chat.tree", "tree"), ("chat.tint", "tint"), ("app.palette", "palette"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip
PAUSED: KeyRow = (
    ("chat.step", "one step"), ("chat.pause", "resume"), ("chat.stop", "stop"),
    ("chat.step_before chat.step_after", "steps"), ("chat.tree", "tree"), ("chat.tint", "tint"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip
WALKING: KeyRow = (
    ("chat.step_before chat.step_after", "steps"), ("chat.live", "live"),
    ("chat.first_step", "first step"), ("chat.pause", "pause"), ("chat.tree", "tree"),
    ("chat.tint", "tint"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip
EDITING: KeyRow = (
    ("prompt.send", "branch off"), ("chat.stop", "leave"), ("up down", "other message"),
    ("chat.branch_before chat.branch_after", "other branch"), ("chat.again", "ask again"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip
NODES: KeyRow = (
    ("tree.up tree.down", "node"), ("tree.why", "why"), ("chat.stop", "close"),
    ("chat.step_before chat.step_after", "steps"), ("chat.pause", "pause"), ("chat.tree", "tree"),
    ("chat.help", "help"), ("app.quit", "quit"),
)  # fmt: skip

_TREE = "chat.tree"
KEPT = 2
"""Keys at the end of each row that stay when others no longer fit: help and quit."""


class KeyBar(Line):
    """One line of key and act."""

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._keys = IDLE
        self._way_back = ""
        self._in_use = Keys()

    def use_keys(self, keys: Keys) -> None:
        """Call the actions by the keys that a person chose."""
        self._in_use = keys
        self.refresh()

    def show_keys(self, keys: KeyRow) -> None:
        """Show another set of keys."""
        if keys is not self._keys:
            self._keys = keys
            self.refresh()

    def show_way_back(self, act: str) -> None:
        """Show early what the key of the tree does; "" leaves it where the others have it."""
        if act != self._way_back:
            self._way_back = act
            self.refresh()

    @property
    def _row(self) -> KeyRow:
        if not self._way_back:
            return self._keys
        first, *others = (each for each in self._keys if each[0] != _TREE)
        return first, (_TREE, self._way_back), *others

    def render(self) -> Content:
        """As many keys as fit the width; how to get help and how to leave are the last to go."""
        items = [
            Content.assemble(
                (f" {self._in_use.shown(key)}", "bold $primary"), (f" {act} ", "$notice")
            )
            for key, act in self._row
        ]
        while items and sum(item.cell_length for item in items) > self.size.width:
            items.pop(-1 - KEPT if len(items) > KEPT else -1)
        return Content("").join(items)
