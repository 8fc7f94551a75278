"""Plain and speculative decoding of one prompt, raced: steps interleaved, a clock for each."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from time import perf_counter

from sequoia_core.decode.baseline_timer import KEPT, UNKNOWN, NoBaseline, typical
from sequoia_core.events import Event, Failed, Finished, PrefillDone, PrefillProgress, Step
from sequoia_core.files import TaggedRecord


class Lane(StrEnum):
    PLAIN = "plain"
    SPECULATIVE = "speculative"


class RaceTerms(TaggedRecord, frozen=True):
    """What is the same for both lanes; the first event of a race."""

    temperature: float  # 0 also in a mode that ignores it and decodes greedily
    threads: int  # of a forward
    exact: bool  # see `PairDescription`

    @property
    def must_agree(self) -> bool:
        """Whether the two texts have to be the same."""
        return self.exact and self.temperature == 0.0


class Raced(TaggedRecord, frozen=True, rename={"event": "raced"}):
    """An event of one lane's answer."""

    lane: Lane
    event: Event
    seconds: float  # of the lane's turns so far, after its prompt was read


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


def race(
    lanes: Mapping[Lane, Iterator[Event]], settle: Callable[[], None] = lambda: None
) -> Iterator[Raced]:
    """Run the lanes against each other until all have ended, and yield the events of both.

    In one thread, so each has the whole machine in its turn. Prompts are read first, one after the
    other. Then the next step is that of the lane whose clock is behind, so that at any time both
    have had the same wall time. `settle` returns when the device has finished its work, so that no
    lane pays for what the other left.
    """
    running = dict(lanes)
    reading, seconds = dict.fromkeys(lanes, True), dict.fromkeys(lanes, 0.0)
    while running:
        lane = min(running, key=lambda each: (not reading[each], seconds[each]))
        while lane in running:
            began = perf_counter()
            event = next(running[lane], None)
            seconds[lane] += 0.0 if reading[lane] else perf_counter() - began
            if event is None or isinstance(event, Finished | Failed):
                del running[lane]
            if isinstance(event, PrefillDone):
                reading[lane] = False
            if event is not None:
                yield Raced(lane, event, seconds[lane])
            if isinstance(event, Step | PrefillProgress | PrefillDone):
                began = perf_counter()
                settle()
                seconds[lane] += 0.0 if reading[lane] else perf_counter() - began
                break
