"""The growing text of a race's lane: plain lines, held at the end, differences highlighted."""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from typing_extensions import override

from ..present.markdown import Lines
from .blocks import wrap


class GrowingLines:
    """Wraps a text that grows; only its last paragraph is wrapped again.

    Attributes:
        styles: of the text, and of the part that differs from the other lane.
    """

    def __init__(self, style: Style, own_style: Style) -> None:
        self.styles = style, own_style
        self._key: tuple[int, int | None] = (0, None)
        self._text = ""
        self._paragraphs: list[Lines] = []

    def wrap(self, text: str, own_from: int | None, width: int) -> Lines:
        """The lines of the text before with more at its end, or of another text.

        From the character `own_from` on, the text differs from the other lane.
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

    def _wrapped(self, text: str, start: int) -> Lines:
        width, own_from = self._key
        style, own_style = self.styles
        line = Text(text)
        if own_from is not None and start + len(text) > own_from:
            line.stylize(own_style, max(0, own_from - start))
        return [list(Segment.apply_style(part, style)) for part in wrap(line, width)] or [[]]


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
        self._lines: Lines = []
        self._following = True

    def show(self, text: str, own_from: int | None) -> None:
        """Draw a text; the parameters are those of `GrowingLines.wrap`."""
        if text != self._text or own_from != self._own_from:
            self._text, self._own_from = text, own_from
            self._draw()

    @property
    def own(self) -> str:
        """The part of the text that differs from the other lane."""
        return "" if self._own_from is None else self._text[self._own_from :]

    def on_resize(self) -> None:
        """Wrap at another width."""
        self._draw()

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.call_later(self._draw)  # component styles change only after this

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        styles = self._text_style, self.get_component_rich_style("lane-text--own")
        if self._growing is None or self._growing.styles != styles:
            self._growing = GrowingLines(*styles)
        following = self._following
        self._lines = self._growing.wrap(self._text, self._own_from, width)
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

    @property
    def _text_style(self) -> Style:
        return self.get_component_rich_style("lane-text--text")

    @override
    def render_line(self, y: int) -> Strip:
        width, at = self.scrollable_content_region.width, y + self.scroll_offset.y
        if at >= len(self._lines):
            return Strip.blank(width, self._text_style)
        return Strip(self._lines[at]).adjust_cell_length(width, self._text_style)
