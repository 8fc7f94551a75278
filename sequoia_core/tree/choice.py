"""Which tree a person asked for."""

from __future__ import annotations

from dataclasses import dataclass

from sequoia_core.config import GROWING_MODES, NON_SEQUOIA_MODES, Lookup, Mode
from sequoia_core.errors import GrowMapError
from sequoia_core.tree.growmap import GrowMap

MOST_NODES = 1024  # nodes of the largest tree that is decoded with; the published trees end at 768
MOST_DEPTH = 64  # levels of it: each is a drafting pass that nothing can cut short


@dataclass(frozen=True, slots=True)
class TreeChoice:
    """Which tree a person asked for; raises GrowMapError for one that a step cannot decode with."""

    mode: Mode = Mode.SEQUOIA
    growmap: GrowMap | None = None  # None leaves the shape to the machine
    # Grown each step by the draft's own probabilities. None does so with models that read a tree in
    # one call, in the modes of `GROWING_MODES`.
    adaptive: bool | None = None
    lookup: Lookup = Lookup.OFF  # appends continuations to trees of these modes
    shown: bool = False  # `growmap` was chosen to be looked at, not to be fast

    def __post_init__(self) -> None:
        tree = self.growmap
        if tree is not None and self.adaptive:
            raise GrowMapError("a tree is either of a fixed shape or adaptive; choose one")
        if self.adaptive and self.mode in NON_SEQUOIA_MODES:
            raise GrowMapError(
                f"adaptive trees are grown for the modes sequoia, traverse, greedy and chain, not "
                f"for {self.mode.value}; name a growmap, or leave it to measured or auto"
            )
        if tree is not None and (tree.size > MOST_NODES or tree.depth > MOST_DEPTH):
            raise GrowMapError(
                f"growmap {tree.name!r} has {tree.size} nodes and depth {tree.depth}; a step can "
                f"speculate with at most {MOST_NODES} nodes and depth {MOST_DEPTH}"
            )


def lookup_for(choice: TreeChoice) -> Lookup:
    """Whether to look up: a chain stays a path, and plain decoding plain."""
    return choice.lookup if choice.mode in GROWING_MODES else Lookup.OFF


ROOT = GrowMap((-1,), name="root")  # the tree of plain decoding: nothing is drafted
ADAPTIVE = "adaptive"  # name of a tree whose shape is decided each step
CHOSEN = "chosen by you"  # in the reason of a `TreeChosen`
SHOWN = ("shown larger than pays here", "shown to fit the panel")
"""How the reason of a `TreeChosen` begins whose tree was chosen to be looked at."""


@dataclass(frozen=True, slots=True)
class AdaptiveTree:
    """Bounds of a tree whose shape is decided each step, by the draft's probabilities."""

    size: int = 64
    depth: int = 12
    branching: int = 6


Tree = GrowMap | AdaptiveTree
"""What steps are decoded with: the same shape each time, or bounds of one."""
