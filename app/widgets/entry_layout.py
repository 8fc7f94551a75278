"""Entries one below another as rows of a given width; only what comes into view is drawn."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from rich.segment import Segment

from .blocks import Block
from .entries import Entry
from .transcript_styles import Look

KEPT_LINES = 1000  # of entries that stay open: some screens full

TextLine = list[Segment] | None  # A line, or None below the last


class Anchor(NamedTuple):
    """What stays in place: a block of an entry, and the row of the view at which it begins."""

    entry: int
    block: int
    row: int


class EntryLayout:
    """Rows of entries; `use` comes before anything is drawn.

    The height of what was never in view at this width is an estimate, so drawing it may move all
    that is below; `settle` keeps what a person reads in place. Entries long out of view are closed.
    """

    _look: Look

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.width = 0
        self._ends: list[int] = []  # row after each entry
        self._open: dict[int, Sequence[Block]] = {}  # ordered by last view

    @property
    def height(self) -> int:
        """Number of rows, as far as is known."""
        return self._ends[-1] if self._ends else 0

    def use(self, width: int, look: Look, top: int = 0) -> int:
        """Draw at this width in these styles; returns the row at which row `top` is now."""
        self._look = look
        return top if width == self.width else self.measure(top, width)

    def measure(self, top: int, width: int) -> int:
        """Estimate all heights at this width; returns the row at which row `top` is now."""
        self.width = width
        if not self.entries:
            return 0
        at = min(bisect_right(self._ends, top), len(self.entries) - 1)
        rows, before = top - self._start(at), self._height(at)
        self._estimate()
        return self._start(at) + rows * self._height(at) // before

    def replace(self, entries: Iterable[Entry]) -> None:
        self.entries = list(entries)
        self._estimate()

    def append(self, entry: Entry) -> None:
        self._ends.append(self.height + entry.estimate_height(self.width))
        self.entries.append(entry)

    def refresh(self) -> None:
        """Take in changes of entries that are open or growing."""
        growing = [at for at, entry in enumerate(self.entries) if entry.growing]
        for at in {*self._open, *growing}:
            self._take(at)

    def anchor(self, top: int, room: int) -> Anchor | None:
        """What has to stay in place when heights change; None if there is nothing.

        The first block in view whose height is known; if there is none, what is at the top.
        """
        for at, index, start, block in self._in_view(top, room):
            if block.measured(self.width):
                return Anchor(at, index, start - top)
        first = bisect_right(self._ends, top)
        if first == len(self.entries):
            return None
        rows, before = top - self._start(first), self._height(first)
        self._take(first)
        return Anchor(first, 0, -(rows * self._height(first) // before))

    def settle(self, anchor: Anchor | None, room: int) -> int:
        """Make the heights of everything in view exact; returns the first row of the view.

        The anchor stays in place; without one, the end is in view.
        """
        while True:
            end = max(0, self.height - room)
            top = end if anchor is None else min(max(0, self._row(anchor) - anchor.row), end)
            if not self._draw_one(top, room):
                return top

    def scroll_to(self, anchor: Anchor, line: int, top: int, room: int) -> int:
        """As `settle`, with a line of the anchor's block at its row, unless it is in view."""
        row = self._row(anchor) - top
        self._open[anchor.entry][anchor.block].lines(self.width, self._look)
        self._measure(anchor.entry)
        if not 0 <= row + line < room:
            row = anchor.row - line
        return self.settle(Anchor(anchor.entry, anchor.block, row), room)

    def place_at(self, row: int) -> tuple[Entry, int] | None:
        """The entry whose row this is, and the number of its block; None below the last."""
        found = next(self._in_view(row, 1), None)
        return (self.entries[found[0]], found[1]) if found is not None else None

    def in_view(self, top: int, room: int) -> Sequence[Entry]:
        return [self.entries[at] for at in self._entries_in_view(top, room)]

    def window(self, top: int, room: int) -> list[TextLine]:
        """The rows of the view, which has to be settled."""
        rows: list[TextLine] = []
        for at, _, start, block in list(self._in_view(top, room)):
            lines = block.lines(self.width, self._look)
            rows += lines[max(0, top - start) : max(0, top + room - start)]
            self._open[at] = self._open.pop(at)
        self._close_old(top, room)
        return [*rows[:room], *[None] * (room - len(rows))]

    def text(self, first: int = 0, last: int | None = None) -> list[str]:
        """Lines `first` to `last` as they are shown; it opens no entry."""
        if not self.width:
            return []
        shown: list[str] = []
        start = min(bisect_right(self._ends, first), len(self.entries))
        first -= self._start(start)
        end = None if last is None else last - self._start(start) + 1
        for at, entry in enumerate(self.entries[start:], start):
            for block in self._open.get(at) or entry.blocks():
                lines = block.lines(self.width, self._look)
                shown += ["".join(part.text for part in line).rstrip() for line in lines]
            if at not in self._open:
                entry.release()
            if end is not None and len(shown) >= end:
                break
        self.refresh()
        return shown[first:end]

    def _start(self, at: int) -> int:
        return self._ends[at - 1] if at > 0 else 0

    def _height(self, at: int) -> int:
        return self._ends[at] - self._start(at)

    def _estimate(self) -> None:
        self._open = {}
        self._ends = list(accumulate(entry.estimate_height(self.width) for entry in self.entries))

    def _measure(self, at: int) -> None:
        height = sum(block.height(self.width) for block in self._open[at])
        if more := height - self._height(at):
            self._ends[at:] = [end + more for end in self._ends[at:]]

    def _row(self, anchor: Anchor) -> int:
        if anchor.entry not in self._open:
            self._take(anchor.entry)
        before = self._open[anchor.entry][: anchor.block]
        return self._start(anchor.entry) + sum(block.height(self.width) for block in before)

    def _take(self, at: int) -> None:
        """Open an entry, or take in its changes."""
        self._open[at] = self.entries[at].blocks()
        self._measure(at)

    def _in_view(self, top: int, room: int) -> Iterator[tuple[int, int, int, Block]]:
        """Blocks of open entries in view: number of the entry and in it, first row, block."""
        for at in self._entries_in_view(top, room):
            start = self._start(at)
            for index, block in enumerate(self._open.get(at, ())):
                end = start + block.height(self.width)
                if end > top and start < top + room:
                    yield at, index, start, block
                start = end

    def _entries_in_view(self, top: int, room: int) -> range:
        first = bisect_right(self._ends, top)
        return range(first, min(len(self._ends), bisect_left(self._ends, top + room) + 1))

    def _draw_one(self, top: int, room: int) -> bool:
        """Make one estimate in view exact; returns whether there was one."""
        for at in self._entries_in_view(top, room):
            if at not in self._open:
                self._take(at)
                return True
        for at, _, _, block in self._in_view(top, room):
            if not block.measured(self.width):
                block.lines(self.width, self._look)
                self._measure(at)
                return True
        return False

    def _close_old(self, top: int, room: int) -> None:
        """Close what has been out of view the longest."""
        shown = self._entries_in_view(top, room)
        held = sum(map(self._height, self._open))
        for at in [at for at in self._open if at not in shown and not self.entries[at].growing]:
            if held <= KEPT_LINES:
                break
            held -= self._height(at)
            del self._open[at]
            self.entries[at].release()
