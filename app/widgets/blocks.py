"""Lines that are drawn when they are looked at, and given up when they are not.

What a transcript is made of. A block knows how high it is once it was drawn at a width; until then
it guesses. Nothing here is ever read as markup of the terminal's or the widget library's.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ..present.markdown import Lines, MarkdownPen


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """Styles of a theme, and what draws in them.

    Attributes:
        styles: by name; see `Transcript.COMPONENT_CLASSES`.
        markdown: draws answers.
        console: wraps plain text.
    """

    styles: dict[str, Style] = field(hash=False)
    markdown: MarkdownPen
    console: Console


Draw = Callable[[int, Look], Lines]
"""Makes the lines of a given width."""


class Block:
    """A stretch of the transcript.

    Args:
        text: what it holds, by which the height is guessed.
        draw: makes the lines.
    """

    __slots__ = ("_draw", "_height", "_lines", "_look", "_text", "_width")

    def __init__(self, text: str, draw: Draw) -> None:
        self._lines: Lines | None = None
        self._look: Look | None = None
        self.become(text, draw)

    @property
    def text(self) -> str:
        """What it holds, as it was written."""
        return self._text

    def become(self, text: str, draw: Draw) -> None:
        """Hold something else from now on."""
        self._text, self._draw = text, draw
        self._width, self._height = -1, 0
        self.release()

    def measured(self, width: int) -> bool:
        """Whether the height at this width is known and not guessed."""
        return self._width == width

    def height(self, width: int) -> int:
        """Lines at this width, as far as is known."""
        return self._height if self._width == width else guess(self._text, width)

    def lines(self, width: int, look: Look) -> Lines:
        """The lines, drawn now if need be."""
        if self._lines is not None and self._width == width and self._look is look:
            return self._lines
        lines = self._draw(width, look)
        self._lines, self._look = lines, look
        self._width, self._height = width, len(lines)
        return lines

    def release(self) -> None:
        """Give up the lines; the height stays known."""
        self._lines = self._look = None


def guess(text: str, width: int) -> int:
    """About how many lines a text takes, and one below it."""
    room = max(1, width - 4)
    return 1 + sum(1 + len(line) // room for line in text.split("\n"))


def wrap(text: Text, width: int, look: Look) -> Lines:
    """The text's lines, none wider than `width` cells."""
    text.expand_tabs(4)
    lines = text.wrap(look.console, max(1, width), overflow="fold", no_wrap=False)
    return [list(line.render(look.console)) for line in lines]


def indent(lines: Lines, mark: str, style: Style) -> Lines:
    """The lines behind a mark, all parts on top of a style."""
    return [[Segment(mark, style), *Segment.apply_style(line, style)] for line in lines]
