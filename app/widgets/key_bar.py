"""The footer: the keys that matter now, as many as fit."""

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

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
    ("chat.tint", "tint"), ("chat.help", "help"), ("app.quit", "quit"),
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

KEPT = 2
"""Keys at the end of each row that stay when others no longer fit: help and quit."""


class KeyBar(Line):
    """One line of keys and what they do.

    Attributes:
        row: the keys that matter now.
        keys: the key bindings in use.
        way_back: what the key of the tree does, when it has to stand among the first; else "".
    """

    row: reactive[KeyRow] = reactive(IDLE)
    keys: reactive[Keys] = reactive(Keys())
    way_back = reactive("")

    def __init__(self) -> None:
        super().__init__(id="keys")

    @override
    def render(self) -> Content:
        row = self.row
        if self.way_back:
            first, *others = (each for each in row if each[0] != "chat.tree")
            row = first, ("chat.tree", self.way_back), *others
        items = [
            Content.assemble((f" {self.keys.shown(key)}", "bold $primary"), (f" {act} ", "$notice"))
            for key, act in row
        ]
        while items and sum(item.cell_length for item in items) > self.size.width:
            items.pop(-1 - KEPT if len(items) > KEPT else -1)
        return Content("").join(items)
