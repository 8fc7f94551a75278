"""Sums over the steps of an answer: one immutable `Statistics` per step."""

from collections.abc import Sequence

from sequoia_core.events import Origin, Outcome, Step, Totals, TreeNode
from sequoia_core.files import Record

HISTORY = 120  # steps in the sparklines; more than a terminal is wide


class Rate(Record, frozen=True):
    """How often something that could happen did."""

    hits: int = 0
    trials: int = 0

    def plus(self, hit: bool) -> "Rate":
        return Rate(self.hits + hit, self.trials + 1)

    @property
    def value(self) -> float | None:
        """The share of hits, or None before the first trial."""
        return self.hits / self.trials if self.trials else None


class Statistics(Record, frozen=True):
    """The statistics of an answer up to one of its steps.

    Nodes that were looked up count in `accepted`, but not by depth and rank, which are compared
    with what the tree shape expects of the draft's nodes.
    """

    totals: Totals = Totals()
    measured: bool = True  # every step's plain time was known, so the speed-ups mean something
    # draft tokens of the last steps, oldest first; plain steps that the speed-up is measured
    # against are left out
    accepted: tuple[int, ...] = ()
    speedups: tuple[float, ...] = ()  # of the same steps; 0 where not measured
    by_depth: tuple[Rate, ...] = ()  # [d - 1]: of those that drafted d deep, d or more accepted
    by_rank: tuple[Rate, ...] = ()  # [k - 1]: of visited nodes with k drafted children, the k-th

    def plus(self, step: Step) -> "Statistics":
        speedup = step_speedup(step)
        drafted = [node for node in step.nodes if node.origin is Origin.DRAFT]
        depth = max(node.depth for node in drafted)
        reached = sum(map(_accepted, drafted)) - 1
        by_rank = self.by_rank
        for place in step.path:
            children = map(step.nodes.__getitem__, step.children[place])
            tried = [_accepted(node) for node in children if node.origin is Origin.DRAFT]
            by_rank = _count(by_rank, tried)
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
            by_rank=by_rank,
        )

    @property
    def speedup(self) -> float | None:
        """Running speed-up over plain decoding, or None where it was not measured."""
        return self.totals.speedup if self.measured and self.totals.seconds else None


def step_speedup(step: Step) -> float | None:
    """The step's speed-up, or None when its plain time was not measured."""
    return step.speedup if step.plain_ms > 0 and step.timings.total_ms > 0 else None


def _accepted(node: TreeNode) -> bool:
    return node.outcome is Outcome.ACCEPTED


def _count(rates: tuple[Rate, ...], hits: Sequence[bool]) -> tuple[Rate, ...]:
    """One more trial for each of `hits`; rates past its end stay."""
    rates += (Rate(),) * (len(hits) - len(rates))
    tried = (rate.plus(hit) for rate, hit in zip(rates, hits, strict=False))
    return (*tried, *rates[len(hits) :])
