"""Plain and speculative decoding of one prompt, raced: steps interleaved, a clock for each."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import perf_counter

from sequoia_core.decode.baseline_timer import KEPT, UNKNOWN, NoBaseline, typical
from sequoia_core.events import Event, Failed, Finished, PrefillDone, PrefillProgress, Step
from sequoia_core.files import Record


class Lane(StrEnum):
    PLAIN = "plain"
    SPECULATIVE = "speculative"


class RaceTerms(Record, frozen=True):
    """What is the same for both lanes; the first event of a race."""

    temperature: float  # 0 also in a mode that ignores it and decodes greedily
    threads: int  # of a forward
    exact: bool  # see `PairDescription`

    @property
    def must_agree(self) -> bool:
        """Whether the two texts have to be the same."""
        return self.exact and self.temperature == 0.0


class Raced(Record, frozen=True):
    """An event of one lane's answer.

    The lane's clock starts after the prompt is read and stops during the other lane's turns.
    """

    lane: Lane
    event: Event
    seconds: float  # on the lane's clock after the event


RaceEvent = RaceTerms | Raced


class LaneClock(NoBaseline):
    """The time of a plain step, for the speculative lane, from the plain lane's steps."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=KEPT)

    def note(self, event: Event) -> None:
        """Take in an event of the plain lane."""
        if isinstance(event, Step):
            self._times.append(event.timings.total_ms)

    def plain_time(self, context: int, verify_ms: float) -> tuple[float, str]:  # noqa: ARG002
        if not self._times:
            return verify_ms, UNKNOWN
        return typical(self._times), f"mean of the plain lane's last {len(self._times)} steps"


@dataclass(slots=True)
class _Runner:
    lane: Lane
    events: Iterator[Event]
    reading: bool = True
    over: bool = False
    seconds: float = 0.0

    def turn(self, settle: Callable[[], None]) -> Iterator[Raced]:
        """Its events up to the end of a step, or of a part of the prompt."""
        while not self.over:
            began = perf_counter()
            event = next(self.events, None)
            if not self.reading:
                self.seconds += perf_counter() - began
            self.over = event is None or isinstance(event, Finished | Failed)
            self.reading = self.reading and not isinstance(event, PrefillDone)
            if event is not None:
                yield Raced(self.lane, event, self.seconds)
            if isinstance(event, Step | PrefillProgress | PrefillDone):
                began = perf_counter()
                settle()
                self.seconds += 0.0 if self.reading else perf_counter() - began
                return


def race(
    lanes: Mapping[Lane, Iterator[Event]], settle: Callable[[], None] = lambda: None
) -> Iterator[Raced]:
    """Run the lanes against each other until all have ended, and yield the events of both.

    In one thread, so each has the whole machine in its turn. Prompts are read first, one after the
    other. Then the next step is that of the lane whose clock is behind, so that at any time both
    have had the same wall time. `settle` returns when the device has finished its work, so that no
    lane pays for what the other left.
    """
    runners = [_Runner(lane, events) for lane, events in lanes.items()]
    while running := [each for each in runners if not each.over]:
        behind = min(running, key=lambda each: (not each.reading, each.seconds))
        yield from behind.turn(settle)
