"""The growing text of a race's lane: plain lines, held at the end, differences highlighted."""

from functools import lru_cache
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from typing_extensions import override

from .blocks import wrap


@lru_cache(maxsize=1024)  # while a text grows, only its last paragraph changes
def _wrapped(text: str, own_from: int, width: int, style: Style, own_style: Style) -> list[Strip]:
    line = Text(text)
    line.stylize(own_style, own_from)
    rows = wrap(line, width) or [[]]
    return [Strip(Segment.apply_style(row, style)).adjust_cell_length(width, style) for row in rows]


class LaneText(ScrollView, can_focus=False):
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lane-text--text", "lane-text--own"}

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.text = ""
        self.own_from: int | None = None
        self._lines: list[Strip] = []
        self._following = True

    def show(self, text: str, own_from: int | None) -> None:
        """Draw a text that differs from the other lane from the character `own_from` on."""
        if text != self.text or own_from != self.own_from:
            self.text, self.own_from = text, own_from
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.call_later(self._draw)  # component styles change only after this

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        style, own_style = map(self.get_component_rich_style, ("lane-text--text", "lane-text--own"))
        own_from = len(self.text) if self.own_from is None else self.own_from
        self._lines = []
        for paragraph in self.text.split("\n"):
            own_at = min(max(0, own_from), len(paragraph))
            self._lines += _wrapped(paragraph, own_at, width, style, own_style)
            own_from -= len(paragraph) + 1
        following = self._following
        self.virtual_size = Size(width, len(self._lines))
        if following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        self.refresh()

    @override
    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._following = new_value >= self.max_scroll_y

    def watch_show_vertical_scrollbar(self) -> None:
        """Set the position of a new scroll bar, which begins at the top."""
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.position = self.scroll_y

    @override
    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        blank = Strip.blank(self.scrollable_content_region.width, self.rich_style)
        return self._lines[at] if at < len(self._lines) else blank
