"""Drafts a token tree whose shape is decided while it grows, one small transfer per level."""

from collections.abc import Callable, Sequence
from math import inf, log
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sequoia_core.model.interface import Draws, KVCache, Paths, TreeRows
from sequoia_core.speculate.adaptive_policy import DraftCandidates, NewNode, NodeOutcome
from sequoia_core.speculate.draft import (
    ChildChooser,
    DraftModel,
    level_draw,
    read_root,
    top_children,
)
from sequoia_core.speculate.sampling import full_probs, to_device, to_host
from sequoia_core.speculate.token_tree import HostNodes, TokenTree
from sequoia_core.tree.choice import ADAPTIVE, DynamicTree
from sequoia_core.tree.growmap import GrowMap


class GrowthPolicy(Protocol):
    width: int  # most children of a node

    def read(self, nodes: Sequence[NewNode]) -> list[int]:
        """Which of a level's new nodes the draft reads next, ascending; none ends the growth."""
        ...

    def children(self, candidates: Sequence[DraftCandidates]) -> list[int]:
        """How many children each node that was read gets, before any is drawn."""
        ...


class FixedShape:
    """The policy whose tree is always the same."""

    def __init__(self, growmap: GrowMap) -> None:
        self.growmap, self.width = growmap, growmap.branching

    def read(self, nodes: Sequence[NewNode]) -> list[int]:
        return [each.node for each in nodes if self.growmap.children[each.node]]

    def children(self, candidates: Sequence[DraftCandidates]) -> list[int]:
        return [len(self.growmap.children[each.node]) for each in candidates]


class BestPaths:
    """EAGLE-2's policy (arXiv 2406.16858): what the draft finds the most probable, at each level.

    Every node read gets `bounds.branching` children; `best` are the nodes of the tree, at most
    `size`. The draft reads at most `draft_room` nodes.
    """

    def __init__(self, bounds: DynamicTree, size: int, draft_room: int) -> None:
        self.width, self.passes = bounds.branching, list[int]()  # rows of each drafting pass
        self._bounds, self._size, self._draft_room = bounds, size, draft_room
        self._scores: list[float] = []  # log probability of the path to each node, as stated

    def read(self, nodes: Sequence[NewNode]) -> list[int]:
        """The best of the level; not those that `best` leaves out already, with all below them."""
        for each in nodes:
            above = self._scores[each.parent] if each.node else 0.0
            # never above its parent's: float32 can state slightly more than 1
            stated = min(each.prob, 1.0)
            self._scores.append(above + (log(stated) if stated > 0.0 else -inf))
        if self._size < 2 or len(self.passes) == self._bounds.depth:
            return []
        best, room = set(self.best()), self._draft_room - sum(self.passes)
        inside = [each.node for each in nodes if each.node in best]
        chosen = self._ranked(inside)[: max(min(self.width, room), 0)]
        if chosen:
            self.passes.append(len(chosen))
        return sorted(chosen)

    def children(self, candidates: Sequence[DraftCandidates]) -> list[int]:
        return [each.width for each in candidates]

    def best(self) -> list[int]:
        """Ascending; each with its parent, which is no worse and comes first on a tie."""
        return sorted(self._ranked(range(len(self._scores)))[: self._size])

    def _ranked(self, nodes: Sequence[int]) -> list[int]:
        return sorted(nodes, key=lambda node: -self._scores[node])


class DraftedTree:
    """A tree on the host, node by node while it grows, and what the draft stated at each row.

    With `ranked` children are the most probable tokens, which follow from the distribution alone.
    """

    def __init__(self, root_token: int, draft: DraftModel, ranked: bool) -> None:
        self._draft, self._ranked = draft, ranked
        self._parents, self._depths = [-1], [0]
        self.token_ids, self._columns, self._probs = [root_token], [0], [1.0]
        self._rows: dict[int, int] = {}
        self._offers: list[tuple[float, int, tuple[int, ...], tuple[float, ...]]] = []
        """Of each row: peak, children in the tree, candidates' tokens and probabilities."""
        self._distributions: list[Tensor] = []

    def paths(self, nodes: Sequence[int]) -> list[list[int]]:
        """Which of the draft's rows each of the nodes that are read next sees, itself the last."""
        paths: list[list[int]] = []
        for node in nodes:
            self._rows[node] = len(self._rows)
            path = []
            while node >= 0:
                path.append(self._rows[node])
                node = self._parents[node]
            paths.append(path[::-1])
        return paths

    @property
    def rows(self) -> int:
        """Nodes that the draft has read, or is about to."""
        return len(self._rows)

    def depth(self, node: int) -> int:
        return self._depths[node]

    def add(self, nodes: Sequence[int], draws: Draws, policy: GrowthPolicy) -> list[NewNode]:
        """Add the first children of each node, as many as the policy decides."""
        width = len(draws.columns) // len(nodes)
        rows = [slice(at * width, (at + 1) * width) for at in range(len(nodes))]
        stated = [tuple(draws.stated[row]) for row in rows]
        candidates = [
            DraftCandidates(node, draws.peaks[at], stated[at] if self._ranked else (), width)
            for at, node in enumerate(nodes)
        ]
        counts = policy.children(candidates)
        self._distributions.append(draws.distributions)
        new: list[NewNode] = []
        for at, (parent, count) in enumerate(zip(nodes, counts, strict=True)):
            columns, probs = draws.columns[rows[at]], draws.probs[rows[at]]
            tokens = tuple(map(self._draft.token_of.__getitem__, columns))
            self._offers.append((draws.peaks[at], count, tokens, stated[at]))
            for rank in range(count):
                new.append(
                    NewNode(len(self._parents), parent, rank + 1, tokens[rank], stated[at][rank])
                )
                self._parents.append(parent)
                self._depths.append(self._depths[parent] + 1)
            self.token_ids += tokens[:count]
            self._columns += columns[:count]
            self._probs += probs[:count]
        return new

    def tree(self) -> TokenTree:
        growmap = GrowMap.numbered(tuple(self._parents), ADAPTIVE)
        nodes = HostNodes(tuple(self.token_ids), tuple(self._columns), tuple(self._probs))
        return self._filled(growmap, nodes, self._rows)

    def part(self, kept: Sequence[int], name: str) -> TokenTree:
        """The tree of these nodes alone, ascending, the root and each one's parent among them.

        Lossless for children that are the most probable tokens; children that were drawn may not be
        left out once it is known what was drawn.
        """
        assert self._ranked, "what is left out must follow from the distributions alone"
        place = {node: at for at, node in enumerate(kept)}
        parents = (-1, *(place[self._parents[node]] for node in kept[1:]))
        nodes = HostNodes(
            tuple(map(self.token_ids.__getitem__, kept)),
            tuple(map(self._columns.__getitem__, kept)),
            tuple(map(self._probs.__getitem__, kept)),
        )
        rows = {place[node]: row for node, row in self._rows.items() if node in place}
        return self._filled(GrowMap.numbered(parents, name), nodes, rows)

    def _filled(self, growmap: GrowMap, nodes: HostNodes, rows: dict[int, int]) -> TokenTree:
        nothing = torch.empty((0, 0), device=self._draft.model.device)
        distributions = self._distributions or [nothing]
        return TokenTree(
            growmap=growmap,
            nodes=nodes,
            draft_probs=torch.cat(distributions) if len(distributions) > 1 else distributions[0],
            inner_rows=rows,
            vocab_ids=self._draft.host_vocab_ids,
        )

    def outcomes(
        self, tree: TokenTree, path: Sequence[int], emitted: Sequence[int]
    ) -> list[NodeOutcome]:
        """The accepted path's nodes that the draft read, as verified in `tree`.

        `tree` is this one, perhaps with a path appended; `emitted` are the path's tokens without
        the root's, and the bonus token.
        """
        found: list[NodeOutcome] = []
        for at, node in enumerate(path):
            row = tree.inner_rows.get(node)
            if row is None:
                break
            follower = path[at + 1] if at + 1 < len(path) else 0
            drawn = follower and follower not in tree.appended
            accepted = tree.growmap.ranks[follower] if drawn else 0
            found.append(NodeOutcome(at + 1, *self._offers[row], emitted[at], accepted))
        return found


def grow_adaptive(
    draft: DraftModel,
    policy: GrowthPolicy,
    pending: Sequence[int],
    cache: KVCache,
    choose: ChildChooser,
    upload: Callable[[Sequence[int]], Tensor] | None = None,
) -> DraftedTree:
    """Draft one tree. The cache gets the pending tokens and the nodes the policy lets it read.

    Pending are the committed tokens that the cache lacks, the tree's root last. Where the policy
    does not even read the root, the cache stays as it is. On a device each level that is read takes
    a copy to it, of the pending tokens by `upload`, and one back. Raises ContextFullError.
    """
    how, width = level_draw(choose), min(policy.width, draft.columns)
    drafted = DraftedTree(pending[-1], draft, ranked=choose is top_children)
    nodes = policy.read([NewNode(0, -1, 0, pending[-1], 1.0)])
    while nodes:
        paths = drafted.paths(nodes)
        if draft.reader is not None and how is not None:
            rows = TreeRows(pending)
            if nodes[0] != 0:
                tokens = [drafted.token_ids[node] for node in nodes]
                root = cache.length + len(nodes) - drafted.rows
                rows = TreeRows(tokens, root, Paths.of(paths))
            draws = draft.reader.read_level(rows, width, cache, how)
        else:
            if nodes[0] == 0:
                device = draft.model.device
                ids = upload(pending) if upload else torch.tensor(pending, device=device)
                logits = read_root(draft, ids, cache)
            else:
                logits = _read_level(drafted, draft, nodes, paths, cache)
            draws = _drawn_on_host(choose, logits, width)
        new = drafted.add(nodes, draws, policy)
        nodes = policy.read(new) if new else []
    return drafted


def _read_level(
    drafted: DraftedTree,
    draft: DraftModel,
    nodes: Sequence[int],
    paths: Sequence[Sequence[int]],
    cache: KVCache,
) -> Tensor:
    """The draft's logits [n, V_draft] at nodes of a level below the root."""
    root = cache.length + len(nodes) - drafted.rows
    seen = np.zeros((len(nodes), drafted.rows), dtype=np.int64)
    for at, path in enumerate(paths):
        seen[at, path] = 1
    above = np.array([root + path[-2] - cache.length for path in paths])
    tokens = np.array([drafted.token_ids[node] for node in nodes])
    ids, parents, mask = to_device((tokens, above, seen), draft.model.device)
    positions = torch.full_like(ids, root + drafted.depth(nodes[0]))
    return draft.without_padding(draft.model.forward(ids, positions, mask > 0, cache, parents))


def _drawn_on_host(choose: ChildChooser, logits: Tensor, count: int) -> Draws:
    """The children that `choose` takes from logits [n, V_draft], read in one transfer."""
    drawn, distributions = choose(logits, count)
    stated = distributions if choose is top_children else full_probs(logits, 1.0)
    picked = (each.gather(1, drawn) for each in (distributions, stated))
    found = to_host(drawn, *picked, stated.amax(-1))
    return Draws(list(map(int, found[0])), found[1], found[2], found[3], distributions)
