"""Blocks of lines that are drawn when they come into view and can be dropped again.

Text is never read as markup of the terminal or the widget library, except Markdown by its renderer.
"""

import io
from collections.abc import Callable

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..present.markdown import Lines
from .look import Look

_CONSOLE = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)


Draw = Callable[[int, Look], Lines]
"""Makes the lines of a given width."""


class Block:
    """Lines of the transcript; their number is known once they were drawn, until then estimated.

    Args:
        text: source, used to estimate the height.
        draw: makes the lines.
    """

    __slots__ = ("_draw", "_height", "_lines", "_look", "_width", "text")

    def __init__(self, text: str, draw: Draw) -> None:
        self._lines: Lines | None = None
        self._look: Look | None = None
        self.become(text, draw)

    def become(self, text: str, draw: Draw) -> None:
        """Hold another text."""
        self.text, self._draw = text, draw
        self._width, self._height = -1, 0
        self.release()

    def measured(self, width: int) -> bool:
        """Whether the height at this width is exact."""
        return self._width == width

    def height(self, width: int) -> int:
        """Lines at this width, as far as is known."""
        return self._height if self._width == width else estimate_height(self.text, width)

    def lines(self, width: int, look: Look) -> Lines:
        """The lines, drawn now if need be."""
        if self._lines is not None and self._width == width and self._look is look:
            return self._lines
        lines = self._draw(width, look)
        self._lines, self._look = lines, look
        self._width, self._height = width, len(lines)
        return lines

    def release(self) -> None:
        """Drop the lines; the height stays known."""
        self._lines = self._look = None


def estimate_height(text: str, width: int) -> int:
    """About how many lines a text takes, with one below it."""
    room = max(1, width - 4)
    return 1 + sum(1 + len(line) // room for line in text.split("\n"))


def wrap(text: Text, width: int) -> Lines:
    """The text's lines, none wider than `width` cells."""
    text.expand_tabs(4)
    lines = text.wrap(_CONSOLE, max(1, width), overflow="fold", no_wrap=False)
    return [list(line.render(_CONSOLE)) for line in lines]


def indent(lines: Lines, mark: str, style: Style) -> Lines:
    """The lines behind a mark, with a style beneath their own."""
    return [[Segment(mark, style), *Segment.apply_style(line, style)] for line in lines]
