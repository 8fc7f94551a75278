"""Lines that were painted, kept so that those that only moved are not made anew."""

from collections.abc import Callable, Hashable, Iterable

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
        self, look: Hashable, rows: Iterable[Row], paint: Callable[[Row], Strip]
    ) -> list[Strip]:
        """The lines of some rows.

        Args:
            look: all that a line depends on but its row.
            rows: from the top down.
            paint: makes a line.
        """
        if look != self._look or len(self._kept) > self._limit:
            self._look = look
            self._kept = {}
        strips = []
        for row in rows:
            held = self._kept.get(id(row))
            if held is None:
                held = self._kept[id(row)] = row, paint(row)  # held, so that none gets its id
            strips.append(held[1])
        return strips

    def __len__(self) -> int:
        """How many lines are kept."""
        return len(self._kept)
