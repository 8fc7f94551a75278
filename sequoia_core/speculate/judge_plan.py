"""What judging a tree's nodes at once needs of its shape: index tensors, constant per growmap.

Shapes: `T` tree nodes, `n` inner nodes of a block, `K` most children of one of them, `V` vocabulary
of the target, `V_draft` draft columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from sequoia_core.model.loading.memory_plan import SCORED_ROWS
from sequoia_core.speculate.sampling import to_device
from sequoia_core.speculate.token_tree import TokenTree
from sequoia_core.tree.growmap import GrowMap

JUDGED_ROWS = SCORED_ROWS // 2  # of a block: float32 p and q and what is left of p in float64
KEPT_PLANS = 64  # of shapes; those of adaptive trees are few
_UPWARDS, _EARLIER = 1, 2
FIRST, NONE = 0, 1  # places of the divisors of a first child, and of what divides by nothing

Index = NDArray[np.int64]


class NodeBlock(NamedTuple):
    """Inner nodes that are judged together, those with most children first."""

    nodes: Tensor  # int64 [n]
    rows: Tensor  # int64 [n], of the draft's distributions
    children: Tensor  # int64 [n, K]; after a node's last child its first one again
    taken: Tensor  # the same of those that were drawn; of all where none was
    counted: Tensor  # float64 [n, K], 1 where that is one of them for the first time
    widths: tuple[int, ...]  # nodes with more than k children, of each k below K
    drawn: bool  # of the children any


class JudgePlan:
    """Attempts are laid out as first all nodes, then the children [n, K] of each block.

    `certain` nodes were not drawn, and are the last children of their parents. Without `whole`,
    blocks have only nodes with two children and more: a first child is compared with what is known
    of it without its parent's distribution.
    """

    def __init__(
        self,
        growmap: GrowMap,
        rows: Sequence[int],  # of the draft's distributions, per node; -1 for those without one
        certain: frozenset[int],
        device: torch.device,
        *,
        whole: bool,
    ) -> None:
        size, children = growmap.size, growmap.children
        drawn = [sum(1 for child in each if child not in certain) for each in children]
        fewest = 1 if whole else 2
        inner = [node for node in range(size) if len(children[node]) >= fewest]
        inner.sort(key=lambda node: -len(children[node]))
        chunks = [inner[at : at + JUDGED_ROWS] for at in range(0, len(inner), JUDGED_ROWS)]
        attempts, divisors = np.arange(size), np.full(size, FIRST)
        divisors[0] = NONE
        parts: list[Index] = []
        begin = 0  # of a block's children among those of all
        for nodes in chunks:
            table = _table([children[node] for node in nodes])
            rank, counts = np.arange(table.shape[1]), np.array([[drawn[node]] for node in nodes])
            places = begin + np.arange(table.size).reshape(table.shape)
            exists, from_draft = table > 0, rank < counts
            used = exists if whole else exists & (rank > 0)
            attempts[table[used]] = size + places[used]
            divisors[table[from_draft]] = NONE + 1 + places[from_draft]
            counted = from_draft if from_draft.any() else exists
            parts += [
                np.array(nodes),
                np.maximum([rows[node] for node in nodes], 0),
                np.where(exists, table, table[:, :1]),
                np.where(counted, table, table[:, :1]),
                counted.astype(np.int64),
            ]
            begin += table.size
        ends = [(each[:count], each[count:]) for each, count in zip(children, drawn, strict=True)]
        last = np.array([before[-1] if before else 0 for before, _ in ends])
        parents = np.array((0, *growmap.parents[1:]))
        orders = np.array([bool(before and not after) for before, after in ends])
        sure = _table([after for _, after in ends], size)
        parts += [attempts, divisors, np.maximum(rows, 0), last, parents, orders, sure]
        parts.append(_relation(growmap))
        tensors = to_device(parts, device)
        widths = [_widths([len(children[node]) for node in nodes]) for nodes in chunks]
        self.whole, self.drawn = whole, any(drawn)
        self.blocks: list[NodeBlock] = []
        for at, most in enumerate(widths):
            inner_nodes, read, below, taken, once = tensors[5 * at : 5 * at + 5]
            block = NodeBlock(inner_nodes, read, below, taken, once.double(), most, self.drawn)
            self.blocks.append(block)
        self.block_nodes = tuple(inner)  # of all blocks, in order
        tensors = tensors[5 * len(chunks) :]
        self.attempts, self.divisors, self.rows, self.last_drawn, self.parents = tensors[:5]
        """int64 [T] each: the place of a node's attempt and of its divisors (`FIRST`, `NONE`, then
        each block's), its row of the draft's, its last drawn child and its parent, 0 for none."""
        self.orders, self._sure, relation = tensors[5:]
        """int64 [T], which of `Vocabulary.orders` a bonus token is drawn by: the draft's columns
        come first where only drawn children were rejected; int64 [T, C], the certain children of
        each node and then `T`."""
        self._upwards, self._earlier = relation == _UPWARDS, relation == _EARLIER
        """Bool [T, T], of each row the nodes that must be accepted for it to be on the path, and
        those that must be rejected."""
        self.nodes = torch.arange(size, device=device)
        self.start, self.first = first_states(size, device), first_divisors(device)

    def broken(self, accepted: Tensor) -> Tensor:
        """Bool [T], of the nodes that are not on the path, but for the root."""
        return torch.where(accepted, self._earlier, self._upwards).any(1)

    def certain_below(self, end: Tensor, token_ids: Tensor, nothing: int) -> Tensor | None:
        """Tokens of the certain children of a node, int64 [1], and as often as it takes `nothing`.

        None where there are no certain ones.
        """
        if not self._sure.shape[1]:
            return None
        return pad(token_ids, (0, 1), value=nothing)[self._sure.index_select(0, end)[0]]

    @classmethod
    def of(
        cls, tree: TokenTree, device: torch.device, *, certain: bool, whole: bool
    ) -> "JudgePlan":
        """Of a drafted tree; `certain` of a rule for which no child was drawn."""
        size = tree.growmap.size
        sure = frozenset(range(1, size)) if certain else tree.appended
        rows = tuple(tree.inner_rows.get(node, -1) for node in range(size))
        return _plan_of(tree.growmap, rows, sure, device, whole)


@lru_cache(KEPT_PLANS)
def _plan_of(
    growmap: GrowMap,
    rows: tuple[int, ...],
    certain: frozenset[int],
    device: torch.device,
    whole: bool,
) -> JudgePlan:
    return JudgePlan(growmap, rows, certain, device, whole=whole)


def first_states(size: int, device: torch.device) -> Tensor:
    """Of each node before any rejection: a mass of 1, and nothing subtracted; float64 [T, 3]."""
    found = torch.zeros((size, 3), dtype=torch.float64, device=device)
    found[:, 0].fill_(1.0)
    return found


def first_divisors(device: torch.device) -> Tensor:
    """Of a first child, and of what divides by nothing: float64 [2, 2]."""
    found = torch.full((2, 2), inf, dtype=torch.float64, device=device)
    found[FIRST, 0].fill_(1.0)
    return found


def _table(rows: Sequence[Sequence[int]], filler: int = 0) -> Index:
    """Rows of different lengths as an array, filled up."""
    most = max(map(len, rows))
    return np.array([[*row, *[filler] * (most - len(row))] for row in rows], dtype=np.int64)


def _widths(lengths: Sequence[int]) -> tuple[int, ...]:
    """How many are above k, of each k below the largest."""
    return tuple(sum(1 for each in lengths if each > k) for k in range(max(lengths)))


def _relation(growmap: GrowMap) -> Index:
    """Of each row itself and its ancestors but for the root, and their earlier siblings."""
    found = np.zeros((growmap.size, growmap.size), dtype=np.int64)
    for node, parent in enumerate(growmap.parents[1:], start=1):
        found[node] = found[parent]
        found[node, growmap.children[parent][0] : node] = _EARLIER  # siblings lie side by side
        found[node, node] = _UPWARDS
    return found


@dataclass(frozen=True, eq=False)  # part of a recording's key
class Vocabulary:
    """A trimmed draft's columns among the target's tokens, on the device."""

    ids: Tensor  # int64 [V_draft], the target's id of each column
    inside: Tensor  # float32 [V], 1 for these
    orders: Tensor  # int64 [2, V]: all tokens in order, and these columns before all others


@lru_cache(4)
def vocabulary_of(vocab_ids: Tensor, size: int, device: torch.device) -> Vocabulary:
    """Of ids on the host, among `size` tokens."""
    others = torch.ones(size, dtype=torch.bool).index_fill_(0, vocab_ids, False).nonzero()[:, 0]
    orders = torch.stack((torch.arange(size), torch.cat((vocab_ids, others)))).to(device)
    ids = orders[1, : len(vocab_ids)]
    return Vocabulary(ids, torch.zeros(size, device=device).index_fill_(0, ids, 1.0), orders)
