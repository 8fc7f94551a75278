"""A lane's text as it grows: plain lines, held at the end, what differs from the other marked.

Only the last paragraph is wrapped anew when a token comes. Nothing is read as markup.
"""

import io
from typing import ClassVar

from rich.console import Console
from rich.segment import Segment
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

Paragraph = list[list[Segment]]


class LaneText(ScrollView, can_focus=False):
    """One lane of a race."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lane-text--own"}
    DEFAULT_CSS = """
    LaneText {
        overflow-x: hidden;
        & .lane-text--own { color: $bonus; text-style: bold; }
    }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._text = ""
        self._own_from: int | None = None
        self._key: tuple[object, ...] = ()
        self._paragraphs: list[Paragraph] = []
        self._lines: Paragraph = []
        self._wrapper = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)

    def show(self, text: str, own_from: int | None) -> None:
        """Draw a text.

        Args:
            text: control characters made visible already.
            own_from: index of the first character that the other lane's text has not, or None.
        """
        if text != self._text or own_from != self._own_from:
            self._paragraphs = self._paragraphs if text.startswith(self._text) else []
            self._text, self._own_from = text, own_from
            self._draw()

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self._draw()

    def notify_style_update(self) -> None:
        """Another theme: every line is drawn anew."""
        super().notify_style_update()
        self._paragraphs = []
        self._draw()

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        at_end = self.scroll_offset.y >= self.max_scroll_y
        key = (width, self._own_from)
        if key != self._key:
            self._key, self._paragraphs = key, []
        texts = self._text.split("\n")
        kept = max(0, min(len(self._paragraphs) - 1, len(texts)))
        del self._paragraphs[kept:]
        start = sum(len(text) + 1 for text in texts[:kept])
        for text in texts[kept:]:
            self._paragraphs.append(self._wrapped(text, start, width))
            start += len(text) + 1
        self._lines = [line for paragraph in self._paragraphs for line in paragraph]
        self.virtual_size = Size(width, len(self._lines))
        if at_end:
            self.scroll_end(animate=False)
        self.refresh()

    def _wrapped(self, text: str, start: int, width: int) -> Paragraph:
        line = Text(text, style=self.rich_style)
        if self._own_from is not None and start + len(text) > self._own_from:
            style = self.get_component_rich_style("lane-text--own")
            line.stylize(style, max(0, self._own_from - start))
        line.expand_tabs(4)
        parts = line.wrap(self._wrapper, width, overflow="fold", no_wrap=False)
        return [list(part.render(self._wrapper)) for part in parts] or [[]]

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        width, at = self.scrollable_content_region.width, y + self.scroll_offset.y
        if at >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        return Strip(self._lines[at]).adjust_cell_length(width, self.rich_style)
