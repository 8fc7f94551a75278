"""A lane's text as it grows: plain lines, held at the end, what differs from the other marked.

Only the last paragraph is wrapped anew when a token comes. Nothing is read as markup.
"""

import io
from typing import ClassVar

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

_Lines = list[list[Segment]]


class GrowingLines:
    """Wraps a text that grows.

    Args:
        style: of the text.
        own_style: of the part that the other lane's text has not.

    Attributes:
        styles: these two.
    """

    def __init__(self, style: Style, own_style: Style) -> None:
        self.styles = style, own_style
        self._console = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)
        self._key: tuple[int, int | None] = (0, None)
        self._text = ""
        self._paragraphs: list[_Lines] = []

    def wrap(self, text: str, own_from: int | None, width: int) -> _Lines:
        """The lines of the text before with more at its end, or of another one.

        Args:
            text: control characters made visible already.
            own_from: index of the first character that the other lane's text has not, or None.
            width: of the lines, at least 1.
        """
        key = (width, own_from)
        if key != self._key or not text.startswith(self._text):
            self._paragraphs = []
        self._key, self._text = key, text
        texts = text.split("\n")
        kept = max(0, len(self._paragraphs) - 1)
        del self._paragraphs[kept:]
        start = sum(len(each) + 1 for each in texts[:kept])
        for each in texts[kept:]:
            self._paragraphs.append(self._wrapped(each, start))
            start += len(each) + 1
        return [line for paragraph in self._paragraphs for line in paragraph]

    def _wrapped(self, text: str, start: int) -> _Lines:
        width, own_from = self._key
        style, own_style = self.styles
        line = Text(text)
        if own_from is not None and start + len(text) > own_from:
            line.stylize(own_style, max(0, own_from - start))
        line.expand_tabs(4)
        parts = line.wrap(self._console, width, overflow="fold", no_wrap=False)
        # text without spans is rendered without any style
        styled = [Segment.apply_style(part.render(self._console), style) for part in parts]
        return [list(each) for each in styled] or [[]]


class LaneText(ScrollView, can_focus=False):
    """One lane of a race."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lane-text--text", "lane-text--own"}
    DEFAULT_CSS = """
    LaneText {
        overflow-x: hidden;
        scrollbar-gutter: stable;
        & .lane-text--text { color: $foreground; }
        & .lane-text--own { color: $bonus; text-style: bold; }
    }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._text = ""
        self._own_from: int | None = None
        self._growing: GrowingLines | None = None
        self._lines: _Lines = []
        self._following = True

    def show(self, text: str, own_from: int | None) -> None:
        """Draw a text; the parameters are those of `GrowingLines.wrap`."""
        if text != self._text or own_from != self._own_from:
            self._text, self._own_from = text, own_from
            self._draw()

    @property
    def own(self) -> str:
        """The part of the text that is marked as not the other lane's."""
        return "" if self._own_from is None else self._text[self._own_from :]

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self._draw()

    def notify_style_update(self) -> None:
        """Another theme: every line is drawn anew."""
        super().notify_style_update()
        self.call_later(self._draw)  # the styles of parts are taken over only after this

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        own_style = self.get_component_rich_style("lane-text--own")
        if self._growing is None or self._growing.styles != (self._text_style, own_style):
            self._growing = GrowingLines(self._text_style, own_style)
        following = self._following
        self._lines = self._growing.wrap(self._text, self._own_from, width)
        self.virtual_size = Size(width, len(self._lines))
        if following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whoever scrolls away from the end is not carried along."""
        super().watch_scroll_y(old_value, new_value)
        self._following = new_value >= self.max_scroll_y

    def watch_show_vertical_scrollbar(self) -> None:
        """A bar that comes knows nothing of how far the text was scrolled before."""
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.position = self.scroll_y

    @property
    def _text_style(self) -> Style:
        return self.get_component_rich_style("lane-text--text")

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        width, at = self.scrollable_content_region.width, y + self.scroll_offset.y
        if at >= len(self._lines):
            return Strip.blank(width, self._text_style)
        return Strip(self._lines[at]).adjust_cell_length(width, self._text_style)
