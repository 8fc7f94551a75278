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
    "[\u00ad\u0300-\u036f\u0483-\u0489\u0590-\u1cff\u1dc0-\u1dff\u200b-\u200f\u2028-\u202f"
    "\u2060-\u206f\u20d0-\u20ff\u231a\u231b\u23e9-\u23f3\u25fd\u25fe\u2614\u2615\u2630-\u2637"
    "\u2648-\u2653\u267f\u268a-\u268f\u2693\u26a1\u26aa\u26ab\u26bd-\u26c5\u26ce\u26d4\u26ea"
    "\u26f2-\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2757\u2795-\u2797\u27b0\u27bf"
    "\u2b1b\u2b1c\u2b50\u2b55\u2cef-\u2cf1\u2d7f\u2de0-\u2dff\u2ffc-\u2fff\u302a-\u302f\u3099"
    "\u309a\u312d-\u312f\u3164\u31b8-\u31bf\u31d0-\u31ef\u3244-\u3247\u32ff\u4db6-\u4dff"
    "\u9fbc-\u9fff\ua66f-\ua67d\ua69e\ua69f\ua6f0\ua6f1\ua800-\uabff\ud7b0-\uf8ff\ufa2e-\ufaff"
    "\ufb1e\ufb50-\ufdff\ufe00-\ufe0f\ufe20-\ufe2f\ufe70-\ufeff\uffa0\ufff0-\ufffb"
    "\ufffe-\U0001ffff\U000e0000-\U0010ffff]"
)
"""Characters whose width depends on the version of Unicode, their neighbours or the terminal."""
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
