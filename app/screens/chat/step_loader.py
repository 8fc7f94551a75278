"""Brings the steps of old answers back from the record while the screen goes on.

Owns the reading: in a thread, since unpacking a long answer takes longer than a key may wait, and
one at a time. Which steps are wanted, and what becomes of them, is the inspector's.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from sequoia_core.events import Step

from ...state.answer import Answer
from ...state.history import Exchange
from ...state.stats import Statistics
from ...store.errors import StoreError
from ...store.recorder import Recorder

if TYPE_CHECKING:
    from .screen import ChatScreen


class _Reading:
    """The steps of one exchange and the figures after each, read in a thread."""

    def __init__(self, recorder: Recorder, exchange: Exchange) -> None:
        self.exchange = exchange
        self._recorder = recorder
        self._unwanted = threading.Event()

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._unwanted.set()

    def read(self) -> tuple[list[Step], list[Statistics]]:
        """All of them, or none where they are not on record or not wanted any more."""
        steps, statistics, figures = list[Step](), list[Statistics](), Statistics()
        try:
            for step in self._recorder.steps(self.exchange.id):
                if self._unwanted.is_set():
                    return [], []
                figures = figures.plus(step)
                steps.append(step)
                statistics.append(figures)
        except StoreError:  # another version of the program wrote them
            return [], []
        return steps, statistics


class Recalling:
    """Reads the steps of old answers, and lets them go again.

    Args:
        chat: the screen.
        ended: called with the exchange when its steps are there, or are known not to be.
    """

    def __init__(self, chat: "ChatScreen", ended: Callable[[Exchange], None]) -> None:
        self._chat = chat
        self._ended = ended
        self._reading: _Reading | None = None
        self._recalled: list[Answer] = []

    @property
    def under_way(self) -> bool:
        """Whether steps are being read."""
        return self._reading is not None

    def begin(self, exchange: Exchange) -> None:
        """Read the steps of an answer that has ended; what was being read is dropped."""
        self.leave()
        self._reading = _Reading(self._chat.keeping.recorder, exchange)
        self._chat.run_worker(self._read(self._reading), group="steps")

    def leave(self) -> None:
        """Drop what is being read: the person has moved on."""
        if self._reading is not None:
            self._reading.end()
            self._reading = None

    def hold(self, *answers: Answer) -> None:
        """Let all steps go that were read, but for those of these answers."""
        dropped = list[Step]()
        for recalled in self._recalled:
            if not any(recalled is each for each in answers):
                dropped += recalled.steps
                recalled.forget_steps()
        if dropped:
            self._chat.run_worker(_free(dropped), group="steps")
        self._recalled = [each for each in self._recalled if each.steps]

    async def _read(self, reading: _Reading) -> None:
        try:
            steps, statistics = await asyncio.to_thread(reading.read)
        finally:
            reading.end()  # also when the app is closed meanwhile
        if reading is not self._reading:
            return
        self._reading = None
        answer = reading.exchange.answer
        if steps:
            answer.steps[:], answer.statistics[:] = steps, statistics
            self._recalled.append(answer)
        self._ended(reading.exchange)


async def _free(steps: list[Step]) -> None:
    """One by one: all at once they would stop every thread until the last node is freed."""

    def free() -> None:
        while steps:
            steps.pop()

    await asyncio.to_thread(free)
