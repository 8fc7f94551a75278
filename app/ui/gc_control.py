"""Full garbage collections, which stop every thread for some 10 ms, between answers only."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

NEVER = 1_000_000_000
ANSWERS = 4  # between collections; one after each would stop a fast chat as often as before
MOST_ANSWERS = 16  # after these, a collection no longer waits for a person who types
QUIET_SECONDS = 0.4  # since the last key; a person who types would notice the collection


@dataclass(slots=True)
class GarbageCollections:
    """Schedules full collections, one per process; those of young generations go on as usual."""

    clock: Callable[[], float] = time.monotonic
    _usual: tuple[int, int, int] | None = None
    _frozen: bool = False
    _answers: int = 0
    _input_at: float = float("-inf")

    def start(self) -> None:
        self._usual = gc.get_threshold()
        gc.set_threshold(*self._usual[:2], NEVER)

    def note_input(self) -> None:
        self._input_at = self.clock()

    def input_within(self, seconds: float) -> bool:
        return self.clock() - self._input_at < seconds

    def answer_ended(self) -> None:
        """Nothing is decoded; the first time, when the models are loaded, freeze what there is."""
        if self._usual is None:
            return
        if self._frozen:
            self._answers += 1
        else:
            self._frozen = True
            gc.collect()
            gc.freeze()

    def collect_if_due(self, *, idle: bool) -> None:
        """Collect after some answers, if nothing is decoded (`idle`) and nobody types."""
        quiet = idle and not self.input_within(QUIET_SECONDS)
        if self._answers >= ANSWERS and (quiet or self._answers >= MOST_ANSWERS):
            self._answers = 0
            gc.collect()

    def stop(self) -> None:
        """Restore the settings from before `start`."""
        if self._usual is not None:
            gc.set_threshold(*self._usual)
            gc.unfreeze()
            self._usual = None
            self._answers = 0
