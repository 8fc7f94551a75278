"""What judging needs of a tree whose shape is not fixed, computed on the device from its parents.

So one recording judges all shapes of some size. Of a fixed shape `judge_plan` has the same, in
fewer and smaller tensors. Shapes as there; `R` nodes that the draft has read, `C` appended ones.
Some of all of these may only fill up a size: the index `T` stands for no node.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from sequoia_core.model.graphs import row_bucket
from sequoia_core.model.step_inputs import LOOKED_UP, StepInputs
from sequoia_core.speculate.judge_plan import (
    FIRST,
    JUDGED_ROWS,
    KEPT_PLANS,
    NONE,
    NodeBlock,
    first_divisors,
    first_states,
)
from sequoia_core.speculate.token_tree import DeviceNodes, FilledNodes, LookedUp, TokenTree
from sequoia_core.tree.growmap import GrowMap

LEAST = 4  # tokens, nodes or children that are filled up to; twice as many nodes of a tree


class Relations(NamedTuple):
    """Ancestors and earlier siblings of each node."""

    exists: Tensor  # bool [T], without the root and what only fills up
    earlier: Tensor  # bool [T, T], of each row its earlier siblings
    upwards: Tensor  # bool [T, T], of each row itself and its ancestors but for the root

    @classmethod
    def of(cls, parents: Tensor, levels: int) -> "Relations":
        """Of parents int64 [T], each before its children; the root and what is none their own."""
        nodes = torch.arange(len(parents), device=parents.device)
        exists = parents != nodes
        pairs = exists[:, None] & exists & (nodes[:, None] > nodes)
        upwards, above = (nodes[:, None] == nodes) & exists, parents
        for _ in range(max(levels - 1, 0).bit_length()):  # each time twice as far
            upwards, above = upwards | upwards[above], above[above]
        return cls(exists, (parents[:, None] == parents) & pairs, upwards)

    def visible(self) -> Tensor:
        """Bool [T, T], what each row of a forward sees: what only fills up, the root and itself."""
        nodes = torch.arange(len(self.exists), device=self.exists.device)
        return self.upwards | (nodes[:, None] == nodes) | (nodes == 0)


class PathPlan:
    """Of a fixed shape, below which up to so many looked-up tokens hang; on the device.

    Which of them are part of the tree follows from what is drawn: see `attached`.
    """

    def __init__(
        self, growmap: GrowMap, rows: tuple[tuple[int, int], ...], length: int, device: torch.device
    ) -> None:
        def index(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        size, children = growmap.size, growmap.children
        read = sorted(rows, key=lambda each: -len(children[each[0]]))
        self.most = tuple(len(children[node]) + 1 for node, _ in read)
        self.size, self.levels = size + length, growmap.depth + length
        self.draft_rows = tuple(row for _, row in read)
        self.read, self.rows = index([node for node, _ in read]), index(list(self.draft_rows))
        self.parents = index([0, *growmap.parents[1:]])
        self.relations = Relations.of(self.parents, growmap.depth)
        self.places = index([min(depth - 1, length) % (length + 1) for depth in growmap.depths])
        """Int64 [T], of the looked-up token that a node might be; `C` for none."""
        self.path = torch.arange(size, size + length, device=device)

    @classmethod
    def of(cls, tree: TokenTree, path: LookedUp) -> "PathPlan":
        rows, length = tuple(tree.inner_rows.items()), len(path.filled)
        return _path_plan(tree.growmap, rows, length, path.filled.device)


@lru_cache(KEPT_PLANS)
def _path_plan(
    growmap: GrowMap, rows: tuple[tuple[int, int], ...], length: int, device: torch.device
) -> PathPlan:
    return PathPlan(growmap, rows, length, device)


def attached(plan: PathPlan, nodes: DeviceNodes, path: Tensor) -> FilledNodes:
    """A tree [T] and the tokens int64 [C] of a path below its root that were not drawn.

    What was looked up hangs below the last of its tokens that was, as `append_path` has it.
    """
    upwards, ids = plan.relations.upwards, nodes.token_ids
    again = (plan.relations.earlier & (ids[:, None] == ids)).any(1)
    same = (ids == pad(path, (0, 1), value=-1)[plan.places]) & ~again
    drawn = ~(upwards & ~same).any(1)  # of the root and of one node in each level at most
    count, at = drawn.sum() - 1, torch.arange(len(path), device=path.device)
    last = (torch.arange(len(ids), device=path.device) * drawn).amax()
    above = torch.where(at == count, last, plan.path - 1)
    parents = torch.where((at >= count) & (path >= 0), above, plan.path)
    certain = torch.ones(path.shape, dtype=torch.float32, device=path.device)
    return FilledNodes(
        DeviceNodes(
            torch.cat((ids, path.clamp(min=0))),
            torch.cat((nodes.columns, torch.zeros_like(path))),
            torch.cat((nodes.draft_prob, certain)),
        ),
        torch.cat((plan.parents, parents)),
        plan.read,
        plan.path,
        max(plan.most, default=1),
        plan.levels,
    )


def looked_up(known: Sequence[int], room: int, inputs: StepInputs) -> LookedUp | None:
    """A path for the next upload; None where its sizes have no room."""
    size = _bucket(len(known))
    if not known or size > min(room, LOOKED_UP):
        return None
    return LookedUp(tuple(known), inputs.fill("looked_up", known, [-1] * size))


def filled_up(tree: TokenTree, room: int, inputs: StepInputs) -> TokenTree:
    """A tree that the host has grown, of at most `NODES` and as many read, for the next upload."""
    size, growmap, nodes = tree.growmap.size, tree.growmap, tree.on_host()
    filled = row_bucket(max(size, 2 * LEAST)) or size
    filled = filled if size > 1 and filled <= room else size
    nothing, own = [0] * filled, range(filled)
    appended, stated = sorted(tree.appended), len(tree.draft_probs)
    rows = _bucket(stated)
    read = [filled] * rows
    for node, row in tree.inner_rows.items():
        read[row] = node
    grown = FilledNodes(
        DeviceNodes(
            inputs.fill("token_ids", nodes.token_ids, nothing),
            inputs.fill("columns", nodes.columns, nothing),
            inputs.fill("draft_prob", nodes.draft_prob, nothing),
        ),
        inputs.fill("parents", (0, *growmap.parents[1:]), own),
        inputs.fill("read", read, read),
        inputs.fill("appended", appended, [filled] * (LOOKED_UP if appended else 0)),
        most=_bucket(growmap.branching),
        levels=filled,  # at most
    )
    draft_probs = pad(tree.draft_probs, (0, 0, 0, rows - stated))
    return replace(tree, grown=grown, draft_probs=draft_probs)


def _bucket(count: int) -> int:
    """A power of two that is not less, and `LEAST`; or 0."""
    return max(1 << (count - 1).bit_length(), LEAST) if count else 0


@dataclass(frozen=True, slots=True)
class GrownShape:
    """What repeats of trees whose shape does not; see `GrownPlan`."""

    size: int  # T
    most: tuple[int, ...]  # of each node that was read the most children there may be, falling
    levels: int
    whole: bool  # every child is compared by its parent's distribution
    drawn: bool  # or all are proposals with certainty


class GrownPlan:
    """The index tensors of a `JudgePlan`; nothing is read back while they are made."""

    def __init__(self, shape: GrownShape, tree: FilledNodes, rows: Tensor | None) -> None:
        """With the row of each node that was read, int64 [R]; None if they are in order."""
        size, read, device = shape.size, tree.read, tree.parents.device
        self.whole, self.drawn, self.parents = shape.whole, shape.drawn, tree.parents
        self.nodes = torch.arange(size, device=device)
        self._relations = Relations.of(tree.parents, shape.levels)
        exists, parents, nodes = self._relations.exists, tree.parents, self.nodes
        rows = torch.arange(len(read), device=device) if rows is None else rows
        self._certain = self._marked(tree.appended) if shape.drawn else exists
        first, widths, count = _places(shape.most, device)
        at = torch.zeros(size + 1, dtype=torch.int64, device=device)
        at = at.scatter_(0, read, torch.arange(len(read), device=device))[:size]
        listed = exists & self._marked(read)[parents]
        rank = self._relations.earlier.sum(1)
        places = torch.where(listed, first[at[parents]] + rank, count) if count else nodes
        table = torch.full((count + 1,), size, dtype=torch.int64, device=device)
        table = table.scatter_(0, torch.where(listed, places, count), nodes)
        self.blocks = self._blocks(table, widths, read.clamp(max=size - 1), rows)
        judged = listed if shape.whole else listed & (rank > 0)
        self.attempts = torch.where(judged, size + places, nodes)
        if shape.whole and len(tree.appended):
            self._add_alone(tree.appended, listed, size + count)
        from_draft = listed & ~self._certain
        divisors = torch.where(from_draft, NONE + 1 + places, FIRST)
        self.divisors = divisors.masked_fill(nodes == 0, NONE)
        """See `JudgePlan`; as below."""
        of_read = torch.zeros(size + 1, dtype=torch.int64, device=device)
        self.rows = of_read.scatter_(0, read, rows)[:size]
        drawn = torch.where(exists & ~self._certain, nodes, 0)
        self.last_drawn = torch.zeros_like(nodes).scatter_reduce_(0, parents, drawn, "amax")
        above_certain = torch.where(exists & self._certain, parents, size)
        self.orders = ((self.last_drawn > 0) & ~self._marked(above_certain)).long()
        self.start, self.first = first_states(size, device), first_divisors(device)

    def _marked(self, nodes: Tensor) -> Tensor:
        """Bool [T], true at some of them."""
        size = len(self.nodes)
        found = torch.zeros(size + 1, dtype=torch.bool, device=nodes.device)
        return found.index_fill_(0, nodes, True)[:size]

    def _blocks(
        self, table: Tensor, widths: list[tuple[int, ...]], read: Tensor, rows: Tensor
    ) -> list[NodeBlock]:
        blocks, size = list[NodeBlock](), len(self.nodes)
        certain, begin = pad(self._certain, (0, 1)), 0
        for at, most in enumerate(widths):
            rank = most[0], len(most)
            some = slice(at * JUDGED_ROWS, at * JUDGED_ROWS + rank[0])
            below = table[begin : begin + rank[0] * rank[1]].view(rank)
            begin += rank[0] * rank[1]
            present = below < size
            counted = present & ~certain[below] if self.drawn else present
            first = below[:, :1]
            children, taken = (
                torch.where(each, below, first).clamp(max=size - 1) for each in (present, counted)
            )
            blocks.append(
                NodeBlock(
                    read[some], rows[some], children, taken, counted.double(), most, self.drawn
                )
            )
        return blocks

    def _add_alone(self, appended: Tensor, listed: Tensor, first: int) -> None:
        """A block of appended nodes whose parents have no other child."""
        size, device = len(self.nodes), appended.device
        there = appended.clamp(max=size - 1)
        alone = (appended < size) & ~listed[there]
        count = len(appended)
        places = torch.arange(first, first + count, device=device)
        attempts = pad(self.attempts, (0, 1))
        self.attempts = attempts.scatter_(0, torch.where(alone, there, size), places)[:size]
        child, once = there[:, None], torch.ones((count, 1), dtype=torch.float64, device=device)
        above, nothing = self.parents[there], torch.zeros_like(there)
        self.blocks.append(NodeBlock(above, nothing, child, child, once, (count,), False))

    def broken(self, accepted: Tensor) -> Tensor:
        """See `JudgePlan.broken`."""
        followed = accepted & ~(self._relations.earlier & accepted).any(1)
        return (self._relations.upwards & ~followed).any(1) | ~self._relations.exists

    def certain_below(self, end: Tensor, token_ids: Tensor, nothing: int) -> Tensor:
        """See `JudgePlan.certain_below`."""
        below = self._certain & self._relations.exists & (self.parents == end)
        return torch.where(below, token_ids, nothing)


def _places(
    most: tuple[int, ...], device: torch.device
) -> tuple[Tensor, list[tuple[int, ...]], int]:
    """Where each node's children begin in tables of blocks, int64 [R]; widths; the places."""
    begins, widths, count = list[Tensor](), list[tuple[int, ...]](), 0
    for at in range(0, len(most), JUDGED_ROWS):
        some = most[at : at + JUDGED_ROWS]
        width = max(some[0], 1)
        end = count + len(some) * width
        begins.append(torch.arange(count, end, width, device=device))
        widths.append((len(some), *(sum(1 for each in some if each > k) for k in range(1, width))))
        count = end
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    return torch.cat(begins) if begins else empty, widths, count
