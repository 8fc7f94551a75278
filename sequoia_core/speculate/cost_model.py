"""What a row and a drafting pass cost, in tokens: the price at which speculating more pays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST_PRICED = 1024  # rows with a price of their own; more cost what the last of these does
_MEMORY = 64  # steps over which tokens per time are averaged
_FIRST_TOKENS, _FIRST_TIME, _FIRST_STEPS = 1.5, 1.25, 8


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Milliseconds that the parts of a step take at one context."""

    # a target forward of n rows, and what else of a step grows with its nodes
    target_ms: Callable[[int], float]
    draft_ms: Callable[[int], float]  # a drafting pass of n rows, sampling included
    overhead_ms: float  # what else a step takes, whatever its tree
    plain_ms: float  # a whole plain step


# of a machine that was not measured, in units of a plain step: moderate, as a CPU's
ASSUMED_COSTS = StepCosts(
    target_ms=lambda rows: 1.0 + 0.035 * (rows - 1),
    draft_ms=lambda rows: 0.1 + 0.01 * (rows - 1),
    overhead_ms=0.05,
    plain_ms=1.0,
)


class FadingRatio:
    """A ratio of two sums; each observation scales earlier ones by 1 - 1 / memory."""

    __slots__ = ("_keep", "part", "whole")

    def __init__(self, memory: int, part: float = 0.0, whole: float = 0.0) -> None:
        self._keep = 1.0 - 1.0 / memory
        self.part, self.whole = part, whole

    def add(self, part: float, whole: float = 1.0) -> None:
        self.part = self.part * self._keep + part
        self.whole = self.whole * self._keep + whole

    def estimate(self, belief: float, weight: float) -> float:
        """The ratio, where a belief counts as so many observations."""
        return (self.part + weight * belief) / (self.whole + weight)


class CostModel:
    """Prices from measured times and from the tokens that steps have yielded lately.

    With `rate` the tokens that a unit of time yields now, a node pays if its probability of being
    accepted is at least rate x the time its row adds, and a drafting pass if what it is expected to
    add is at least rate x its time.
    """

    def __init__(self, costs: StepCosts = ASSUMED_COSTS) -> None:
        tokens, time = _FIRST_TOKENS * _FIRST_STEPS, _FIRST_TIME * _FIRST_STEPS
        self._yield = FadingRatio(_MEMORY, tokens, time)
        self.set_costs(costs)

    def set_costs(self, costs: StepCosts) -> None:
        self._costs, self._plain = costs, costs.plain_ms
        # a plain step has overhead as well, which is no price of a tree
        plain_overhead = costs.plain_ms - costs.target_ms(1)
        self._overhead = max(costs.overhead_ms - max(plain_overhead, 0.0), 0.0)
        self._marginal: list[float] = []

    @property
    def rate(self) -> float:
        """Tokens per plain step's time; never below 1, which plain decoding yields."""
        return max(self._yield.part / self._yield.whole, 1.0)

    def row_price(self, rows: int) -> float:
        """Tokens that a forward's row number `rows`, 2 or more, must be expected to yield."""
        if rows > len(self._marginal):
            self._price_rows(rows)
        return self.rate * self._marginal[min(rows, MOST_PRICED) - 1]

    def pass_price(self, rows: int, first: bool = False) -> float:
        """Tokens that a drafting pass over `rows` nodes must be expected to add.

        One without which the step would be a plain one also pays for what any tree takes.
        """
        time = self._costs.draft_ms(rows) + (self._overhead if first else 0.0)
        return self.rate * time / self._plain

    def record(self, tokens: int, rows: int, passes: Sequence[int]) -> None:
        """Learn from a step: tokens emitted, rows of its target forward and of each drafting pass.

        Times are the modelled ones: a step may be slow for reasons other than its tree.
        """
        time = self._plain
        if passes or rows > 1:
            more = self._costs.target_ms(rows) - self._costs.target_ms(1)
            time += more + sum(map(self._costs.draft_ms, passes)) + self._overhead
        self._yield.add(tokens, time / self._plain)

    def _price_rows(self, rows: int) -> None:
        """Slopes of the greatest convex function below t(n), so that noise makes no row free."""
        last = min(max(2 * rows, 64), MOST_PRICED)
        times = [self._costs.target_ms(n) / self._plain for n in range(1, last + 2)]
        hull: list[int] = []
        for at, time in enumerate(times):
            while len(hull) > 1 and _above(hull[-2], hull[-1], at, times):
                hull.pop()
            while hull and time <= times[hull[-1]]:  # more rows never take less
                hull.pop()
            hull.append(at)
        self._marginal = [0.0] * (last + 1)
        for left, right in zip([0, *hull], hull, strict=False):
            for at in range(left + 1, right + 1):
                self._marginal[at] = max(times[right] - times[left], 0.0) / (right - left)


def _above(left: int, middle: int, right: int, times: Sequence[float]) -> bool:
    """Whether the middle point lies on or above the line between its neighbours."""
    rise = (times[middle] - times[left]) * (right - left)
    return rise >= (times[right] - times[left]) * (middle - left)
