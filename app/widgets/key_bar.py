"""The line of keys at the bottom of a screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.files import parse_toml

from ..config.actions import ACTIONS
from ..config.keymap import Keys
from .line import Line

_WORDS = {each.id: each.bar for each in ACTIONS}
_ROWS = parse_toml(Path(__file__).with_name("key_rows.toml").read_text("utf-8"))
_KEPT = 2  # keys at the end of each row that stay when others no longer fit


class KeyBar(Line):
    """The keys that matter now, as many as fit; a click does what a key does."""

    ID = "keys"
    row = reactive("idle")  # its name in `key_rows.toml`
    keys: reactive[Keys] = reactive(Keys())
    way_back = reactive("")  # what the key of the tree does, if it has to stand among the first
    _pointed: reactive[str] = reactive("")  # the key that the mouse is over

    @override
    def render(self) -> Content:
        parts = []
        for names, act in self._items():
            pointed = self._pointed in [key for key, _ in names]
            style = " on $primary 25%" if pointed else ""
            for key, name in names:
                underline = " underline" if key == self._pointed else ""
                parts.append((f" {name}", f"bold $primary{underline}{style}"))
            parts.append((f" {act} ", f"$notice{style}"))
        return Content.assemble(*parts)

    def _items(self) -> list[tuple[list[tuple[str, str]], str]]:
        """What fits: each has its keys with their names, and what they do."""
        row: list[Sequence[str]] = [
            (each, _WORDS[each.split()[0]]) if isinstance(each, str) else each
            for each in _ROWS[self.row]
        ]
        if self.way_back:
            first, *others = (each for each in row if each[0] != "chat.tree")
            row = [first, ("chat.tree", self.way_back), *others]
        items = [([self._key(name) for name in ids.split()], act) for ids, act in row]
        while items and sum(map(_item_cells, items)) > self.size.width:
            items.pop(-1 - _KEPT if len(items) > _KEPT else -1)
        return items

    def _key(self, name: str) -> tuple[str, str]:
        """A key and its name, from itself or the id of an action."""
        return next(iter(self.keys.of(name)), name), self.keys.shown(name)

    def _key_at(self, x: int) -> str:
        """The key at a column, a word on what it does belonging to the first; "" for none."""
        for item in self._items():
            names, _ = item
            if x < (cells := _item_cells(item)):
                for key, name in names:
                    x -= 1 + cell_len(name)
                    if x < 0:
                        return key
                return names[0][0]
            x -= cells
        return ""

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._pointed = self._key_at(event.x)

    def on_leave(self) -> None:
        self._pointed = ""

    def on_click(self, event: events.Click) -> None:
        if key := self._key_at(event.x):
            self.app.simulate_key(key)


def _item_cells(item: tuple[list[tuple[str, str]], str]) -> int:
    names, act = item
    return sum(1 + cell_len(name) for _, name in names) + cell_len(act) + 2
