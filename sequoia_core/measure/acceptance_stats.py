"""How often the k-th child at a depth was accepted, counted in decoded steps.

Counts fade, so that a record follows a conversation to other text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from sequoia_core.errors import ParameterError
from sequoia_core.events import Origin, Outcome, Step

MEMORY = 192.0
"""Visits of a depth after which an earlier one counts 1/e: noise of about 5% of a_1 = 0.5."""
FOREVER = math.inf
"""Without fading: the steps are one sample."""
PRIOR = 24.0
"""Weight, in trials, of the assumption that a depth is like the one above it."""
RECENT = 32.0
"""Steps over which a change of the rates is looked for."""
SURPRISE = 3.0
"""Standard deviations from the expected number that mean a change."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Hits and trials by rank at one depth, faded.

    Raises:
        ParameterError: there are more hits than trials.
    """

    hits: tuple[float, ...] = ()
    trials: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        fit = len(self.hits) == len(self.trials) and all(
            math.isfinite(tried) and 0.0 <= hit <= tried + 1e-6
            for hit, tried in zip(self.hits, self.trials, strict=False)
        )
        if not fit:
            raise ParameterError("a record of accepted ranks holds more hits than trials")

    def plus(self, tried: int, accepted: int, weight: float, memory: float = MEMORY) -> Tally:
        """With one more node.

        Args:
            tried: its children.
            accepted: rank of the accepted one; 0 if none was.
            weight: how many such nodes it represents.
            memory: visits after which an earlier one counts 1/e.
        """
        fading = math.exp(-weight / memory)
        ranks = range(1, max(tried, len(self.trials)) + 1)
        old = list(zip_longest(ranks, self.hits, self.trials, fillvalue=0.0))
        return Tally(
            tuple(
                hit * fading + weight * (rank == accepted) if rank <= tried else hit
                for rank, hit, _ in old
            ),
            tuple(made * fading + weight if rank <= tried else made for rank, _, made in old),
        )

    def rates(self, above: tuple[float, ...] = ()) -> tuple[float, ...]:
        """a_1, a_2, ... as counted, shrunk to those of the depth above if trials are few."""
        counted = next((at for at, made in enumerate(self.trials) if made <= 0), len(self.trials))
        rates = []
        for at in range(max(len(above), counted)):
            hits, trials = (self.hits[at], self.trials[at]) if at < counted else (0.0, 0.0)
            if at < len(above):
                hits, trials = hits + PRIOR * above[at], trials + PRIOR
            rates.append(hits / trials)
        whole = max(1.0, math.fsum(rates))
        return tuple(min(rate / whole, 1.0) for rate in rates)


@dataclass(frozen=True, slots=True)
class AcceptanceRecord:
    """Tallies by depth of the children, and the steps they come from.

    Attributes:
        depths: of children at depth 1, 2, ...
        steps: decoded steps that were counted, not faded.
        drift: how many more of the latest steps accepted a child than expected.
        variance: of that number, if the rates have not changed.
    """

    depths: tuple[Tally, ...] = ()
    steps: int = 0
    drift: float = 0.0
    variance: float = 0.0

    @property
    def rates(self) -> tuple[float, ...]:
        """a_1, a_2, ... of the root's children; () before anything was counted."""
        return self.depths[0].rates() if self.depths else ()

    @property
    def deeper(self) -> tuple[tuple[float, ...], ...]:
        """Rates of children at depth 2, 3, ... as far as any were counted."""
        above, rates = self.rates, []
        for tally in self.depths[1:]:
            above = tally.rates(above)
            rates.append(above)
        return tuple(rates)

    def plus(self, step: Step, weight: float = 1.0, memory: float = MEMORY) -> AcceptanceRecord:
        """With one more step of a tree whose shape did not depend on the draft.

        Only nodes that decided an emitted token count, since the text after the end of an answer is
        not the target's. Nodes from prompt lookup do not count; they are tried after the draft's
        children.

        Args:
            step: the step.
            weight: how many such steps it represents.
            memory: see `Tally.plus`; `FOREVER` also means that the text does not change.
        """
        ranks: dict[int, dict[int, int]] = {}
        for node, each in enumerate(step.nodes):
            if each.origin is Origin.DRAFT:
                ranks.setdefault(each.parent, {})[each.rank] = node
        depths = list(self.depths)
        for depth, node in enumerate(step.path[: len(step.token_ids)]):
            children = ranks.get(node)
            if children is None:
                continue
            accepted = _accepted_rank(step, children)
            depths += [Tally()] * (depth + 1 - len(depths))
            depths[depth] = depths[depth].plus(len(children), accepted, weight, memory)
        counted = replace(self, depths=tuple(depths), steps=self.steps + (0 in ranks))
        return counted if memory == FOREVER else counted._adjusted(self, ranks.get(0, {}), step)

    def _adjusted(
        self, before: AcceptanceRecord, children: Mapping[int, int], step: Step
    ) -> AcceptanceRecord:
        """Weakened if the latest steps are not as expected, so that the text has changed."""
        expected = math.fsum(before.rates[: len(children)])
        if not expected or self.depths == before.depths:
            return self
        fading = math.exp(-1.0 / RECENT)
        drift = self.drift * fading + (_accepted_rank(step, children) > 0) - expected
        # at least that of a rate of 0.1: rates of 0 and 1 are estimates too
        variance = self.variance * fading + max(expected * (1.0 - expected), 0.09)
        if abs(drift) <= SURPRISE * math.sqrt(variance + 1.0):
            return replace(self, drift=drift, variance=variance)
        return replace(self.weakened(RECENT), steps=self.steps, drift=0.0, variance=0.0)

    def weakened(self, trials: float) -> AcceptanceRecord:
        """The same rates as if from so few trials, so that new counts soon outweigh them."""
        return replace(self, depths=tuple(_capped(tally, trials) for tally in self.depths), steps=0)


def _accepted_rank(step: Step, children: Mapping[int, int]) -> int:
    accepted = (r for r, node in children.items() if step.nodes[node].outcome is Outcome.ACCEPTED)
    return next(accepted, 0)


def _capped(tally: Tally, trials: float) -> Tally:
    shares = [min(1.0, trials / made) if made else 1.0 for made in tally.trials]
    return Tally(
        tuple(share * hit for share, hit in zip(shares, tally.hits, strict=True)),
        tuple(share * made for share, made in zip(shares, tally.trials, strict=True)),
    )
