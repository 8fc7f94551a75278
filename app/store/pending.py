"""What waits to be written, in order, and how much of it the memory is given.

Owns what is let go where the file cannot be written for long: steps, which are nearly all of it.
"""

import threading
from collections.abc import Sequence

from .operations import Ended, Operation, StepsLost, Told

MOST_BYTES = 64 << 20
"""Of packed events; some 30,000 steps."""


class Pending:
    """Operations that are not written yet. Filled and emptied by the writer's thread.

    Attributes:
        lost: of how many answers the steps were let go since all was written last.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._bytes = 0
        self._stepless: set[str] = set()

    @property
    def operations(self) -> Sequence[Operation]:
        """All of them; for the thread that fills it."""
        return self._operations

    def add(self, *operations: Operation) -> None:
        """Something more is to be written."""
        with self._lock:
            for operation in operations:
                match operation:
                    case Told(exchange, events=events):
                        if exchange in self._stepless:
                            continue
                        self._bytes += len(events)
                    case Ended(exchange):
                        self._stepless.discard(exchange)
                self._operations.append(operation)

    def clear(self) -> None:
        """All of it was written, or will never be."""
        with self._lock:
            self._operations = []
            self._bytes = self.lost = 0

    def told(self, exchange: str) -> list[Told] | None:
        """Packed events of an exchange, or None where steps were let go; for any thread."""
        with self._lock:
            operations = self._operations[:]
            lost = exchange in self._stepless
        if lost or StepsLost(exchange) in operations:
            return None
        return [each for each in operations if isinstance(each, Told) and each.exchange == exchange]

    def shorten(self) -> bool:
        """Let the steps of the oldest answers go, as far as there are more than the memory takes.

        An answer keeps all of its steps or none. Its text and its figures are written when it ends.

        Returns:
            Whether it had to be.
        """
        lost = 0
        with self._lock:
            while self._bytes > MOST_BYTES:
                oldest = next(each for each in self._operations if isinstance(each, Told))
                self._leave_out(oldest.exchange)
                lost += 1
            self.lost += lost
        return lost > 0

    def _leave_out(self, exchange: str) -> None:
        kept: list[Operation] = []
        growing = True
        for each in self._operations:
            if isinstance(each, Told) and each.exchange == exchange:
                self._bytes -= len(each.events)
                continue
            growing = growing and not (isinstance(each, Ended) and each.exchange == exchange)
            kept.append(each)
        self._operations = [*kept, StepsLost(exchange)]
        if growing:
            self._stepless.add(exchange)
