"""A scrolling view that paints its own lines and reuses those that have not changed."""

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from typing_extensions import override

MOST_PAINTED = 400  # painted lines that are kept; beyond it, all are dropped

Item = TypeVar("Item")


class LineView(ScrollView, Generic[Item]):
    """Paints the items of a subclass, one per line, and supports selecting their text.

    Textual takes 0.2 to 0.4 ms a line for border, colours and effects, too long for a screen full
    of text. Opacity, tint and hatch do not apply to these lines.
    """

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._frame: Hashable = None
        self._key: Hashable = None  # everything that a painted line depends on except its text
        self._painted: dict[int, tuple[Item, Strip]] = {}  # by id; with the item, so that it stays
        self._sides = (Strip([]), Strip([]))  # the border left and right of the text
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

    @property
    def side_width(self) -> int:
        """Cells at the right that `side_at` draws, whatever text is in the line."""
        return 0

    def side_at(self, y: int) -> Strip:
        """What is drawn right of the text in a visible line."""
        del y
        return Strip([])

    @property
    def text_width(self) -> int:
        return max(0, self.scrollable_content_region.width - self.side_width)

    def blank_line(self, y: int) -> Strip:
        """The text of a line without an item."""
        del y
        return Strip.blank(self.text_width, self.blank)

    @override
    def render_lines(self, crop: Region) -> list[Strip]:
        self._painting = True
        try:
            if self.text_selection is not None:
                return super().render_lines(crop)
            (width, height), top = self.outer_size, self.gutter.top
            first, end = max(crop.y, top), min(crop.bottom, height - self.gutter.bottom)
            strips = [
                *self._textual_lines(crop.y, min(crop.bottom, first)),
                *self._painted_lines(range(first - top, end - top)),
                *self._textual_lines(max(crop.y, end), crop.bottom),
            ]
        finally:
            self._painting = False
        if crop.column_span != (0, width):
            strips = [strip.crop(*crop.column_span) for strip in strips]
        return strips

    @override
    def render_line(self, y: int) -> Strip:
        width, at = self.text_width, y + self.scroll_offset.y
        item = self.item_at(y)
        if item is None:
            return Strip.join([self.blank_line(y), self.side_at(y)])
        strip = Strip(self.segments(item, width)).adjust_cell_length(width, self.blank)
        span = self.text_selection.get_span(at) if self.text_selection is not None else None
        if span is not None:
            start, end = span
            cuts = [start, width if end == -1 else end, strip.cell_length]
            before, inside, after = strip.divide(cuts)
            style = self.screen.get_component_rich_style("screen--selection")
            # Applied over the text's style, whose background would hide the selection's.
            selected = Style(bgcolor=style.bgcolor, reverse=style.reverse)
            inside = Strip(Segment.apply_style(inside, post_style=selected), inside.cell_length)
            strip = Strip.join([before, inside, after])
        strip = Strip.join([strip, self.side_at(y)])
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

    def _painted_lines(self, lines: range) -> list[Strip]:
        width, blank = self.content_size.width, self.blank
        backgrounds, filters = self.background_colors, tuple(self.get_line_filters())
        side_width = self.side_width
        text_width = min(self.text_width, width)
        frame = (
            self.outer_size.width, self.outer_size.height > self.gutter.height, text_width, width,
            side_width, self.gutter, self.styles.border, backgrounds, filters,
        )  # fmt: skip
        if frame != self._frame:
            left, top = self.gutter.left, self.gutter.top
            line = self._textual_lines(top, top + 1)[0]
            self._frame, self._sides = frame, (line.crop(0, left), line.crop(left + width))
        key = (frame, self.look)
        if key != self._key or len(self._painted) > MOST_PAINTED:
            self._key, self._painted = key, {}

        def paint(text: Iterable[Segment]) -> Strip:
            """A whole line without its side; text that is too wide is cut, `blank` fills up."""
            segments = list(text)
            cells = sum(segment.cell_length for segment in segments)
            if cells > text_width:
                segments, cells = list(Strip(segments).crop(0, text_width)), text_width
            full = text_width if side_width else width
            segments.append(Segment(" " * (full - cells), blank))
            for each in filters:
                segments = each.apply(segments, backgrounds[1])
            left, right = self._sides[0], () if side_width else self._sides[1]
            right_cells = 0 if side_width else self._sides[1].cell_length
            return Strip([*left, *segments, *right], left.cell_length + full + right_cells)

        def with_side(strip: Strip, y: int) -> Strip:
            side, right = list(self.side_at(y)), self._sides[1]
            side.append(Segment(" " * (width - text_width - side_width), blank))
            for each in filters:
                side = each.apply(side, backgrounds[1])
            cells = strip.cell_length + width - text_width + right.cell_length
            return Strip([*strip, *side, *right], cells)

        strips: list[Strip] = []
        for y in lines:
            item = self.item_at(y)
            if item is None:
                strip = paint(self.blank_line(y))
            else:
                if id(item) not in self._painted:
                    self._painted[id(item)] = item, paint(self.segments(item, text_width))
                strip = self._painted[id(item)][1]
            strips.append(with_side(strip, y) if side_width else strip)
        return strips

    def _textual_lines(self, first: int, end: int) -> list[Strip]:
        """Lines as Textual paints them."""
        if end <= first:
            return []
        return super().render_lines(Region(0, first, self.outer_size.width, end - first))
