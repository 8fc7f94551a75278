"""One prompt decoded in two ways, raced: steps interleaved, a clock for each."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from time import perf_counter

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.events import Event, Failed, Finished, PrefillDone, PrefillProgress, Step
from sequoia_core.files import Record, TaggedRecord
from sequoia_core.speculate.baseline_timer import KEPT, UNKNOWN, NoBaseline, typical
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice


class Lane(StrEnum):
    FIRST = "first"
    SECOND = "second"

    @property
    def other(self) -> "Lane":
        return Lane.SECOND if self is Lane.FIRST else Lane.FIRST


class RaceSide(Record, frozen=True):
    """How one lane decodes."""

    label: str  # short; what a person calls it
    choice: TreeChoice | None = None  # None is what the chat's answers are decoded with
    draft: str | None = None  # another one, as for `load_pair`; None is the chat's

    @property
    def plain(self) -> bool:
        return self.choice is not None and self.choice.mode is Mode.AR


PLAIN = RaceSide("plain", TreeChoice(Mode.AR))
PLAIN_AND_CHOSEN = (PLAIN, RaceSide("with trees"))
"""The sides where none are named."""


class Race(TaggedRecord, frozen=True):
    """A prompt to answer after `turns` on two sides at once, outside the conversation."""

    sides: tuple[RaceSide, RaceSide]
    turns: tuple[Turn, ...]
    prompt: str
    params: SamplingParams


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
    """The time of a plain step, for the lane that speculates, from the plain lane's steps."""

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


def take_turns(
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
