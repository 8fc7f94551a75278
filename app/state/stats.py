"""Sums over the steps of an answer: one immutable `Statistics` per step."""

from sequoia_core.events import Origin, Outcome, Step, Totals
from sequoia_core.files import Record

HISTORY = 120
"""Steps in the sparklines; more than a terminal is wide."""


class Rate(Record, frozen=True):
    """How often something that could happen did."""

    hits: int = 0
    trials: int = 0

    def plus(self, hit: bool) -> "Rate":
        """With one more trial."""
        return Rate(self.hits + hit, self.trials + 1)

    @property
    def value(self) -> float | None:
        """The share of hits, or None before the first trial."""
        return self.hits / self.trials if self.trials else None


class Statistics(Record, frozen=True):
    """The statistics of an answer up to one of its steps.

    Attributes:
        totals: tokens, steps and seconds.
        measured: every step's plain time was known, so the speed-ups mean something.
        accepted: accepted draft tokens of the last steps, oldest first; plain steps that the
            speed-up is measured against are left out.
        speedups: of the same steps; 0 where not measured.
        by_depth: index d - 1: a step that drafted d deep or more accepted d drafted nodes or more.
        by_rank: index k - 1: the k-th drafted child of a visited node that has one was accepted.

    Nodes that were looked up count in `accepted`, but not by depth and rank, which are compared
    with what the tree shape expects of the draft's nodes.
    """

    totals: Totals = Totals()
    measured: bool = True
    accepted: tuple[int, ...] = ()
    speedups: tuple[float, ...] = ()
    by_depth: tuple[Rate, ...] = ()
    by_rank: tuple[Rate, ...] = ()

    def plus(self, step: Step) -> "Statistics":
        """The figures with one more step."""
        speedup = step_speedup(step)
        drafted = [node for node in step.nodes if node.origin is Origin.DRAFT]
        depth = max(node.depth for node in drafted)
        reached = sum(node.outcome is Outcome.ACCEPTED for node in drafted) - 1
        accepted, speedups = self.accepted, self.speedups
        if not step.baseline:
            accepted = (*accepted, step.accepted)[-HISTORY:]
            speedups = (*speedups, speedup or 0.0)[-HISTORY:]
        return Statistics(
            totals=self.totals.plus(step),
            measured=self.measured and speedup is not None,
            accepted=accepted,
            speedups=speedups,
            by_depth=_count(self.by_depth, [reached > d for d in range(depth)]),
            by_rank=_count_ranks(self.by_rank, step),
        )

    @property
    def speedup(self) -> float | None:
        """Running speed-up over plain decoding, or None where it was not measured."""
        return self.totals.speedup if self.measured and self.totals.seconds else None


def step_speedup(step: Step) -> float | None:
    """The step's speed-up, or None when its plain time was not measured."""
    return step.speedup if step.plain_ms > 0 and step.timings.total_ms > 0 else None


def _count(rates: tuple[Rate, ...], hits: list[bool]) -> tuple[Rate, ...]:
    """One more trial for each of `hits`; rates past its end stay."""
    padded = rates + (Rate(),) * (len(hits) - len(rates))
    return tuple(
        rate.plus(hits[index]) if index < len(hits) else rate for index, rate in enumerate(padded)
    )


def _count_ranks(rates: tuple[Rate, ...], step: Step) -> tuple[Rate, ...]:
    for place in step.path:
        children = map(step.nodes.__getitem__, step.children[place])
        drafted = [node for node in children if node.origin is Origin.DRAFT]
        rates = _count(rates, [node.outcome is Outcome.ACCEPTED for node in drafted])
    return rates
