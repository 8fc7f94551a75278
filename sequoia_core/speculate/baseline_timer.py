"""What a plain step takes here and now, measured on plain steps that are taken among the others."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, median
from time import monotonic

from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from sequoia_core.speculate.cost_model import FadingRatio, StepCosts

INTERVAL = 30  # steps between two plain ones, once enough of them are known
FIRST_STEP = 2  # the earliest plain step: the first after a prompt is colder than the others
FIRST_INTERVAL = 4  # between the first two plain ones; each interval is longer by as many
LOST_SHARE = 0.02  # of the decoding time that plain steps may cost beyond speculative ones
KEPT = 16  # plain steps behind a figure
MANY = 8  # plain steps from which one delayed step barely changes the mean
OUTLIER, OUTLIER_OF_FEW = 10.0, 3.0  # medians that one step counts at most, of many and of few
FRESH_SECONDS = 60.0  # age after which the machine may have changed its speed
FAR_TOKENS = 512  # change of context after which a forward takes another time
WATCHED = 16  # speculative steps from which it is seen that the machine has changed its speed
CHANGE = 1.5  # ratio of their times, either way, that is such a change
MEMORY = 64  # steps behind the figure of how fast trees decode
UNKNOWN = "no plain step yet: this step's own verification"


class NoBaseline:
    """Takes no plain steps and measures none; what instruments use, whose steps all have a tree."""

    def due(self, index: int, params: SamplingParams) -> bool:  # noqa: ARG002
        """Whether step `index` of an answer, from 1, is decoded plainly to be timed."""
        return False

    def observe(self, step: Step, params: SamplingParams) -> None:
        pass

    def plain_time(self, context: int, verify_ms: float) -> tuple[float, str]:  # noqa: ARG002
        """Milliseconds of a plain step, 0 where they are not measured, and how that is known.

        `context` counts tokens; `verify_ms` is the target's forward over the tree of this step.
        """
        return 0.0, "not measured"


@dataclass(frozen=True, slots=True)
class _PlainStep:
    milliseconds: float
    context: int
    when: float

    def holds(self, context: int, when: float) -> bool:
        """Whether a step at this context and time would take as long."""
        return abs(context - self.context) < FAR_TOKENS and when - self.when < FRESH_SECONDS


class BaselineTimer(NoBaseline):
    """Times the plain steps of a chat, each of which yields its token like any other.

    One is due when the latest is `INTERVAL` steps old, sooner while few are known, and when the
    machine has changed its speed; unless it would cost too much. With a seed the index of a step
    alone decides, so that the text can be repeated. `calibrated`, what steps cost by tokens of
    context, serves until the first plain step.
    """

    def __init__(
        self,
        calibrated: Callable[[int], StepCosts | None] = lambda _context: None,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._calibrated, self._now = calibrated, now
        self._known: deque[_PlainStep] = deque(maxlen=KEPT)
        self._figure: tuple[float, str] | None = None
        self._shaping: tuple[float, float, int] | None = None  # of those that are known
        self._since = self._context = 0  # steps after the latest of them; tokens of context now
        self._verify_ms: deque[float] = deque(maxlen=WATCHED)
        self._verify_then: float | None = None  # typical when the latest plain step was taken
        self._spent_ms = self._lost_ms = 0.0
        self._trees = FadingRatio(MEMORY)  # milliseconds over tokens

    def due(self, index: int, params: SamplingParams) -> bool:
        if params.seed is not None and params.temperature > 0.0:
            return index % INTERVAL == FIRST_STEP
        if index < FIRST_STEP:
            return False
        if not self._known:
            return True
        wanted = (
            self._since + 1 >= min(INTERVAL, FIRST_INTERVAL * len(self._known))
            or not self._holds(self._context)
            or self._shaping != _shaping(params)
            or self._changed
        )
        return wanted and self._lost_ms + self._loss <= LOST_SHARE * self._spent_ms

    def observe(self, step: Step, params: SamplingParams) -> None:
        """Any step of one row is a plain one, due or not."""
        total_ms = step.timings.total_ms
        self._spent_ms += total_ms
        self._since += 1
        self._context = step.context_length
        if len(step.nodes) > 1:
            self._verify_ms.append(step.timings.verify_ms)
            self._trees.add(total_ms, len(step.token_ids))
        elif step.timings.draft_ms == 0.0 and step.index >= FIRST_STEP:
            if self._changed or _shaping(params) != self._shaping:
                self._known.clear()
            self._known.append(_PlainStep(total_ms, self._context, self._now()))
            self._figure, self._shaping, self._since = self._summary(), _shaping(params), 0
            self._verify_then = self._verify_now
            if step.baseline:
                self._lost_ms += self._loss  # of an outlier all steps lose as much

    def plain_time(self, context: int, verify_ms: float) -> tuple[float, str]:
        if self._figure is not None:
            milliseconds, source = self._figure
            return milliseconds, source if self._holds(context) else f"{source}, out of date"
        costs = self._calibrated(context)
        if costs is not None:
            return costs.plain_ms, "calibrated on this machine: no plain step yet"
        return verify_ms, UNKNOWN

    def _summary(self) -> tuple[float, str]:
        latest = self._known[-1]
        used = [each for each in self._known if each.holds(latest.context, latest.when)]
        what = "a plain step" if len(used) == 1 else f"mean of {len(used)} plain steps, the last"
        source = f"{what} at {latest.context} tokens of context"
        return typical(each.milliseconds for each in used), source

    def _holds(self, context: int) -> bool:
        return self._known[-1].holds(context, self._now())

    @property
    def _loss(self) -> float:
        """How much longer a plain step takes than speculation does for one token."""
        if self._figure is None or not self._trees.whole:
            return 0.0
        return max(self._figure[0] - self._trees.part / self._trees.whole, 0.0)

    @property
    def _changed(self) -> bool:
        """Whether speculative steps take another time than around the latest plain step."""
        if not self._verify_then or self._since < WATCHED // 2:
            return False
        return not 1 / CHANGE < (self._verify_now or 0.0) / self._verify_then < CHANGE

    @property
    def _verify_now(self) -> float | None:
        """Typical verification of the latest speculative steps; None while they are few."""
        return typical(self._verify_ms) if len(self._verify_ms) == WATCHED else None


def _shaping(params: SamplingParams) -> tuple[float, float, int]:
    """What the time of sampling depends on."""
    return params.temperature, params.top_p, params.top_k


def typical(milliseconds: Iterable[float]) -> float:
    """The mean, since speed is tokens over all of the time; of an outlier only a part counts."""
    every = list(milliseconds)
    most = (OUTLIER if len(every) >= MANY else OUTLIER_OF_FEW) * median(every)
    return fmean(min(each, most) for each in every)
