"""The queue to the writer's thread; nobody waits for a thread that has ended."""

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from .errors import StoreError
from .operations import Operation
from .pending import EventReceived


@dataclass(frozen=True, slots=True)
class Demand:
    """Something that is waited for.

    Attributes:
        operation: is carried out now or not at all; None waits for what was put before.
        done: ends then, with a `StoreError` if it failed.
    """

    operation: Operation | None
    done: "Future[None]" = field(default_factory=Future)

    def end(self, error: StoreError | None = None) -> None:
        """End the future unless it was cancelled or has ended."""
        if self.done.done() or not self.done.set_running_or_notify_cancel():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)


class Closing:
    """The last item."""


Item = Operation | EventReceived | Demand | Closing


class Inbox:
    """A queue with one reader, which may end.

    Attributes:
        refusal: why nothing is taken any more; "" as long as it is.
    """

    def __init__(self) -> None:
        self.refusal = ""
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item) -> bool:
        """Add an item; whether it is taken."""
        with self._lock:
            if not self.refusal:
                self._queue.put(item)
            return not self.refusal

    def get(self, timeout: float | None) -> Item:
        """The next item.

        Args:
            timeout: seconds to wait for it; None waits for ever, and 0 not at all.

        Raises:
            queue.Empty: there is none in time.
        """
        return self._queue.get(timeout != 0, timeout)

    @property
    def empty(self) -> bool:
        """Whether everything was taken."""
        return self._queue.empty()

    def refuse(self, why: str) -> list[Item]:
        """Take nothing from now on; returns what the reader has not taken."""
        with self._lock:
            self.refusal = why
            return [self._queue.get() for _ in range(self._queue.qsize())]
