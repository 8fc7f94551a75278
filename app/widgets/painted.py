"""Lines that were painted, kept so that those that only moved are not made anew."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from textual.strip import Strip

Row = TypeVar("Row")


class Painted(Generic[Row]):
    """Finished lines by the object that they show.

    Args:
        limit: of the lines kept; beyond it, all are let go.
    """

    def __init__(self, limit: int = 400) -> None:
        self._limit = limit
        self._look: Hashable = None
        self._kept: dict[int, tuple[Row, Strip]] = {}

    def use(self, look: Hashable) -> None:
        """Lines look like this from now on: it is all that they depend on but what they show."""
        if look != self._look or len(self._kept) > self._limit:
            self._look = look
            self._kept = {}

    def line(self, row: Row, paint: Callable[[Row], Strip]) -> Strip:
        """The line of a row."""
        held = self._kept.get(id(row))
        if held is None:
            held = self._kept[id(row)] = row, paint(row)  # held, so that no other row gets its id
        return held[1]

    def __len__(self) -> int:
        """How many lines are kept."""
        return len(self._kept)
