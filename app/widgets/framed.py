"""A scrolling view that paints its lines itself; Textual paints the frame around them.

Textual asks for the frame's characters, colours and effects anew at every line, at some 0.2 to
0.4 ms a line: for a screen full of text that is longer than a person takes to notice.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.strip import Strip


@dataclass(frozen=True, slots=True)
class Brush:
    """Paints lines of text with the frame at both sides.

    Attributes:
        look: all that a painted line depends on but its text.
        text_width: cells there are for text.
        width: cells within the frame, which may have a scroll bar's beside those for text.
        background: behind the text.
        filters: that all that is painted passes through.
        sides: the painted frame left and right of the text.
    """

    look: Hashable
    text_width: int
    width: int
    background: Color
    filters: tuple[LineFilter, ...]
    sides: tuple[Strip, Strip] = field(compare=False)

    def paint(self, text: Iterable[Segment], blank: Style) -> Strip:
        """A whole line.

        Args:
            text: what it says; cut if there is more than room.
            blank: what lies beside the text.
        """
        segments = list(text)
        cells = sum(segment.cell_length for segment in segments)
        if cells > self.text_width:
            segments, cells = list(Strip(segments).crop(0, self.text_width)), self.text_width
        segments.append(Segment(" " * (self.width - cells), blank))
        for each in self.filters:
            segments = each.apply(segments, self.background)
        left, right = self.sides
        length = left.cell_length + self.width + right.cell_length
        return Strip([*left, *segments, *right], length)


class FramedView(ScrollView):
    """Has a brush, and the lines that Textual paints at the top and at the bottom.

    What Textual does to a widget's text (opacity, tint, hatch) it does not do to these lines.
    """

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._brush: Brush | None = None

    @property
    def brush(self) -> Brush:
        """Paints lines as they have to look now."""
        text, width = self.scrollable_content_region.width, self.content_size.width
        background, filters = self.background_colors[1], tuple(self.get_line_filters())
        holds_text = self.outer_size.height > self.gutter.height
        look = (
            self.outer_size.width, holds_text, text, width, self.gutter, self.styles.border,
            self.background_colors, filters,
        )  # fmt: skip
        if self._brush is None or self._brush.look != look:
            self._brush = Brush(look, min(text, width), width, background, filters, self._sides())
        return self._brush

    def framed(self, crop: Region, lines: Callable[[range], Iterable[Strip]]) -> list[Strip]:
        """What is painted in a part of the view.

        Args:
            crop: the part.
            lines: gives whole lines by their numbers, 0 being the first within the frame.
        """
        width, height = self.outer_size
        top = self.gutter.top
        first, end = max(crop.y, top), min(crop.bottom, height - self.gutter.bottom)
        strips = [
            *self._textuals(crop.y, min(crop.bottom, first) - crop.y),
            *lines(range(first - top, end - top)),
            *self._textuals(max(crop.y, end), crop.bottom - max(crop.y, end)),
        ]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _sides(self) -> tuple[Strip, Strip]:
        """The frame beside the first line, as Textual paints it."""
        lines = self._textuals(self.gutter.top, 1)
        start = self.gutter.left
        return lines[0].crop(0, start), lines[0].crop(start + self.content_size.width)

    def _textuals(self, first: int, count: int) -> list[Strip]:
        """Lines as Textual paints them."""
        if count <= 0:
            return []
        return super().render_lines(Region(0, first, self.outer_size.width, count))
