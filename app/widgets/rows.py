"""Entries one under another as rows of a given width, of which only those looked at are drawn.

Owns what is where. The height of what was never in view at this width is guessed, so drawing it
may move everything below; `settle` says where the view has to go so that what a person reads
stays where it is. What was in view long ago is given up again, so that a long chat takes no more
memory than a short one but for its text. Knows neither scrolling nor the screen.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from rich.segment import Segment

from .blocks import Block, Look
from .entries import Entry

KEPT_LINES = 2000
"""That stay drawn; a few screens and the answer under way."""
KEPT_ENTRIES = 48
"""That keep their blocks, drawn or not."""

Row = list[Segment] | None
"""A line, or None below the last."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place that survives another width: a share of an entry's height."""

    entry: int
    share: float


@dataclass(frozen=True, slots=True)
class Anchor:
    """What stays where it is: a block of an entry, and the row of the view at which it begins."""

    entry: int
    block: int
    row: int


class Rows:
    """The rows of a list of entries."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._heights: list[int] = []
        self._ends: list[int] = []
        self._open: dict[int, Sequence[Block]] = {}
        self._drawn: dict[Block, int] = {}
        self._width = 0
        self._look: Look | None = None

    # What there is

    @property
    def entries(self) -> Sequence[Entry]:
        """All of them."""
        return self._entries

    @property
    def height(self) -> int:
        """Rows altogether, as far as is known."""
        return self._ends[-1] if self._ends else 0

    @property
    def drawn_lines(self) -> int:
        """Lines that are held in memory."""
        return sum(self._drawn.values())

    def use(self, width: int, look: Look) -> bool:
        """Draw at this width and in these styles from now on; whether the width is another."""
        self._look = look
        if width == self._width:
            return False
        self._width = width
        self.measure()
        return True

    def measure(self) -> None:
        """Guess all heights anew, where another width or another way to show the text came."""
        self._open = {}
        self._heights = [entry.guess(self._width) for entry in self._entries]
        self._sum()

    def replace(self, entries: Iterable[Entry]) -> None:
        """Hold other entries."""
        self._entries = list(entries)
        self._drawn = {}
        self.measure()

    def append(self, entry: Entry) -> None:
        """One more at the end."""
        self._entries.append(entry)
        self._heights.append(entry.guess(self._width))
        self._sum(len(self._entries) - 1)

    def refresh(self) -> None:
        """Take in what entries hold now: those that are open, and those that grow."""
        growing = [at for at, entry in enumerate(self._entries) if entry.growing]
        for at in {*self._open, *growing}:
            self._take(at)

    # Where things are

    def place(self, top: int) -> Place:
        """What stands at a row."""
        at = min(bisect_right(self._ends, top), len(self._entries) - 1)
        if at < 0:
            return Place(0, 0.0)
        return Place(at, (top - self._start(at)) / max(1, self._heights[at]))

    def row_of(self, place: Place) -> int:
        """The row at which a place is now."""
        if place.entry >= len(self._entries):
            return self.height
        return self._start(place.entry) + int(place.share * self._heights[place.entry])

    def anchor(self, top: int, room: int) -> Anchor | None:
        """What is to stay where it is, whatever grows or turns out higher than it was guessed.

        The first block in view whose height is known; if there is none, what is at the top. None
        where there is nothing.
        """
        for at, index, start, block in self._in_view(top, room):
            if block.measured(self._width):
                return Anchor(at, index, start - top)
        first = bisect_right(self._ends, top)
        if first >= len(self._entries):
            return None
        if first not in self._open:
            place = self.place(top)
            self._take(first)
            top = self.row_of(place)
        start = self._start(first)
        for index, block in enumerate(self._open[first]):
            end = start + block.height(self._width)
            if end > top:
                return Anchor(first, index, start - top)
            start = end
        return None

    def settle(self, anchor: Anchor | None, room: int) -> int:
        """Make the heights of all that is in view exact.

        Args:
            anchor: stays where it is; None for a view of the end.
            room: rows of the view.

        Returns:
            The first row of the view now.
        """
        while True:
            end = max(0, self.height - room)
            top = end if anchor is None else min(max(0, self._row(anchor) - anchor.row), end)
            if not self._draw_one(top, room):
                return top

    def reveal(self, anchor: Anchor, line: int, top: int, room: int) -> int:
        """As `settle`; a line of the anchor comes to its row, unless it is in view already."""
        blocks = self._opened(anchor.entry)
        row = self._row(anchor) - top
        if self._look is not None:
            block = blocks[anchor.block]
            self._drawn[block] = len(block.lines(self._width, self._look))
            self._measure(anchor.entry)
        if not 0 <= row + line < room:
            row = anchor.row - line
        return self.settle(Anchor(anchor.entry, anchor.block, row), room)

    def window(self, top: int, room: int) -> list[Row]:
        """The rows of the view; settled first."""
        if self._look is None:
            return [None] * room
        rows: list[Row] = []
        for at, _, start, block in self._in_view(top, room):
            lines = block.lines(self._width, self._look)
            rows += lines[max(0, top - start) : max(0, top + room - start)]
            self._open[at] = self._open.pop(at)
            self._drawn.pop(block, None)
            self._drawn[block] = len(lines)
        self._forget(top, room)
        return [*rows[:room], *[None] * (room - len(rows))]

    def text(self, first: int = 0, last: int | None = None) -> list[str]:
        """Lines `first` to `last` as they are shown; draws what it must and keeps none of it."""
        if self._look is None:
            return []
        shown: list[str] = []
        at = min(bisect_right(self._ends, first), len(self._entries))
        skipped = first - self._start(at)
        for entry in self._entries[at:]:
            lines = entry.lines(self._width, self._look)
            shown += ["".join(part.text for part in line).rstrip() for line in lines]
            if last is not None and len(shown) > skipped + last - first:
                break
        for number, each in enumerate(self._entries):
            if number not in self._open:
                each.release()
        self._release_strays()
        self.refresh()
        return shown[skipped : None if last is None else skipped + last - first + 1]

    # How

    def _start(self, at: int) -> int:
        return self._ends[at - 1] if at > 0 else 0

    def _sum(self, first: int = 0) -> None:
        """Add up the heights from an entry on."""
        self._ends[first:] = accumulate(self._heights[first:], initial=self._start(first))
        del self._ends[first]

    def _take(self, at: int) -> None:
        """Look at an entry's blocks."""
        self._open[at] = self._entries[at].blocks()
        self._measure(at)

    def _measure(self, at: int) -> None:
        height = sum(block.height(self._width) for block in self._open[at])
        if height != self._heights[at]:
            self._heights[at] = height
            self._sum(at)

    def _opened(self, at: int) -> Sequence[Block]:
        if at not in self._open:
            self._take(at)
        return self._open[at]

    def _in_view(self, top: int, room: int) -> list[tuple[int, int, int, Block]]:
        """Blocks of open entries in view: number of the entry and in it, first row, block."""
        seen: list[tuple[int, int, int, Block]] = []
        for at in self._entries_in_view(top, room):
            start = self._start(at)
            for index, block in enumerate(self._open.get(at, ())):
                end = start + block.height(self._width)
                if end > top and start < top + room:
                    seen.append((at, index, start, block))
                start = end
        return seen

    def _entries_in_view(self, top: int, room: int) -> range:
        first = bisect_right(self._ends, top)
        return range(first, min(len(self._ends), bisect_left(self._ends, top + room) + 1))

    def _row(self, anchor: Anchor) -> int:
        before = self._opened(anchor.entry)[: anchor.block]
        return self._start(anchor.entry) + sum(block.height(self._width) for block in before)

    def _draw_one(self, top: int, room: int) -> bool:
        """Make one guess in view exact; whether there was one."""
        for at in self._entries_in_view(top, room):
            if at not in self._open:
                self._take(at)
                return True
        for at, _, _, block in self._in_view(top, room):
            if not block.measured(self._width) and self._look is not None:
                self._drawn[block] = len(block.lines(self._width, self._look))
                self._measure(at)
                return True
        return False

    def _forget(self, top: int, room: int) -> None:
        """Give up what was in view longest ago."""
        seen = {block for _, _, _, block in self._in_view(top, room)}
        held = self.drawn_lines
        for block in [each for each in self._drawn if each not in seen]:
            if held <= KEPT_LINES:
                break
            held -= self._drawn.pop(block)
            block.release()
        shown = self._entries_in_view(top, room)
        shut = [at for at in self._open if at not in shown and not self._entries[at].growing]
        for at in shut[: max(0, len(self._open) - KEPT_ENTRIES)]:
            for block in self._open.pop(at):
                self._drawn.pop(block, None)
            self._entries[at].release()

    def _release_strays(self) -> None:
        """Give up lines that only `text` wanted."""
        for blocks in self._open.values():
            for block in blocks:
                if block not in self._drawn:
                    block.release()
