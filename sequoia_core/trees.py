"""Which tree the next answer speculates with: a person's choice, or advice from measurements.

Owns the decision; measuring is `sequoia_core.measure`'s affair. Knows nothing of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sequoia_core.config import Mode
from sequoia_core.events import TreeChosen
from sequoia_core.growmap import GrowMap, find_growmap
from sequoia_core.protocols import TreeChoice

ROOT = GrowMap((-1,), name="root")
"""The tree of plain decoding: nothing is drafted."""

DEFAULT_CHAIN = 3
"""Drafted tokens of a chain when no growmap is named."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What decodes best here, as far as is known.

    Attributes:
        growmap: the tree, or None where plain decoding is predicted to be at least as fast.
        rates: the acceptance rates behind the prediction, () if none are known.
        predicted_speedup: over plain decoding, or None when forward times were not measured.
        reason: one line on where this comes from.
    """

    growmap: GrowMap | None
    rates: tuple[float, ...]
    predicted_speedup: float | None
    reason: str


class TreeAdvisor(Protocol):
    """Knows the pair and the machine well enough to name a tree."""

    def advise(self, greedy: bool, context_length: int, chain: bool) -> Advice:
        """The best tree, or the best chain, for greedy or sampled decoding at this context."""
        ...


class BundledAdvisor:
    """Serves packaged shapes until the machine has been measured.

    Args:
        greedy: shape for temperature 0.
        stochastic: shape for sampling.
        rates: acceptance rates that the draft's own files state, by `greedy` and `stochastic`;
            without them nothing is expected of a pair that was never measured.
    """

    def __init__(
        self,
        greedy: GrowMap,
        stochastic: GrowMap,
        rates: Mapping[str, tuple[float, ...]] | None = None,
    ) -> None:
        self._greedy, self._stochastic = greedy, stochastic
        self._rates = rates or {}

    @classmethod
    def default(cls, rates: Mapping[str, tuple[float, ...]]) -> "BundledAdvisor":
        """The shapes searched for the embedded pair; moderate enough for others."""
        return cls(
            find_growmap("smollm2-135m/greedy-6x2"),
            find_growmap("smollm2-135m/stochastic-6x2"),
            rates,
        )

    def advise(self, greedy: bool, context_length: int, chain: bool) -> Advice:  # noqa: ARG002
        """The packaged shape; the context makes no difference to it."""
        tree = self._greedy if greedy else self._stochastic
        shape = GrowMap.chain(DEFAULT_CHAIN) if chain else tree
        reason = "packaged tree; this machine has not been measured yet"
        rates = self._rates.get("greedy" if greedy else "stochastic", ())
        return Advice(shape, rates, None, reason)


def tree_for(
    choice: TreeChoice, advisor: TreeAdvisor, greedy: bool, context_length: int
) -> tuple[GrowMap, TreeChosen]:
    """The growmap to decode with, one node for plain decoding, and the event that says so."""
    if choice.mode is Mode.AR:
        return ROOT, TreeChosen(Mode.AR.value, "", 1, 0, reason="plain decoding was asked for")
    chain = choice.mode is Mode.CHAIN
    if choice.growmap is not None:
        growmap = _as_chain(choice.growmap) if chain else choice.growmap
        reason = "asked for by name" if growmap.size > 1 else "plain decoding: a tree of one node"
        advice = Advice(growmap, growmap.acceptance_rates, None, reason)
    else:
        advice = advisor.advise(greedy, context_length, chain)
    growmap = advice.growmap or ROOT
    if growmap.size == 1:
        return ROOT, TreeChosen(
            choice.mode.value, "", 1, 0,
            predicted_speedup=advice.predicted_speedup, reason=advice.reason,
        )  # fmt: skip
    rates = advice.rates
    return growmap, TreeChosen(
        mode=choice.mode.value,
        growmap=growmap.name,
        nodes=growmap.size,
        depth=growmap.depth,
        expected_tokens=growmap.expected_tokens(rates) if rates else None,
        expected_by_depth=growmap.expected_by_depth(rates) if rates else (),
        expected_by_rank=rates[: growmap.branching],
        predicted_speedup=advice.predicted_speedup,
        reason=advice.reason,
    )


def _as_chain(growmap: GrowMap) -> GrowMap:
    """The path of first children, as long as the tree is deep."""
    return growmap if growmap.branching <= 1 else GrowMap.chain(growmap.depth)
