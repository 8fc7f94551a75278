"""The shape of a speculated token tree, as an immutable value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, groupby
from typing import TYPE_CHECKING

from sequoia_core.errors import GrowMapError

if TYPE_CHECKING:
    from torch import Tensor

MAX_NODES = 65_536
_MAX_LABEL = 500
_LONG_RUN = 5


@dataclass(frozen=True)  # without slots, for the cached properties
class GrowMap:
    """A tree shape. Nodes are renumbered breadth first, siblings side by side in rank order.

    `parents` has -1 for the root, which is node 0. `acceptance_rates` are the positional rates a_1,
    a_2, ... it was searched for; `deeper_rates` those at depth 2, 3, ..., the last for all below,
    where they differ. `source` says in a line where its numbers come from. Raises GrowMapError if
    the parents are no tree, or a rate or label is invalid.
    """

    parents: tuple[int, ...]
    name: str = "custom"
    acceptance_rates: tuple[float, ...] = ()
    source: str = ""
    deeper_rates: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        for label in ("name", "source"):
            text = getattr(self, label)
            if len(text) > _MAX_LABEL or not text.isprintable():
                raise GrowMapError(
                    f"{label} must be one printable line of at most {_MAX_LABEL} characters"
                )
        rates, *deeper = (
            tuple(map(float, each)) for each in (self.acceptance_rates, *self.deeper_rates)
        )
        for rate in chain(rates, *deeper):
            if not 0 <= rate <= 1:
                raise GrowMapError(f"acceptance rate {rate} is not a probability")
        if deeper and not rates:
            raise GrowMapError("it has acceptance rates at depth 2 and none at depth 1")
        root, children = _children_of(self.parents)
        parents = [-1]
        for place, node in enumerate(breadth_first_order(root, children)):
            parents += [place] * len(children[node])
        self.__dict__["parents"] = tuple(parents)
        self.__dict__.update(acceptance_rates=rates, deeper_rates=tuple(deeper))

    @classmethod
    def chain(cls, length: int) -> "GrowMap":
        """A path that drafts `length` tokens: `length + 1` nodes, the root is not drafted."""
        return cls.k_ary([1] * length, name=f"chain-{length}")

    @classmethod
    def k_ary(cls, branches: Sequence[int], name: str | None = None) -> "GrowMap":
        """Every node of level i has `branches[i]` children; the level after the last has none."""
        parents, level = [-1], range(1)
        for width in branches:
            start = len(parents)
            if width < 0:
                raise GrowMapError(f"{width} children of a node; there are 0 or more")
            if start + len(level) * width > MAX_NODES:
                raise GrowMapError(f"more than {MAX_NODES:,} nodes")
            parents += [node for node in level for _ in range(width)]
            level = range(start, len(parents))
        return cls(tuple(parents), name=name or "x".join(map(str, branches)) or "root")

    @staticmethod
    @lru_cache(maxsize=256)  # the shapes of adaptive trees come again and again
    def numbered(parents: tuple[int, ...], name: str) -> "GrowMap":
        """A shape of a step, whose nodes are in this order already; nothing is checked."""
        growmap = object.__new__(GrowMap)
        growmap.__dict__.update(
            parents=parents, name=name, acceptance_rates=(), source="", deeper_rates=()
        )
        return growmap

    @cached_property
    def size(self) -> int:
        """`T`."""
        return len(self.parents)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Of each node, first rank first."""
        children: list[list[int]] = [[] for _ in self.parents]
        for node in range(1, len(self.parents)):
            children[self.parents[node]].append(node)
        return tuple(map(tuple, children))

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """1 for a first child, 2 for a second, ...; 0 for the root."""
        ranks = [0]
        for row in self.children:  # siblings lie side by side, those of earlier parents first
            ranks += range(1, len(row) + 1)
        return tuple(ranks)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Edges from the root, per node."""
        depths = [0]
        for parent in self.parents[1:]:
            depths.append(depths[parent] + 1)
        return tuple(depths)

    @cached_property
    def depth(self) -> int:
        """Edges on the longest path."""
        return self.depths[-1]

    @cached_property
    def branching(self) -> int:
        return max(map(len, self.children))

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        runs = groupby(range(self.size), key=self.depths.__getitem__)
        return tuple(tuple(nodes) for _, nodes in runs)

    @cached_property
    def passes(self) -> tuple[int, ...]:
        """Rows that each drafting pass reads: every level but the last, leaves left out."""
        children = self.children
        return tuple(sum(1 for node in level if children[node]) for level in self.levels[:-1])

    def ancestor_mask(self) -> "Tensor":
        """Bool [T, T] on the CPU, True where the column is the row or an ancestor of it."""
        import numpy as np
        import torch

        mask = np.eye(self.size, dtype=np.bool_)  # rows of numpy: adaptive shapes are new each step
        for node, parent in enumerate(self.parents[1:], start=1):
            mask[node] |= mask[parent]
        return torch.from_numpy(mask)

    def paths(self) -> list[tuple[int, ...]]:
        """The nodes from the root to each node, itself the last."""
        paths: list[tuple[int, ...]] = [(0,)]
        for node, parent in enumerate(self.parents[1:], start=1):
            paths.append((*paths[parent], node))
        return paths

    def node_probs(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> list[float]:
        """Probability that each node is accepted; a rank past the end of `rates` never is.

        `deeper` are the rates at depth 2, 3, ..., the last for all below; () is `rates` at every
        depth.
        """
        by_depth = (rates, *deeper)
        probs = [1.0]
        for node in range(1, self.size):
            parent, rank = self.parents[node], self.ranks[node]
            here = by_depth[min(self.depths[node], len(by_depth)) - 1]
            probs.append(probs[parent] * (here[rank - 1] if rank <= len(here) else 0.0))
        return probs

    def expected_tokens(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> float:
        """Expected tokens of one step, the bonus token included (Sequoia, section 3.1)."""
        return math.fsum(self.node_probs(rates, deeper))

    def expected_by_depth(
        self, rates: Sequence[float], deeper: Sequence[Sequence[float]] = ()
    ) -> tuple[float, ...]:
        """Probability that a step accepts at least d drafted tokens, for d = 1 to `depth`."""
        probs = self.node_probs(rates, deeper)
        return tuple(math.fsum(probs[node] for node in level) for level in self.levels[1:])

    def widths(self) -> str:
        """Nodes per level as a line of text; a long run of equal levels as, say, `8 (x16)`."""
        parts: list[str] = []
        for width, run in groupby(map(len, self.levels)):
            count = len(list(run))
            parts += [f"{width} (x{count})"] if count >= _LONG_RUN else [str(width)] * count
        return " ".join(parts)


def _children_of(parents: Sequence[int]) -> tuple[int, list[list[int]]]:
    """The root, and each node's children in the order they are listed; GrowMapError if no tree."""
    if len(parents) == 0:  # also of an array
        raise GrowMapError("empty; a tree has at least a root")
    if len(parents) > MAX_NODES:
        raise GrowMapError(f"more than {MAX_NODES:,} nodes")
    roots: list[int] = []
    children: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent == -1:
            roots.append(node)
        elif 0 <= parent < len(parents):
            children[parent].append(node)
        else:
            raise GrowMapError(f"the parent of node {node} is outside 0 to {len(parents) - 1}")
    if len(roots) != 1:
        raise GrowMapError(f"{len(roots)} roots (parent -1); a tree has one")
    return roots[0], children


def breadth_first_order(root: int, children: Sequence[Sequence[int]]) -> list[int]:
    """The nodes level by level; raises GrowMapError where some do not hang below the root."""
    order = [root]
    for node in order:
        order.extend(children[node])
    if len(order) != len(children):
        missing = len(children) - len(order)
        raise GrowMapError(f"{missing} nodes do not hang below the root (there is a cycle)")
    return order
