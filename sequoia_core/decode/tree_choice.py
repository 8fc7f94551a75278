"""Which tree the next answer speculates with, by choice or by advice, and what is said of it."""

from collections.abc import Iterator
from dataclasses import replace

from sequoia_core.config import OTHER_RATES, Lookup, Mode
from sequoia_core.events import Notice, NoticeKind, Step, TreeChosen
from sequoia_core.model.graphs import Graphs
from sequoia_core.speculate.adaptive_policy import IDLE_STEPS
from sequoia_core.speculate.tree_advisor import TRYING, Advice, TreeAdvisor
from sequoia_core.tree.choice import (
    ADAPTIVE,
    CHOSEN,
    ROOT,
    SHOWN,
    AdaptiveTree,
    Tree,
    TreeChoice,
    lookup_for,
)
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
        return _as_chosen(choice, Advice(None, (), None, f"plain decoding, {CHOSEN}"))
    if not drafts:
        lookup, reason = lookup_for(choice), "plain decoding: this target has no draft"
        if lookup is not Lookup.OFF:
            reason = "this target has no draft: prompt lookup alone guesses tokens"
        return ROOT, TreeChosen(Mode.AR.value, "", 1, 0, reason=reason, lookup=lookup.value)
    if (dynamic := choice.dynamic) is not None:
        name, reason = dynamic.name, "the draft's most probable paths, anew at each step"
        bounds, looks_up = (dynamic.size, dynamic.depth), lookup_for(choice).value
        mode = choice.mode.value
        return dynamic, TreeChosen(mode, name, *bounds, reason=reason, lookup=looks_up)
    chain = choice.mode is Mode.CHAIN
    if choice.adaptive:
        measured = advisor.costs(temperature, context_length) is not None
        times = "fitted to this machine" if measured else "not fitted to this machine yet"
        tree = AdaptiveTree(branching=1) if chain else AdaptiveTree()
        return tree, TreeChosen(
            mode=choice.mode.value,
            growmap=ADAPTIVE,
            nodes=tree.size,
            depth=tree.depth,
            reason=f"a new shape at each step, by the draft's probabilities; {times}",
            lookup=lookup_for(choice).value,
        )
    if (growmap := choice.growmap) is not None:
        if chain and growmap.branching > 1:  # the path of first children, as long as it is deep
            growmap = GrowMap.chain(growmap.depth)
        reason = CHOSEN if growmap.size > 1 else "plain decoding: the chosen tree has one node"
        advice = Advice(growmap, growmap.acceptance_rates, None, reason, growmap.deeper_rates)
        if choice.shown:
            advice = _as_shown(growmap, advisor.advise(temperature, context_length, chain))
    else:
        advice = advisor.advise(temperature, context_length, chain)
    if choice.mode in OTHER_RATES and temperature > 0.0:  # what is known is of `sequoia`
        advice = replace(advice, rates=(), deeper=(), predicted_speedup=None)
    return _as_chosen(choice, advice)


def _as_shown(growmap: GrowMap, advice: Advice) -> Advice:
    """Advice to decode with another growmap, to be looked at; it says whether that is too large."""
    paying = advice.growmap.size if advice.growmap is not None else 1
    larger, fitting = SHOWN
    what = larger if growmap.size > paying else fitting
    return replace(advice, growmap=growmap, predicted_speedup=None, reason=f"{what}, to look at it")


def _as_chosen(choice: TreeChoice, advice: Advice) -> tuple[GrowMap, TreeChosen]:
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


def tree_after(
    step: Step, choice: TreeChoice, advisor: TreeAdvisor, temperature: float, drafts: bool
) -> tuple[GrowMap, TreeChosen] | None:
    """Hand a step to the advisor; where the tree is left to the machine, it may name another."""
    if choice.mode is Mode.AR:
        return None
    other = choice.mode in OTHER_RATES and temperature > 0.0
    grown = choice.adaptive or choice.dynamic is not None
    if other or (grown and drafts):  # their children are accepted at other rates
        advisor.time(step, temperature)
        return None
    advice = advisor.observe(step, temperature, choice.mode is Mode.CHAIN)
    if advice is None or not drafts or choice.growmap is not None:
        return None
    return _as_chosen(choice, advice)


def smaller(tree: Tree) -> Tree:
    """A tree of half the nodes, the upper ones; of fewer than four only the root."""
    size = tree.size // 2
    if size < 2:
        return ROOT
    if isinstance(tree, AdaptiveTree):
        return replace(tree, size=size)
    return GrowMap(tree.parents[:size], f"{tree.name}, first {size}")


class PlainNotices:
    """Why decoding is plain, its trees smaller, or less of it recorded, although more was chosen.

    Of choices and steps there is one for each choice of a person.
    """

    def __init__(self, graphs: Graphs | None = None) -> None:
        self._graphs = graphs
        self._said = len(graphs.notices) if graphs else 0
        self._plain_for: TreeChoice | None = None
        self._idle_for: TreeChoice | None = None
        self._idle_steps = 0

    def of_choice(self, choice: TreeChoice, chosen: TreeChosen) -> Iterator[Notice]:
        if chosen.nodes > 1 or choice.mode is Mode.AR:
            if chosen.reason != TRYING:  # a trial is part of decoding plainly
                self._plain_for = None
        elif choice != self._plain_for:
            self._plain_for = choice
            yield Notice(NoticeKind.PLAIN_DECODING, chosen.reason)

    def of_step(self, choice: TreeChoice, tree: Tree, step: Step) -> Iterator[Notice]:
        """Where adaptive trees have been empty for long."""
        if step.baseline or not isinstance(tree, AdaptiveTree):
            return
        self._idle_steps = 0 if len(step.nodes) > 1 else self._idle_steps + 1
        if self._idle_steps >= IDLE_STEPS and choice != self._idle_for:
            self._idle_for = choice
            text = (
                "Trees are off: the draft's guesses are not worth their time here; they are tried"
            )
            yield Notice(NoticeKind.PLAIN_DECODING, f"{text} again every {IDLE_STEPS} steps")

    def of_graphs(self) -> Iterator[Notice]:
        """What has been recorded less since the last call."""
        if self._graphs is not None:
            new, self._said = self._graphs.notices[self._said :], len(self._graphs.notices)
            yield from (Notice(NoticeKind.GRAPHS, text) for text in new)

    @staticmethod
    def no_room(tree: Tree) -> Notice:
        what = "the tree" if isinstance(tree, AdaptiveTree) else f"a tree of {tree.size} nodes"
        why = f"{what} no longer fits into the context window; the rest of the answer is decoded"
        return Notice(NoticeKind.PLAIN_DECODING, f"{why} plainly")

    @staticmethod
    def no_memory(tree: Tree) -> Notice:
        rest = "plainly" if tree.size == 1 else f"with at most {tree.size} nodes a tree"
        why = "the memory is too full for the tree; the rest of the answer is decoded"
        return Notice(NoticeKind.MEMORY, f"{why} {rest}")
