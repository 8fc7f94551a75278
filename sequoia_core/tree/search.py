"""The best tree for positional acceptance rates (Sequoia, 3.1), and the one that pays (3.3)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sequoia_core.errors import ParameterError
from sequoia_core.tree.growmap import GrowMap

MAX_SEARCH_NODES = 4096
_MAX_SEARCH_DEPTH = 256


@dataclass(frozen=True, slots=True, eq=False)
class TreeTable:
    """Expected tokens of the best tree for every budget of nodes and depth.

    `values` is float64 [N + 1, D + 1]; entry [n, d] is for at most n nodes and d edges. Row 0 is 0.
    """

    rates: tuple[tuple[float, ...], ...]  # at depth 1, 2, ..., the last for all below
    values: NDArray[np.float64]
    # Per depth of the parent, the last for all below, [D + 1, B, N]: nodes for child k and below,
    # of m left to children k, k + 1, ...; 0 ends.
    _splits: tuple[NDArray[np.int32], ...] = field(repr=False)

    @property
    def limits(self) -> tuple[int, int]:
        """Most nodes and depth."""
        return self.values.shape[0] - 1, self.values.shape[1] - 1

    def tree(self, nodes: int, depth: int, name: str | None = None, source: str = "") -> GrowMap:
        """A tree that reaches `values[nodes, depth]`; smaller where more nodes would add nothing.

        `name` None is made of its size and depth. Raises ParameterError outside the table.
        """
        max_nodes, max_depth = self.limits
        if not (1 <= nodes <= max_nodes and 0 <= depth <= max_depth):
            raise ParameterError(
                f"{nodes} nodes, depth {depth}: the table holds 1 to {max_nodes} nodes and depth 0 "
                f"to {max_depth}"
            )
        parents, budgets = [-1], [(nodes, depth)]
        for node, (budget, depth_left) in enumerate(budgets):  # which grows, level by level
            splits = self._splits[min(depth - depth_left, len(self._splits) - 1)][depth_left]
            for share in _shares(splits, budget - 1) if depth_left else ():
                parents.append(node)
                budgets.append((share, depth_left - 1))
        label = name or f"searched-{len(parents)}x{depth - budgets[-1][1]}"
        rates, *deeper = self.rates
        return GrowMap(tuple(parents), label, rates, source, tuple(deeper))


def _shares(splits: NDArray[np.int32], left: int) -> list[int]:
    """Nodes given to the first child and below, to the second, ..."""
    shares: list[int] = []
    while left and len(shares) < len(splits):
        share = int(splits[len(shares), left])
        if not share:
            break
        shares.append(share)
        left -= share
    return shares


class TreesByBudget(Protocol):
    """The best tree for every budget of nodes and depth; see `TreeTable`."""

    @property
    def values(self) -> NDArray[np.float64]: ...

    @property
    def limits(self) -> tuple[int, int]: ...

    def tree(self, nodes: int, depth: int) -> GrowMap: ...


@dataclass(frozen=True, slots=True, eq=False)
class LikeliestTrees:
    """Trees of the nodes most likely to be accepted, for budgets that a table is too slow for.

    They are the best ones where no rate is above that of a lower rank: then the likeliest nodes of
    any number are a tree. Rates that rise, as measured ones do by chance, are evened out for it.
    """

    rates: tuple[tuple[float, ...], ...]  # as of `TreeTable`
    values: NDArray[np.float64]  # the same
    _parents: tuple[tuple[int, ...], ...] = field(repr=False)
    """By depth, of each node in falling order of likelihood."""

    @classmethod
    def of(
        cls,
        rates: Sequence[float],
        max_nodes: int,
        max_depth: int,
        max_branches: int,
        deeper: Sequence[Sequence[float]] = (),
    ) -> "LikeliestTrees":
        """As `expected_tokens_table`, in time that grows with nodes x depth."""
        stated = tuple(_checked(each)[:max_branches] for each in (rates, *deeper))
        by_depth = list(map(_falling, stated))
        found = [_likeliest(by_depth, max_nodes, depth) for depth in range(max_depth + 1)]
        values = np.zeros((max_nodes + 1, max_depth + 1))
        for depth, (_, probs) in enumerate(found):
            values[1 : len(probs) + 1, depth] = np.cumsum(probs)
            values[len(probs) + 1 :, depth] = values[len(probs), depth]
        return cls(stated, values, tuple(tuple(parents) for parents, _ in found))

    @property
    def limits(self) -> tuple[int, int]:
        return self.values.shape[0] - 1, self.values.shape[1] - 1

    def tree(self, nodes: int, depth: int) -> GrowMap:
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self._parents[depth][:nodes]):
            children.setdefault(parent, []).append(node)
        order, parents = children[-1], [-1]
        for number, node in enumerate(order):  # which grows, level by level
            below = children.get(node, [])
            order.extend(below)
            parents += [number] * len(below)
        rates, *deeper = self.rates
        found = GrowMap(tuple(parents), "searched", rates, deeper_rates=tuple(deeper))
        return replace(found, name=f"searched-{found.size}x{found.depth}")


def _falling(rates: Sequence[float]) -> tuple[float, ...]:
    """Rates in the place of which a lower rank has at least as much, and of the same sum."""
    pools: list[tuple[float, int]] = []
    for rate in rates:
        total, count = rate, 1
        while pools and pools[-1][0] * count < total * pools[-1][1]:
            before = pools.pop()
            total, count = total + before[0], count + before[1]
        pools.append((total, count))
    return tuple(total / count for total, count in pools for _ in range(count))


def _likeliest(
    by_depth: Sequence[Sequence[float]], most: int, max_depth: int
) -> tuple[list[int], list[float]]:
    """Parents of the likeliest nodes, the root first, and their probabilities."""
    parents, depths, probs = list[int](), list[int](), list[float]()
    waiting = [(-1.0, 0, -1, 0)]  # less likely ones later: -probability, depth, parent, rank
    while waiting and len(parents) < most:
        negative, depth, parent, rank = heappop(waiting)
        parents.append(parent)
        depths.append(depth)
        probs.append(-negative)
        following = [(len(parents) - 1, 0)] if depth < max_depth else []
        if parent >= 0:
            following.append((parent, rank + 1))
        for above, at in following:
            rates = by_depth[min(depths[above], len(by_depth) - 1)]
            if at < len(rates) and (prob := probs[above] * rates[at]) > 0.0:
                heappush(waiting, (-prob, depths[above] + 1, above, at))
    return parents, probs


@dataclass(frozen=True, slots=True)
class TreePlan:
    """The best tree, also when it loses, and what is predicted of it."""

    tree: GrowMap
    predicted_speedup: float
    expected_tokens: float
    step_ms: float

    @property
    def growmap(self) -> GrowMap | None:
        """The shape to speculate with; None when plain decoding is predicted to win."""
        return self.tree if self.predicted_speedup > 1.0 else None


def expected_tokens_table(
    rates: Sequence[float],
    max_nodes: int,
    max_depth: int,
    max_branches: int,
    deeper: Sequence[Sequence[float]] = (),
) -> TreeTable:
    """Exact dynamic programme over nodes and depth; time grows with nodes^2 x depth x branches.

    With `F[n, d]` the best expected tokens and `C_k[m]` the best value of the children k, k + 1,
    ... of a node when m nodes are left for them:
    `C_k[m] = max(0, max_j a_k F[j, d - 1] + C_(k+1)[m - j])` and `F[n, d] = 1 + C_1[n - 1]`.
    A child of rank k needs those of rank 1 to k - 1, so noisy, rising rates are handled exactly.
    Where rates differ by depth, so does `F`, by the depth of the subtree's root: one more table for
    each entry of `deeper`, the rates at depth 2, 3, ..., the last for all below. Raises
    ParameterError if a rate or a budget is outside its range.
    """
    if not 1 <= max_nodes <= MAX_SEARCH_NODES:
        raise ParameterError(f"max_nodes is {max_nodes}; give 1 to {MAX_SEARCH_NODES}")
    if not 0 <= max_depth <= _MAX_SEARCH_DEPTH:
        raise ParameterError(f"max_depth is {max_depth}; give 0 to {_MAX_SEARCH_DEPTH}")
    if max_branches < 1:
        raise ParameterError(f"max_branches is {max_branches}; give at least 1")
    by_depth = [_checked(each)[: min(max_branches, max_nodes)] for each in (rates, *deeper)]
    all_splits: list[NDArray[np.int32]] = []
    below: NDArray[np.float64] | None = None
    for used in reversed(by_depth):
        values, splits = _tables(used, below, (max_nodes, max_depth))
        all_splits.insert(0, splits)
        below = values
    return TreeTable(tuple(by_depth), values, tuple(all_splits))


def _tables(
    rates: tuple[float, ...], below: NDArray[np.float64] | None, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Values and splits of subtrees whose root's children have these rates.

    `below` are the values of those children's subtrees; None where they are alike.
    """
    max_nodes, max_depth = shape
    values = np.ones((max_nodes + 1, max_depth + 1))
    values[0] = 0.0
    splits = np.zeros((max_depth + 1, len(rates), max_nodes), dtype=np.int32)
    children = values if below is None else below
    for depth in range(1, max_depth + 1):
        best = _children_values(rates, children[:max_nodes, depth - 1], splits[depth])
        values[1:, depth] = 1.0 + best
    return values, splits


def _checked(rates: Sequence[float]) -> tuple[float, ...]:
    for rate in rates:
        if not 0.0 <= rate <= 1.0:
            raise ParameterError(f"acceptance rate {rate} is not a probability")
    return tuple(float(rate) for rate in rates)


def _children_values(
    rates: tuple[float, ...], below: NDArray[np.float64], splits: NDArray[np.int32]
) -> NDArray[np.float64]:
    """`C_1` from the best values one level below, both over 0 to N - 1 nodes; fills `splits`."""
    size = len(below)
    rows = np.arange(size)
    # Reading this buffer through a window gives row m the values C[m], C[m - 1], ..., C[0], -inf.
    reversed_tail = np.full(2 * size - 1, -math.inf)
    tail = np.zeros(size)
    for rank in reversed(range(len(rates))):
        reversed_tail[:size] = tail[::-1]
        shifted = sliding_window_view(reversed_tail, size)[::-1]  # [N, N]: [m, j] = C[m - j]
        candidates = rates[rank] * below + shifted
        candidates[:, 0] = 0.0  # no child of this rank, hence none after it
        splits[rank] = candidates.argmax(axis=1)
        tail = candidates[rows, splits[rank]]
    return tail


def choose_tree(
    table: TreesByBudget,
    target_ms: Callable[[int], float],
    draft_ms: Callable[[int], float],
    plain_ms: float,
    overhead_ms: float = 0.0,
    sizes: Iterable[int] | None = None,
) -> TreePlan:
    """The tree that maximises expected tokens x plain_ms / step time, or plain decoding.

    `target_ms` and `draft_ms` are of a forward and of a drafting pass of n rows; `sizes` None
    considers every size of the table. Raises ParameterError if there is none, or a time is not
    positive.
    """
    max_nodes, max_depth = table.limits
    wanted = range(2, max_nodes + 1) if sizes is None else sorted(set(sizes))
    times = {nodes: target_ms(nodes) for nodes in wanted if 2 <= nodes <= max_nodes}
    if not times or not max_depth:
        raise ParameterError("no tree to choose from: give sizes from 2 nodes on and depth from 1")
    if not all(math.isfinite(ms) and ms > 0 for ms in (plain_ms, *times.values())):
        raise ParameterError("a measured time is not a positive number of milliseconds")
    # Speed-up if every level were the cheapest to draft: in this order the search may stop at the
    # first tree that could not win even then, long before it has drawn every shape. One less deep
    # than its budget is met again at the lower budget.
    cheapest = min(map(draft_ms, range(1, max_nodes + 1)))
    bounds = []
    for nodes, ms in times.items():
        for depth in range(1, max_depth + 1):
            fastest_ms = ms + overhead_ms + depth * cheapest
            bounds.append((float(table.values[nodes, depth]) * plain_ms / fastest_ms, nodes, depth))
    bounds.sort(key=lambda bound: (-bound[0], bound[1], bound[2]))
    best: TreePlan | None = None
    for bound, nodes, depth in bounds:
        if best is not None and bound <= best.predicted_speedup:
            break
        tree, tokens = table.tree(nodes, depth), float(table.values[nodes, depth])
        step_ms = times[nodes] + overhead_ms + math.fsum(map(draft_ms, tree.passes))
        if best is None or tokens * plain_ms / step_ms > best.predicted_speedup:
            best = TreePlan(tree, tokens * plain_ms / step_ms, tokens, step_ms)
    assert best is not None
    return best
