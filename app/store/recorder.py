"""What the chat screen says to a recorder, and the recorder that keeps nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sequoia_core.events import Event, Step

from ..state.history import Exchange


@dataclass(frozen=True, slots=True)
class About:
    """The models and the system prompt of a chat.

    Attributes:
        target: name of the target; "" while it is not known.
        draft: name of the draft, or None without one.
        system: the system prompt, or None for the chat template's own default.
    """

    target: str = ""
    draft: str | None = None
    system: str | None = None


class Recorder:
    """Keeps nothing; `DatabaseRecorder` keeps a chat as it happens.

    Called by the screen's thread, except `event` and `steps`; only `steps` blocks or raises.

    Attributes:
        unsaved: after `close`, one line on why something is not saved; "" if all is.
    """

    unsaved: str = ""

    def about(self, about: About) -> None:
        """Set what chats are held with, one that began before it was known included."""

    def begin(self, exchange: Exchange) -> None:
        """Record a prompt, the new end of the chat's branch."""

    def event(self, exchange: str, event: Event) -> None:
        """Record an event of an exchange's answer; called for all of them, in order.

        May be called in any one thread at a time; for the last event by the screen's.
        """

    def select(self, exchange: str) -> None:
        """The chat's branch runs through this exchange."""

    def clear(self) -> None:
        """The chat is over; the next exchange begins another."""

    def race(self, exchange: str | None, result: Any) -> None:
        """Record a race; `result` is a `Record`."""

    def steps(self, exchange: str) -> Sequence[Step]:
        """The steps of a finished exchange; empty if they are not recorded.

        May be called, and its result read, in any one thread; it waits for the disk. Reading the
        result raises a `StoreError` if another version of the program wrote them.
        """
        del exchange
        return ()

    def close(self) -> None:
        """Write what is left."""
