"""What is handed over to the writer's thread, until it takes nothing more.

Owns that nobody waits for a thread that has ended: what it will not do any more is answered.
"""

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from .growing import Happened
from .operations import Operation
from .trouble import StoreError


@dataclass(frozen=True, slots=True)
class Asked:
    """Something that a person waits for: it is done now or not at all."""

    operation: Operation
    done: "Future[None]"

    def end(self, error: StoreError | None = None) -> None:
        """Tell whoever waits; they may have gone, or been told."""
        if self.done.done() or not self.done.set_running_or_notify_cancel():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


@dataclass(frozen=True, slots=True)
class Marker:
    """Set when all that was handed over before it is packed, and written if that is possible."""

    reached: threading.Event


@dataclass(frozen=True, slots=True)
class Closing:
    """The last thing that is handed over."""


Item = Operation | Happened | Asked | Marker | Closing


class Inbox:
    """A queue with one reader, which may go away.

    Attributes:
        refusal: why nothing is taken any more; "" as long as it is.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._handing = threading.Lock()
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def hand(self, item: Item) -> bool:
        """Hand something over; whether it is taken."""
        with self._handing:
            if not self.refusal:
                self._queue.put(item)
            return not self.refusal

    def get(self, *, block: bool = True, timeout: float | None = None) -> Item:
        """The next thing, for the reader.

        Raises:
            queue.Empty: there is none in time.
        """
        return self._queue.get(block, timeout)

    @property
    def empty(self) -> bool:
        """Whether everything was taken."""
        return self._queue.empty()

    def refuse(self, why: str) -> list[Item]:
        """Take nothing from now on; what was not taken yet."""
        with self._handing:
            self.refusal = why
            left = []
            while not self._queue.empty():
                left.append(self._queue.get())
        return left
