"""What keeps a chat as it happens: the seam between the chat screen and whatever remembers it.

Owns the protocol and the recorder that keeps nothing. The one that writes a database is
`store.recorder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sequoia_core.events import Event, Step

from ..state.history import Exchange


@dataclass(frozen=True, slots=True)
class About:
    """What a new chat is held with.

    Attributes:
        target: name of the target; "" while it is not known.
        draft: name of the draft, or None without one.
        system: the system prompt, or None for the chat template's own default.
    """

    target: str = ""
    draft: str | None = None
    system: str | None = None


class Recorder(Protocol):
    """Told by the screen's thread, but for `event` and `steps`; only `steps` blocks or raises."""

    def about(self, about: About) -> None:
        """This is what chats are held with, one that began before it was known too."""
        ...

    def begin(self, exchange: Exchange) -> None:
        """A prompt was sent; it becomes the end of the chat's branch."""
        ...

    def event(self, exchange: str, event: Event) -> None:
        """An event of an exchange's answer; all of them are told, in order.

        May be called in any one thread at a time; the last one by the screen's.
        """
        ...

    def select(self, exchange: str) -> None:
        """The branch on show runs through this exchange."""
        ...

    def clear(self) -> None:
        """The chat is over; the next exchange begins another."""
        ...

    def race(self, exchange: str | None, result: Any) -> None:
        """A race was run; `result` is a dataclass of plain values."""
        ...

    def steps(self, exchange: str) -> Sequence[Step]:
        """The steps of a finished exchange; empty where they are not in the record.

        May be called, and what it returns read, in any one thread; it waits for the disk. Reading
        on raises a `StoreError` where another version of the program wrote them.
        """
        ...

    def close(self) -> None:
        """Write what is left; called once, at the end."""
        ...


class NoRecord:
    """Keeps nothing.

    Attributes:
        unsaved: nothing that was to be saved is not.
    """

    unsaved = ""

    def about(self, about: About) -> None:
        """Nothing."""

    def begin(self, exchange: Exchange) -> None:
        """Nothing."""

    def event(self, exchange: str, event: Event) -> None:
        """Nothing."""

    def select(self, exchange: str) -> None:
        """Nothing."""

    def clear(self) -> None:
        """Nothing."""

    def race(self, exchange: str | None, result: Any) -> None:
        """Nothing."""

    def steps(self, exchange: str) -> Sequence[Step]:
        """None are known."""
        del exchange
        return ()

    def close(self) -> None:
        """Nothing."""
