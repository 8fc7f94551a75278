"""Which tree the next answer speculates with: a person's choice, or advice from measurements."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sequoia_core.config import NON_SEQUOIA_MODES, Lookup, Mode
from sequoia_core.events import Step, TreeChosen
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.choice import ADAPTIVE, ROOT, AdaptiveTree, Tree, TreeChoice
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap

MEASURED = "measured"
"""Name of the fixed shape that is predicted to be the fastest on this machine."""

TRYING = "trying whether a tree pays by now"
"""Why a tree is decoded with for a few steps while plain decoding is the rule."""

PACKAGED = ("smollm2-135m/greedy-3x1", "smollm2-135m/stochastic-3x1")

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
        deeper: rates of children at depth 2, 3, ..., the last for all below; () is `rates` at
            every depth.
    """

    growmap: GrowMap | None
    rates: tuple[float, ...]
    predicted_speedup: float | None
    reason: str
    deeper: tuple[tuple[float, ...], ...] = ()


class TreeAdvisor(Protocol):
    """Names trees from what it knows of the pair and the machine; a subclass learns nothing yet."""

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        """The best tree, or the best chain, at this temperature and context."""
        ...

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:  # noqa: ARG002
        """Learn from a step whose tree, but for what was looked up, did not depend on the draft.

        Returns:
            what the following steps should be decoded with, or None if nothing changes.
        """
        return None

    def time(self, step: Step, temperature: float) -> None:  # noqa: ARG002
        """Learn from any other step what it took, and nothing else."""
        return

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:  # noqa: ARG002
        """What steps cost here, or None while nothing has been measured."""
        return None


class BundledAdvisor(TreeAdvisor):
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
        self._shapes = {"greedy": greedy, "stochastic": stochastic}
        self._rates = rates or {}

    @classmethod
    def default(cls, rates: Mapping[str, tuple[float, ...]]) -> "BundledAdvisor":
        """The shapes searched for the embedded pair; moderate enough for others."""
        greedy, stochastic = map(find_growmap, PACKAGED)
        return cls(greedy, stochastic, rates)

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:  # noqa: ARG002
        """The packaged shape."""
        kind = "greedy" if temperature == 0.0 else "stochastic"
        shape = GrowMap.chain(DEFAULT_CHAIN) if chain else self._shapes[kind]
        reason = "packaged tree: this machine had not been measured"
        return Advice(shape, self._rates.get(kind, ()), None, reason)


def tree_for(
    choice: TreeChoice, advisor: TreeAdvisor, temperature: float, context_length: int
) -> tuple[Tree, TreeChosen]:
    """The tree to decode with, one node for plain decoding, and the event that says so."""
    if choice.mode is Mode.AR:
        return ROOT, TreeChosen(Mode.AR.value, "", 1, 0, reason="plain decoding was asked for")
    chain = choice.mode is Mode.CHAIN
    if choice.adaptive:
        tree = AdaptiveTree(branching=1) if chain else AdaptiveTree()
        measured = advisor.costs(temperature, context_length) is not None
        times = "times measured here" if measured else "times assumed until they are measured"
        reason = f"grown each step by the draft's own probabilities, at most so large; {times}"
        return tree, TreeChosen(choice.mode.value, ADAPTIVE, tree.size, tree.depth, reason=reason)
    if (growmap := choice.growmap) is not None:
        if chain and growmap.branching > 1:  # the path of first children, as long as it is deep
            growmap = GrowMap.chain(growmap.depth)
        reason = "asked for by name" if growmap.size > 1 else "plain decoding: a tree of one node"
        advice = Advice(growmap, growmap.acceptance_rates, None, reason)
    else:
        advice = advisor.advise(temperature, context_length, chain)
    if choice.mode in NON_SEQUOIA_MODES and temperature > 0.0:  # rates are of other children
        advice = replace(advice, rates=(), deeper=(), predicted_speedup=None)
    return as_chosen(choice.mode, advice)


def as_chosen(mode: Mode, advice: Advice) -> tuple[GrowMap, TreeChosen]:
    """Advice as the growmap to decode with and the event that says so."""
    growmap = advice.growmap or ROOT
    speedup, reason = advice.predicted_speedup, advice.reason
    if growmap.size == 1:
        return ROOT, TreeChosen(mode.value, "", 1, 0, predicted_speedup=speedup, reason=reason)
    rates, deeper = advice.rates, advice.deeper
    return growmap, TreeChosen(
        mode=mode.value,
        growmap=growmap.name,
        nodes=growmap.size,
        depth=growmap.depth,
        expected_tokens=growmap.expected_tokens(rates, deeper) if rates else None,
        expected_by_depth=growmap.expected_by_depth(rates, deeper) if rates else (),
        expected_by_rank=rates[: growmap.branching],
        predicted_speedup=speedup,
        reason=reason,
    )


def smaller(tree: Tree) -> Tree:
    """A tree of half the nodes, the upper ones; of fewer than four only the root."""
    size = tree.size // 2
    if size < 2:
        return ROOT
    if isinstance(tree, AdaptiveTree):
        return replace(tree, size=size)
    return GrowMap(tree.parents[:size], f"{tree.name}, first {size}")


def lookup_for(choice: TreeChoice) -> Lookup:
    """Whether to look up: a chain stays a path, and plain decoding plain."""
    return choice.lookup if choice.mode in (Mode.SEQUOIA, Mode.GREEDY) else Lookup.OFF
