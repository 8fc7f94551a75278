"""The footer row: the keys that matter now, as many as fit."""

from textual.content import Content

from .line import Line

IDLE = (
    ("enter", "send"), ("f2", "pause"), ("[ ]", "steps"), ("f4", "tree"), ("^e", "edit"),
    ("^r", "again"), ("f6", "tint"), ("^p", "palette"), ("f1", "help"), ("^q", "quit"),
)  # fmt: skip
DECODING = (
    ("esc", "stop"), ("f2", "pause"), ("[ ]", "steps"), ("f4", "tree"), ("f6", "tint"),
    ("^p", "palette"), ("f1", "help"), ("^q", "quit"),
)  # fmt: skip
PAUSED = (
    ("space", "one step"), ("f2", "resume"), ("esc", "stop"), ("[ ]", "steps"), ("f4", "tree"),
    ("f6", "tint"), ("f1", "help"), ("^q", "quit"),
)  # fmt: skip
WALKING = (
    ("[ ]", "back and forth"), ("home", "first step"), ("end", "live"), ("f2", "pause"),
    ("f4", "tree"), ("f6", "tint"), ("f1", "help"), ("^q", "quit"),
)  # fmt: skip
EDITING = (
    ("enter", "send as another branch"), ("esc", "leave"), ("up down", "other message"),
    ("alt+left right", "other branch"), ("^r", "ask again"), ("f1", "help"), ("^q", "quit"),
)  # fmt: skip

KEPT = 2
"""Keys at the end of each row that stay when others no longer fit: help and quit."""


class KeyBar(Line):
    """One line of key and act."""

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._keys: tuple[tuple[str, str], ...] = IDLE

    def show_keys(self, keys: tuple[tuple[str, str], ...]) -> None:
        """Show another set of keys."""
        if keys is not self._keys:
            self._keys = keys
            self.refresh()

    def render(self) -> Content:
        """As many keys as fit the width; how to get help and how to leave are the last to go."""
        items = [
            Content.assemble((f" {key}", "bold $primary"), (f" {act} ", "$notice"))
            for key, act in self._keys
        ]
        while items and sum(item.cell_length for item in items) > self.size.width:
            items.pop(-1 - KEPT if len(items) > KEPT else -1)
        return Content("").join(items)
