"""Plain and speculative decoding of one prompt, raced: their steps interleaved, a clock for each.

Owns whose turn it is and what the clocks count. A lane is an answer like any other; how it is
decoded is not known here. Both run in one thread, so that each has the whole machine while it is
its turn, and what slows the machine down for a while slows both.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from time import perf_counter

from sequoia_core.decode.baseline_timer import KEPT, UNKNOWN, NoBaseline, typical
from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    PrefillDone,
    PrefillProgress,
    Step,
)
from sequoia_core.files import Record


class Lane(StrEnum):
    """How a lane decodes."""

    PLAIN = "plain"
    SPECULATIVE = "speculative"


class RaceTerms(Record, frozen=True):
    """What both lanes have in common; the first event of a race.

    Attributes:
        temperature: of both; 0 also where the mode decodes greedily whatever is set.
        threads: that a forward is computed with, the same for both.
        exact: one row rounds like many, so that at temperature 0 the texts must be equal.
    """

    temperature: float
    threads: int
    exact: bool

    @property
    def must_agree(self) -> bool:
        """Whether the two texts have to be the same."""
        return self.exact and self.temperature == 0.0


class Raced(Record, frozen=True):
    """An event of one lane's answer.

    Attributes:
        lane: whose.
        event: as in any answer; `Finished` or `Failed` is the lane's last.
        seconds: on the lane's clock after it. The clock starts when the prompt has been read and
            stands still while the other lane has its turn.
    """

    lane: Lane
    event: Event
    seconds: float


RaceEvent = RaceTerms | Raced


class LaneClock(NoBaseline):
    """What a plain step takes, for the speculative lane: as the plain one shows it.

    A race decodes plainly anyway, so its speculative lane takes no plain steps.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=KEPT)

    def note(self, event: Event) -> None:
        """Learn from an event of the plain lane."""
        if isinstance(event, Step):
            self._times.append(event.timings.total_ms)

    def plain_time(self, context: int, verify_ms: float) -> tuple[float, str]:  # noqa: ARG002
        """See `NoBaseline`; before the plain lane's first step as for `BaselineTimer`."""
        if not self._times:
            return verify_ms, UNKNOWN
        return typical(self._times), f"mean of the plain lane's last {len(self._times)} steps"


class _Runner:
    """A lane under way."""

    def __init__(self, lane: Lane, events: Iterator[Event], settle: Callable[[], None]) -> None:
        self.lane, self._events, self._settle = lane, events, settle
        self.reading, self.over, self.seconds = True, False, 0.0

    def turn(self) -> Iterator[Raced]:
        """Its events up to the end of a step, or of a part of the prompt."""
        while not self.over:
            began = perf_counter()
            event = next(self._events, None)
            if not self.reading:
                self.seconds += perf_counter() - began
            self.over = event is None or isinstance(event, Finished | Failed)
            self.reading = self.reading and not isinstance(event, PrefillDone)
            if event is not None:
                yield Raced(self.lane, event, self.seconds)
            if isinstance(event, Step | PrefillProgress | PrefillDone):
                began = perf_counter()
                self._settle()
                self.seconds += 0.0 if self.reading else perf_counter() - began
                return


def race(
    lanes: Mapping[Lane, Iterator[Event]], settle: Callable[[], None] = lambda: None
) -> Iterator[Raced]:
    """Run the lanes against each other until all have ended.

    Prompts are read first, one after the other. Then the next step is that of the lane whose clock
    is behind, so that at any time both have had the same wall time, and the bars of a picture stand
    as they would if each had a machine of its own.

    Args:
        lanes: the events of each lane's answer; nothing may have been taken from them.
        settle: returns when the device has done what it was given, so that no lane pays for what
            the other left.

    Yields:
        the events of both, in the order they came about.
    """
    runners = [_Runner(lane, events, settle) for lane, events in lanes.items()]
    while running := [each for each in runners if not each.over]:
        behind = min(running, key=lambda each: (not each.reading, each.seconds))
        yield from behind.turn()
