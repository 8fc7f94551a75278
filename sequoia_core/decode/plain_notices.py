"""Says why decoding is plain, or its trees smaller, although more was chosen."""

from collections.abc import Iterator

from sequoia_core.config import Mode
from sequoia_core.events import Notice, NoticeKind, Step, TreeChosen
from sequoia_core.speculate.adaptive_policy import PROBE_STEPS
from sequoia_core.speculate.tree_advisor import TRYING
from sequoia_core.tree.choice import AdaptiveTree, Tree, TreeChoice

IDLE = (
    "plain decoding: what the draft proposes is not worth its time here; "
    f"it is tried again every {PROBE_STEPS} steps"
)


class PlainNotices:
    """Notices that come once for each choice of a person."""

    def __init__(self) -> None:
        self._plain_for: TreeChoice | None = None
        self._idle_for: TreeChoice | None = None
        self._idle_steps = 0

    def of_choice(self, choice: TreeChoice, chosen: TreeChosen) -> Iterator[Notice]:
        """If decoding is plain although another mode was chosen."""
        if chosen.nodes > 1 or choice.mode is Mode.AR:
            if chosen.reason != TRYING:  # a trial is part of decoding plainly
                self._plain_for = None
        elif choice != self._plain_for:
            self._plain_for = choice
            yield Notice(NoticeKind.PLAIN_DECODING, chosen.reason)

    def of_step(self, choice: TreeChoice, tree: Tree, step: Step) -> Iterator[Notice]:
        """If adaptive trees have been empty for long."""
        if step.baseline or not isinstance(tree, AdaptiveTree):
            return
        self._idle_steps = 0 if len(step.nodes) > 1 else self._idle_steps + 1
        if self._idle_steps >= PROBE_STEPS and choice != self._idle_for:
            self._idle_for = choice
            yield Notice(NoticeKind.PLAIN_DECODING, IDLE)


def no_room(tree: Tree) -> Notice:
    what = "the tree" if isinstance(tree, AdaptiveTree) else f"a tree of {tree.size} nodes"
    why = f"{what} no longer fits into the context window; the rest of the answer is decoded"
    return Notice(NoticeKind.PLAIN_DECODING, f"{why} plainly")


def no_memory(smaller: Tree) -> Notice:
    rest = "plainly" if smaller.size == 1 else f"with at most {smaller.size} nodes a tree"
    why = "the memory is too full for the tree; the rest of the answer is decoded"
    return Notice(NoticeKind.MEMORY, f"{why} {rest}")
