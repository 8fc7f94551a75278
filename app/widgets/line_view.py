"""A view of lines that are known: each is painted once, and finds its place for the mouse.

Owns painting and selection; which lines there are, and how they scroll, is the subclass's.
"""

from abc import abstractmethod
from collections.abc import Hashable

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.selection import Selection
from textual.strip import Strip

from .framed import FramedView
from .painted import Painted
from .rows import Row


class LineView(FramedView):
    """Paints the lines that a subclass has."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._painting = False
        self._painted = Painted[Row]()

    @abstractmethod
    def line(self, at: int) -> Row:
        """The line at a row of the virtual size."""

    @property
    @abstractmethod
    def look(self) -> Hashable:
        """What the painted lines depend on beside themselves and the frame."""

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
            return self.framed(crop, self._lines)
        finally:
            self._painting = False

    def _lines(self, at: range) -> list[Strip]:
        brush, blank, top = self.brush, self.blank, self.scroll_offset.y
        self._painted.use((brush.look, self.look))

        def paint(row: Row) -> Strip:
            return brush.paint(row or (), blank)

        return [self._painted.line(self.line(top + y), paint) for y in at]

    def render_line(self, y: int) -> Strip:
        """One visible line; whoever asks where the mouse is finds places in the text in it."""
        width, at = self.scrollable_content_region.width, y + self.scroll_offset.y
        row = self.line(at)
        if row is None:
            return Strip.blank(width, self.blank)
        strip = Strip(row).adjust_cell_length(width, self.blank)
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
    # over the text's own style, whose background would hide the selection's; its colour stays
    ground = Style(bgcolor=style.bgcolor, reverse=style.reverse)
    chosen = Strip(Segment.apply_style(inside, post_style=ground), inside.cell_length)
    return Strip.join([before, chosen, after])
