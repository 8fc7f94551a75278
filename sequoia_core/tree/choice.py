"""Which tree a person asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sequoia_core.config import GROWING_MODES, NON_SEQUOIA_MODES, RANKED_MODES, Lookup, Mode
from sequoia_core.errors import GrowMapError
from sequoia_core.tree.growmap import GrowMap

MOST_NODES = 1024  # nodes of the largest tree that is decoded with; the published trees end at 768
MOST_DEPTH = 64  # levels of it: each is a drafting pass that nothing can cut short
ADAPTIVE = "adaptive"  # name of a tree whose shape is decided each step
DYNAMIC = "dynamic"  # how the name of EAGLE's tree begins
_BOUNDS = re.compile(r"(\d{1,6})x(\d{1,6})x(\d{1,6})", re.ASCII)


@dataclass(frozen=True, slots=True)
class AdaptiveTree:
    """Bounds of a tree whose shape is decided each step, by the draft's probabilities."""

    size: int = 64
    depth: int = 12
    branching: int = 6


@dataclass(frozen=True, slots=True)
class DynamicTree(AdaptiveTree):
    """EAGLE-2's tree (arXiv 2406.16858), with the paper's bounds.

    In each level the draft reads the `branching` nodes whose paths it finds the most probable, and
    each gets as many children; of all nodes the `size` most probable ones stay, the root included.
    Raises GrowMapError if a bound is out of range.
    """

    size: int = 60
    depth: int = 6
    branching: int = 10

    def __post_init__(self) -> None:
        most = (MOST_NODES, MOST_DEPTH, MOST_NODES)
        bounds = zip((self.size, self.depth, self.branching), (2, 1, 1), most, strict=True)
        if not all(low <= value <= high for value, low, high in bounds):
            raise GrowMapError(
                f"{self.name}: give 2 to {MOST_NODES} nodes, depth 1 to {MOST_DEPTH} and 1 to "
                f"{MOST_NODES} children, as in {DynamicTree().name}"
            )

    @property
    def name(self) -> str:
        return f"{DYNAMIC}:{self.size}x{self.depth}x{self.branching}"

    @classmethod
    def named(cls, name: str) -> DynamicTree | None:
        """The tree of a name, as `dynamic:60x6x10`, or `dynamic` for these; None of other names.

        Raises GrowMapError for one that begins so and goes on otherwise.
        """
        kind, colon, bounds = name.partition(":")
        if kind != DYNAMIC:
            return None
        if not colon:
            return cls()
        found = _BOUNDS.fullmatch(bounds)
        if found is None:
            raise GrowMapError(
                f"growmap {name}: give nodes, depth and children of a node, as in {cls().name}"
            )
        return cls(*map(int, found.groups()))


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
    dynamic: DynamicTree | None = None  # EAGLE-2's, in the modes of `RANKED_MODES`

    def __post_init__(self) -> None:
        tree = self.growmap
        if (tree is not None) + bool(self.adaptive) + (self.dynamic is not None) > 1:
            raise GrowMapError("a tree is of a fixed shape, adaptive or dynamic; choose one")
        if self.dynamic is not None and self.mode not in RANKED_MODES:
            raise GrowMapError(
                f"a dynamic tree has the draft's most probable tokens, so its modes are topk and "
                f"greedy (temperature 0), not {self.mode.value}; choose one, or adaptive"
            )
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
CHOSEN = "chosen by you"  # in the reason of a `TreeChosen`
SHOWN = ("shown larger than pays here", "shown to fit the panel")
"""How the reason of a `TreeChosen` begins whose tree was chosen to be looked at."""

Tree = GrowMap | AdaptiveTree
"""What steps are decoded with: the same shape each time, or bounds of one."""
