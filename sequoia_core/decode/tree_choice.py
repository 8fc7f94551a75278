"""Which tree the next answer speculates with: a person's choice, or advice from measurements."""

from dataclasses import replace

from sequoia_core.config import NON_SEQUOIA_MODES, Lookup, Mode
from sequoia_core.events import TreeChosen
from sequoia_core.speculate.tree_advisor import Advice, TreeAdvisor
from sequoia_core.tree.choice import ADAPTIVE, ROOT, AdaptiveTree, Tree, TreeChoice
from sequoia_core.tree.growmap import GrowMap


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
