"""A scrolling view that paints its own lines and reuses those that have not changed.

Textual computes border, colours and effects anew for every line, which takes 0.2 to 0.4 ms a line:
too long for a screen full of text. Opacity, tint and hatch do not apply to these lines.
"""

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from typing_extensions import override

MOST_PAINTED = 400
"""Painted lines that are kept; beyond it, all are dropped."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _Frame:
    """What all painted lines have in common.

    Attributes:
        key: everything that a painted line depends on except its text.
        text_width: cells for text.
        width: cells within the border, including the scroll bar.
        background: behind the text.
        filters: applied to everything that is painted.
        sides: the border left and right of the text.
    """

    key: Hashable
    text_width: int
    width: int
    background: Color
    filters: tuple[LineFilter, ...]
    sides: tuple[Strip, Strip]

    def paint(self, text: Iterable[Segment], blank: Style) -> Strip:
        """A whole line; text that is too wide is cut, `blank` fills the rest."""
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


class LineView(ScrollView, Generic[Item]):
    """Paints the items of a subclass, one per line, and supports selecting their text."""

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._frame: _Frame | None = None
        self._key: Hashable = None
        self._painted: dict[int, tuple[Item, Strip]] = {}
        self._painting = False

    @abstractmethod
    def item_at(self, y: int) -> Item | None:
        """The item at a visible line; None for a line that only `render_line` draws."""

    @abstractmethod
    def segments(self, item: Item, width: int) -> Iterable[Segment]:
        """The text of an item in a line of so many cells."""

    @property
    @abstractmethod
    def look(self) -> Hashable:
        """Everything that the drawing of an item depends on except the item and the frame."""

    @property
    @abstractmethod
    def blank(self) -> Style:
        """The style where there is no text."""

    @override
    def render_lines(self, crop: Region) -> list[Strip]:
        self._painting = True
        try:
            if self.text_selection is not None:
                return super().render_lines(crop)
            return self._framed_lines(crop)
        finally:
            self._painting = False

    @override
    def render_line(self, y: int) -> Strip:
        width, at = self.scrollable_content_region.width, y + self.scroll_offset.y
        item = self.item_at(y)
        if item is None:
            return Strip.blank(width, self.blank)
        strip = Strip(self.segments(item, width)).adjust_cell_length(width, self.blank)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(at)) is not None:
            start, end = span
            style = self.screen.get_component_rich_style("screen--selection")
            strip = _select(strip, start, width if end == -1 else end, style)
        # Offsets are for the mouse; in painted lines they would fill the caches of styles.
        return strip if self._painting else strip.apply_offsets(0, at)

    @override
    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._painted = {}
        self.refresh()

    def _framed_lines(self, crop: Region) -> list[Strip]:
        width, height = self.outer_size
        top = self.gutter.top
        first, end = max(crop.y, top), min(crop.bottom, height - self.gutter.bottom)
        strips = [
            *self._textual_lines(crop.y, min(crop.bottom, first) - crop.y),
            *self._painted_lines(range(first - top, end - top)),
            *self._textual_lines(max(crop.y, end), crop.bottom - max(crop.y, end)),
        ]
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    def _painted_lines(self, lines: range) -> list[Strip]:
        frame, blank = self._current_frame(), self.blank
        key = (frame.key, self.look)
        if key != self._key or len(self._painted) > MOST_PAINTED:
            self._key, self._painted = key, {}
        strips: list[Strip] = []
        for y in lines:
            item = self.item_at(y)
            if item is None:
                strips.append(frame.paint(self.render_line(y), blank))
                continue
            kept = self._painted.get(id(item))
            if kept is None:
                # The item is kept too, so that no other one gets its id.
                segments = self.segments(item, frame.text_width)
                kept = self._painted[id(item)] = item, frame.paint(segments, blank)
            strips.append(kept[1])
        return strips

    def _current_frame(self) -> _Frame:
        text, width = self.scrollable_content_region.width, self.content_size.width
        background, filters = self.background_colors[1], tuple(self.get_line_filters())
        holds_text = self.outer_size.height > self.gutter.height
        key = (
            self.outer_size.width, holds_text, text, width, self.gutter, self.styles.border,
            self.background_colors, filters,
        )  # fmt: skip
        if self._frame is None or self._frame.key != key:
            line, start = self._textual_lines(self.gutter.top, 1)[0], self.gutter.left
            sides = line.crop(0, start), line.crop(start + width)
            self._frame = _Frame(key, min(text, width), width, background, filters, sides)
        return self._frame

    def _textual_lines(self, first: int, count: int) -> list[Strip]:
        """Lines as Textual paints them."""
        if count <= 0:
            return []
        return super().render_lines(Region(0, first, self.outer_size.width, count))


def _select(strip: Strip, start: int, end: int, style: Style) -> Strip:
    before, inside, after = strip.divide([start, end, strip.cell_length])
    # Applied over the text's style, whose background would hide the selection's.
    selected = Style(bgcolor=style.bgcolor, reverse=style.reverse)
    chosen = Strip(Segment.apply_style(inside, post_style=selected), inside.cell_length)
    return Strip.join([before, chosen, after])
