"""Lines with frame and filters on them, kept so that lines that only moved are not made anew.

Textual makes every line of a widget again once it scrolled, at some 0.3 ms a line: for a screen
full of text that is longer than a person takes to notice.
"""

from collections.abc import Callable, Hashable, Sequence

from textual.strip import Strip

from .rows import Row


class Painted:
    """Finished lines by the row they show.

    Args:
        limit: of the lines kept; beyond it, all are let go.
    """

    def __init__(self, limit: int = 400) -> None:
        self._limit = limit
        self._look: Hashable = None
        self._kept: dict[int, tuple[Row, Strip]] = {}

    def lines(
        self,
        look: Hashable,
        rows: Sequence[tuple[int, Row]],
        paint: Callable[[int, int], Sequence[Strip]],
    ) -> list[Strip]:
        """The lines of some rows.

        Args:
            look: all that a line depends on but its row.
            rows: line number and row, in the order of the lines and without a gap.
            paint: makes lines; takes the number of the first and how many.
        """
        if look != self._look or len(self._kept) > self._limit:
            self._look = look
            self._kept = {}
        kept = [self._kept.get(id(row)) for _, row in rows]
        at = 0
        strips: list[Strip] = []
        while at < len(rows):
            held = kept[at]
            if held is not None:
                strips.append(held[1])
                at += 1
                continue
            end = next((i for i in range(at, len(rows)) if kept[i] is not None), len(rows))
            made = paint(rows[at][0], end - at)
            for (_, row), strip in zip(rows[at:end], made, strict=True):
                self._kept[id(row)] = row, strip  # held, so that no other row gets its id
            strips += made
            at = end
        return strips

    def __len__(self) -> int:
        """How many lines are kept."""
        return len(self._kept)
