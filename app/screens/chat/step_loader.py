"""Reads the steps of old answers from the record, in a thread while the screen goes on."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from sequoia_core.events import Step

from ...state.answer import Answer
from ...state.history import Exchange
from ...state.stats import Statistics
from ...store.database import StoreError


class StepLoader:
    """Reads the steps of one answer at a time, and frees them again.

    Args:
        read_steps: the steps of an exchange by its id; may block, and raise a `StoreError` while
            they are read.
        run_worker: runs a coroutine in the background.
    """

    def __init__(
        self,
        read_steps: Callable[[str], Iterable[Step]],
        run_worker: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._read_steps, self._run_worker = read_steps, run_worker
        self._unwanted: threading.Event | None = None
        self._loaded: list[Answer] = []

    @property
    def reading(self) -> bool:
        """Whether steps are being read."""
        return self._unwanted is not None

    def load(self, exchange: Exchange, ended: Callable[[Exchange], None]) -> None:
        """Read the steps of an answer; what was being read is dropped.

        Args:
            exchange: has the answer, which is not running.
            ended: called when the answer has its steps, or when they are not on record.
        """
        self.cancel()
        self._unwanted = threading.Event()
        self._run_worker(self._load(exchange, ended, self._unwanted))

    def cancel(self) -> None:
        """Drop what is being read."""
        if self._unwanted is not None:
            self._unwanted.set()
            self._unwanted = None

    def keep_only(self, *answers: Answer) -> None:
        """Free all steps that were read, except those of these answers."""
        dropped = list[Step]()
        for loaded in self._loaded:
            if not any(loaded is each for each in answers):
                dropped += loaded.steps
                loaded.forget_steps()
        if dropped:
            self._run_worker(_free(dropped))
        self._loaded = [each for each in self._loaded if each.steps]

    async def _load(
        self, exchange: Exchange, ended: Callable[[Exchange], None], unwanted: threading.Event
    ) -> None:
        try:
            steps, statistics = await asyncio.to_thread(self._read, exchange.id, unwanted)
        finally:
            unwanted.set()  # also when the app is closed meanwhile
        if unwanted is not self._unwanted:
            return
        self._unwanted = None
        answer = exchange.answer
        if steps:
            answer.steps[:], answer.statistics[:] = steps, statistics
            self._loaded.append(answer)
        ended(exchange)

    def _read(
        self, exchange: str, unwanted: threading.Event
    ) -> tuple[list[Step], list[Statistics]]:
        """All steps and the statistics after each; none if they are not on record or unwanted."""
        steps, statistics, figures = list[Step](), list[Statistics](), Statistics()
        try:
            for step in self._read_steps(exchange):
                if unwanted.is_set():
                    return [], []
                figures = figures.plus(step)
                steps.append(step)
                statistics.append(figures)
        except StoreError:  # another version of the program wrote them
            return [], []
        return steps, statistics


async def _free(steps: list[Step]) -> None:
    """One by one: freed at once they would block every thread until the last node is gone."""

    def free() -> None:
        while steps:
            steps.pop()

    await asyncio.to_thread(free)
