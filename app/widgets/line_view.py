"""A view of lines that are known: each is painted once, and finds its place for the mouse.

Owns painting and selection; which lines there are, and how they scroll, is the subclass's.
"""

from abc import abstractmethod
from collections.abc import Hashable

from rich.style import Style
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from .painted import Painted
from .rows import Row


class LineView(ScrollView, can_focus=True):
    """Paints the lines that a subclass has."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._painting = False
        self._painted = Painted()

    @abstractmethod
    def line(self, at: int) -> Row:
        """The line at a row of the virtual size."""

    @property
    @abstractmethod
    def look(self) -> Hashable:
        """All that the painted lines depend on beside themselves and the widget's own styles."""

    @property
    @abstractmethod
    def blank(self) -> Style:
        """Where no text is."""

    def render_lines(self, crop: Region) -> list[Strip]:
        """What is painted: the lines without their places in the text."""
        self._painting = True
        try:
            if self.text_selection is not None:
                return super().render_lines(crop)
            return self._painted_lines(crop)
        finally:
            self._painting = False

    def _painted_lines(self, crop: Region) -> list[Strip]:
        width, height = self.outer_size
        look = (
            width, self.scrollable_content_region.width, self.styles.border,
            self.background_colors, self.opacity,
            self.look, tuple(self.get_line_filters()),
        )  # fmt: skip
        # the first and the last lines belong to the frame
        first, end = max(crop.y, self.gutter.top), min(crop.bottom, height - self.gutter.bottom)
        at = self.scroll_offset.y - self.gutter.top
        rows = [(y, self.line(y + at)) for y in range(first, end)]
        strips = [
            *self._paint(crop.y, min(crop.bottom, first) - crop.y),
            *self._painted.lines(look, rows, self._paint),
            *self._paint(max(crop.y, end), crop.bottom - max(crop.y, end)),
        ]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _paint(self, first: int, count: int) -> list[Strip]:
        if count <= 0:
            return []
        return super().render_lines(Region(0, first, self.outer_size.width, count))

    def render_line(self, y: int) -> Strip:
        """One visible line; whoever asks where the mouse is finds places in the text in it."""
        width = self.scrollable_content_region.width
        at = y + self.scroll_offset.y
        line = self.line(at)
        if line is None:
            return Strip.blank(width, self.blank)
        strip = Strip(line).adjust_cell_length(width, self.blank)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(at)) is not None:
            start, end = span
            style = self.screen.get_component_rich_style("screen--selection")
            strip = _select(strip, start, width if end == -1 else end, style)
        # a place is part of a segment's style: painted, each line would fill the caches of styles
        return strip if self._painting else strip.apply_offsets(0, at)

    def selection_updated(self, selection: Selection | None) -> None:
        """Show what is selected."""
        del selection
        self.refresh()


def _select(strip: Strip, start: int, end: int, style: Style) -> Strip:
    before, inside, after = strip.divide([start, end, strip.cell_length])
    return Strip.join([before, inside.apply_style(style), after])
