"""The footer row: the keys that matter now, as many as fit."""

from textual.content import Content

from .line import Line

IDLE = (
    ("enter", "send"), ("f2", "pause"), ("[ ]", "steps"), ("f4", "tree"), ("f6", "tint"),
    ("^p", "palette"), ("f1", "help"), ("^q", "quit"),
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
        """As many keys as fit the width."""
        line = Content("")
        for key, act in self._keys:
            item = Content.assemble((f" {key}", "bold $primary"), (f" {act} ", "$notice"))
            if line.cell_length + item.cell_length > self.size.width:
                break
            line = line + item
        return line
