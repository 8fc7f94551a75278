"""Which tree the next answer speculates with: a person's choice, or advice from measurements."""

from dataclasses import replace

from sequoia_core.config import NON_SEQUOIA_MODES, Lookup, Mode
from sequoia_core.events import Step, TreeChosen
from sequoia_core.speculate.tree_advisor import Advice, TreeAdvisor
from sequoia_core.tree.choice import ADAPTIVE, ROOT, AdaptiveTree, Tree, TreeChoice
from sequoia_core.tree.growmap import GrowMap


def tree_for(
    choice: TreeChoice,
    advisor: TreeAdvisor,
    temperature: float,
    context_length: int,
    drafts: bool = True,
) -> tuple[Tree, TreeChosen]:
    """The tree to decode with, one node for plain decoding, and the event that says so."""
    if choice.mode is Mode.AR:
        return as_chosen(choice, Advice(None, (), None, "plain decoding was asked for"))
    if not drafts:
        reason, lookup = "plain decoding: this target has no draft", lookup_for(choice).value
        return ROOT, TreeChosen(Mode.AR.value, "", 1, 0, reason=reason, lookup=lookup)
    chain = choice.mode is Mode.CHAIN
    if choice.adaptive:
        measured = advisor.costs(temperature, context_length) is not None
        times = "times measured here" if measured else "times assumed until they are measured"
        tree = AdaptiveTree(branching=1) if chain else AdaptiveTree()
        return tree, TreeChosen(
            mode=choice.mode.value,
            growmap=ADAPTIVE,
            nodes=tree.size,
            depth=tree.depth,
            reason=f"grown each step by the draft's own probabilities, at most so large; {times}",
            lookup=lookup_for(choice).value,
        )
    if (growmap := choice.growmap) is not None:
        if chain and growmap.branching > 1:  # the path of first children, as long as it is deep
            growmap = GrowMap.chain(growmap.depth)
        reason = "asked for by name" if growmap.size > 1 else "plain decoding: a tree of one node"
        advice = Advice(growmap, growmap.acceptance_rates, None, reason)
    else:
        advice = advisor.advise(temperature, context_length, chain)
    if choice.mode in NON_SEQUOIA_MODES and temperature > 0.0:  # rates are of other children
        advice = replace(advice, rates=(), deeper=(), predicted_speedup=None)
    return as_chosen(choice, advice)


def as_chosen(choice: TreeChoice, advice: Advice) -> tuple[GrowMap, TreeChosen]:
    """Advice as the growmap to decode with and the event that says so."""
    growmap, rates, deeper = advice.growmap or ROOT, advice.rates, advice.deeper
    drafts = growmap.size > 1
    expects = drafts and bool(rates)
    return growmap if drafts else ROOT, TreeChosen(
        mode=choice.mode.value,
        growmap=growmap.name if drafts else "",
        nodes=growmap.size,
        depth=growmap.depth,
        expected_tokens=growmap.expected_tokens(rates, deeper) if expects else None,
        expected_by_depth=growmap.expected_by_depth(rates, deeper) if expects else (),
        expected_by_rank=rates[: growmap.branching],
        predicted_speedup=advice.predicted_speedup,
        reason=advice.reason,
        lookup=lookup_for(choice).value,
    )


def advice_from(
    step: Step, choice: TreeChoice, advisor: TreeAdvisor, temperature: float, drafts: bool
) -> Advice | None:
    """Hand a step to the advisor; its advice counts where the tree is left to the machine."""
    if choice.mode is Mode.AR:
        return None
    other = choice.mode in NON_SEQUOIA_MODES and temperature > 0.0
    if other or (choice.adaptive and drafts):  # their children are accepted at other rates
        advisor.time(step, temperature)
        return None
    advice = advisor.observe(step, temperature, choice.mode is Mode.CHAIN)
    return advice if drafts and choice.growmap is None else None


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
