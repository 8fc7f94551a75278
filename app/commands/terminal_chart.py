"""Line charts for a terminal, in braille dots.

Every line is named at its end, so that they differ without colour.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille cell by row and column."""
_STYLES = ("cyan", "green", "yellow", "magenta", "blue", "red")
_AXIS = 8
_NAME = 14


@dataclass(frozen=True, slots=True)
class Series:
    """Points to draw.

    Attributes:
        name: written at the last point.
        points: (x, y), x ascending.
        mark: a character drawn at each point; "" joins them by a line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    mark: str = ""


class _Canvas:
    """`width` x `height` cells over the range of the points."""

    def __init__(self, series: Sequence[Series], width: int, height: int) -> None:
        xs = [x for each in series for x, _ in each.points]
        ys = [y for each in series for _, y in each.points]
        self.width, self.height = width, height
        self.left, self.right = min(xs), max(xs)
        self.bottom, self.top = min(0.0, *ys), max(ys)
        self._bits: dict[tuple[int, int], int] = {}
        self._marks: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot_of(self, x: float, y: float) -> tuple[int, int]:
        """Column and row of the dot at a point, from the top left."""
        across = (x - self.left) / ((self.right - self.left) or 1.0)
        up = (y - self.bottom) / ((self.top - self.bottom) or 1.0)
        return round(across * (2 * self.width - 1)), round((1.0 - up) * (4 * self.height - 1))

    def draw(self, series: Series, style: str) -> None:
        """Draw a series."""
        dots = [self.dot_of(*point) for point in series.points]
        if series.mark:
            for column, row in dots:
                self._marks[column // 2, row // 4] = series.mark
                self._styles[column // 2, row // 4] = style
            return
        for start, end in zip(dots, dots[1:] or dots, strict=False):
            length = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
            for at in range(length + 1):
                column = start[0] + round((end[0] - start[0]) * at / length)
                row = start[1] + round((end[1] - start[1]) * at / length)
                cell = column // 2, row // 4
                self._bits[cell] = self._bits.get(cell, 0) | _DOTS[row % 4][column % 2]
                self._styles[cell] = style

    def line(self, row: int) -> Text:
        """One line of cells."""
        text = Text()
        for column in range(self.width):
            cell = column, row
            glyph = chr(0x2800 + self._bits[cell]) if cell in self._bits else " "
            text.append(self._marks.get(cell, glyph), self._styles.get(cell, ""))
        return text


def chart(
    series: Sequence[Series], *, width: int, height: int, x_name: str, y_name: str
) -> list[Text]:
    """Lines of text with all series over common axes; y begins at 0 or below.

    Args:
        series: at least one, each with a point.
        width: of the chart, in cells.
        height: without the axes, in lines.
        x_name: below the x axis.
        y_name: above the y axis.
    """
    canvas = _Canvas(series, max(8, width - _AXIS - _NAME - 2), height)
    names: dict[int, Text] = {}
    for at, each in enumerate(series):
        style = _STYLES[at % len(_STYLES)]
        canvas.draw(each, style)
        _place(names, canvas.dot_of(*each.points[-1])[1] // 4, Text(f" {each.name}", style))
    lines = [Text(f"{y_name:>{_AXIS}}")]
    for row in range(max(height, max(names) + 1)):
        value = canvas.top - (canvas.top - canvas.bottom) * row / max(height - 1, 1)
        labelled = row % 4 == 0 or row == height - 1
        label = f"{value:>{_AXIS - 1}.4g} ┤" if labelled else " " * _AXIS + "│"
        drawing = canvas.line(row) if row < height else Text(" " * canvas.width)
        lines.append(Text.assemble(label if row < height else " " * (_AXIS + 1), drawing))
        lines[-1].append_text(names.get(row, Text()))
    ends = f"{canvas.left:g}", f"{canvas.right:g}"
    middle = x_name.center(max(0, canvas.width - sum(map(len, ends))))
    lines.append(Text(" " * _AXIS + "└" + "─" * canvas.width))
    lines.append(Text(" " * (_AXIS + 1) + ends[0] + middle + ends[1]))
    return lines


def _place(names: dict[int, Text], row: int, name: Text) -> None:
    """Write a name at a row, or at the next free one below."""
    while row in names:
        row += 1
    names[row] = name
