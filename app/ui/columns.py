"""Keeps frames in their columns, whatever width the terminal gives to characters before them."""

import re
import unicodedata
from collections.abc import Iterator

from rich.cells import cell_len, get_character_cell_size, split_graphemes
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.strip import Strip

UNCERTAIN = re.compile(
    r"[^\x00-\xac\xae-\u02ff\u0370-\u0482\u048a-\u058f\u1e00-\u200a\u2010-\u2027\u2030-\u205f"
    r"\u2070-\u20cf\u2100-\u2319\u231c-\u23e8\u23f4-\u25fc\u2713-\u2727\u2776-\u2794\u2798-\u27af"
    r"\u3000-\u3029\u3041-\u3096\u309b-\u312c\u3131-\u3163\u3400-\u4db5\u4e00-\u9fbb\uac00-\ud7a3"
    r"\uf900-\ufa2d\uff01-\uff9f\U00020000-\U000dffff]"
)
"""All but characters that are as wide on any terminal, and next to any other, by any Unicode."""
_STRETCH = re.compile(r"((?:[^ \u2500-\u259f]| (?=[^ \u2500-\u259f]))+)( *)")
"""Text between frames and gaps, and the gap after it, into which the text may run."""
_WIDE_FROM = 0x1F000
_SAVE, _RESTORE = "\x1b7", "\x1b8"

Pieces = list[tuple[str, Style | None]]


def hold_columns(update: CompositorUpdate, console: Console) -> None:
    """Render the lines with uncertain characters of an update that is about to be written."""
    colors = console._color_system or ColorSystem.TRUECOLOR
    if isinstance(update, LayoutUpdate):
        for line in update.strips:
            for whole in line:
                _hold(whole, colors)
    elif isinstance(update, ChopsUpdate):
        for at, (y, x1, x2) in enumerate(update.spans):
            held = x2
            for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
                # a line that the terminal may have shifted cannot be repainted in part
                if strip is not None and x < x2 and end > x1 and _hold(strip, colors):
                    held = max(held, end)
            update.spans[at] = y, x1, held


def _hold(strip: Strip, colors: ColorSystem) -> bool:
    """Render a line if it has uncertain characters; whether it has."""
    if UNCERTAIN.search(strip.text) is None:
        return False
    if strip._render_cache is None:
        strip._render_cache = steady(strip, colors)
    return True


def steady(strip: Strip, colors: ColorSystem) -> str:
    """A line, anywhere on the screen, with the escape sequences that hold its columns."""
    return "".join(_Line(strip, colors).written())


class _Line:
    def __init__(self, strip: Strip, colors: ColorSystem) -> None:
        self._pieces: Pieces = [(text, style) for text, style, _ in strip]
        self._text, self._cells, self._colors = strip.text, strip.cell_length, colors

    def written(self) -> Iterator[str]:
        at = 0
        for start, end, after in self._stretches():
            yield self._render(self._cut(at, start))
            room = self._cells - _width(self._cut(0, start))
            text, gap = self._cut(start, end), self._cut(end, after)
            if _most(self._text[start:end]) <= room:
                yield self._anchored(text, gap)
            else:
                yield from self._one_by_one(text, room)
                yield self._render(gap)
            at = after
        yield self._render(self._cut(at, len(self._text)))

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        """Start and end of uncertain text, and the end of the gap after it.

        A gap that is too small to run into counts as text, unless a frame follows.
        """
        begun: int | None = None
        for found in _STRETCH.finditer(self._text):
            if begun is None and UNCERTAIN.search(found[1]) is None:
                continue
            begun = found.start() if begun is None else begun
            end = found.end(1)
            runs_over = _most(self._text[begun:end]) - _width(self._cut(begun, end))
            framed = _STRETCH.match(self._text, found.end()) is None
            if framed or len(found[2]) >= runs_over:
                yield begun, *found.span(2)
                begun = None

    def _one_by_one(self, text: Pieces, room: int) -> Iterator[str]:
        """Text that could run past the line: each character is placed by itself."""
        for piece, style in text:
            for start, end, cells in split_graphemes(piece)[0]:
                cluster = piece[start:end]
                while cluster and _most(cluster) > room:
                    cluster = cluster[:-1]
                rest = " " * max(0, cells - cell_len(cluster))
                yield self._anchored([(cluster, style)], [(rest, style)])
                room -= cells

    def _anchored(self, text: Pieces, gap: Pieces) -> str:
        """Text on blank ground, and then the cursor after it and its gap."""
        blanks = [(" " * cell_len(piece), style) for piece, style in (*text, *gap)]
        cells = _width(blanks)
        forward = f"\x1b[{cells}C" if cells else ""
        return f"{_SAVE}{self._render(blanks)}{_RESTORE}{self._render(text)}{_RESTORE}{forward}"

    def _cut(self, start: int, end: int) -> Pieces:
        cut: Pieces = []
        at = 0
        for text, style in self._pieces:
            if part := text[max(0, start - at) : max(0, end - at)]:
                cut.append((part, style))
            at += len(text)
        return cut

    def _render(self, pieces: Pieces) -> str:
        return "".join(
            text if style is None else Strip.render_style(style, text, color_system=self._colors)
            for text, style in pieces
        )


def _width(pieces: Pieces) -> int:
    return sum(cell_len(text) for text, _ in pieces)


def _most(text: str) -> int:
    """The most cells that any terminal gives to the characters of a text."""
    return sum(map(_most_of_one, text))


def _most_of_one(character: str) -> int:
    if UNCERTAIN.match(character) is None:
        return get_character_cell_size(character)
    if unicodedata.category(character) in ("Mn", "Me") and character != "\ufe0f":
        return 0
    return 2 if ord(character) >= _WIDE_FROM else max(1, get_character_cell_size(character))
