"""The footer: the keys that matter now, as many as fit."""

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from ..config.actions import KeyRow, key_row
from ..config.keymap import Keys
from .line import Line

_STEPS = ("chat.step_before chat.step_after", "steps")
_END = ("chat.help", "app.quit")
IDLE = key_row(
    "prompt.send", "chat.pause", _STEPS, "chat.race", "chat.tree", "chat.edit", "chat.again",
    "chat.tint", "chat.settings", "app.palette", *_END,
)  # fmt: skip
DECODING = key_row(
    "chat.stop", "chat.pause", _STEPS, "chat.tree", "chat.tint", "app.palette", *_END
)
PAUSED = key_row(
    "chat.step", ("chat.pause", "resume"), "chat.stop", _STEPS, "chat.tree", "chat.tint", *_END
)
WALKING = key_row(
    _STEPS, "chat.live", "chat.first_step", "chat.pause", "chat.tree", "chat.tint", *_END
)
EDITING = key_row(
    ("prompt.send", "branch off"), ("chat.stop", "leave"), ("up down", "other message"),
    ("chat.branch_before chat.branch_after", "other branch"), ("chat.again", "ask again"), *_END,
)  # fmt: skip
NODES = key_row(
    ("tree.up tree.down", "node"), "tree.why", ("chat.stop", "close"), _STEPS, "chat.pause",
    "chat.tree", *_END,
)  # fmt: skip

KEPT = len(_END)  # keys at the end of each row that stay when others no longer fit


class KeyBar(Line):
    ID = "keys"
    row: reactive[KeyRow] = reactive(IDLE)
    keys: reactive[Keys] = reactive(Keys())
    way_back = reactive("")  # what the key of the tree does, if it has to stand among the first

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
