"""Grows a tree whose shape is decided while it grows.

Owns the order of drafting: ask the policy which nodes the draft reads, run it, ask how many
children each gets, and only then look at what was drawn. The policy sees no token that it decides
on. One small packed result is read from the device per level. Shapes as in `draft`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sequoia_core.model.interface import Draws, KVCache, LanguageModel, Paths, TreeReader, TreeRows
from sequoia_core.speculate.adaptive_policy import Born, Offer, Seen
from sequoia_core.speculate.draft import (
    ChildChooser,
    DraftModel,
    drawn_on_host,
    known_columns,
    level_draw,
)
from sequoia_core.speculate.token_tree import TokenTree
from sequoia_core.tree.choice import ADAPTIVE
from sequoia_core.tree.growmap import GrowMap


class GrowthPolicy(Protocol):
    """Decides one tree."""

    def read(self, born: Sequence[Born]) -> list[int]:
        """Which of a level's new nodes the draft reads next, ascending; none ends the growth."""
        ...

    def children(self, offers: Sequence[Offer]) -> list[int]:
        """How many children each node that was read gets, before any is drawn."""
        ...


@dataclass(frozen=True, slots=True)
class FixedShape:
    """The policy whose tree is always the same.

    Attributes:
        growmap: that tree.
    """

    growmap: GrowMap

    def read(self, born: Sequence[Born]) -> list[int]:
        """Those that have children; nodes are numbered alike, breadth first."""
        return [each.node for each in born if self.growmap.children[each.node]]

    def children(self, offers: Sequence[Offer]) -> list[int]:
        """As many as the tree has."""
        return [len(self.growmap.children[offer.node]) for offer in offers]


@dataclass(frozen=True, slots=True)
class Drafting:
    """How an adaptive tree is filled.

    Attributes:
        draft: the model.
        choose: picks children from logits.
        ranked: `choose` takes the most probable tokens, which follow from the distribution alone.
        width: most children of a node.
        reader: the draft, where it can read a level in one call; None where it cannot.
    """

    draft: DraftModel
    choose: ChildChooser
    ranked: bool
    width: int
    reader: TreeReader | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """A drafted tree, and what the draft offered at each node it read.

    Attributes:
        tree: what is verified.
        offers: by row of the draft.
        tokens: the target's ids of each row's possible children in order, drawn or not.
        probs: the draft's probabilities of them at temperature 1.
        counts: how many of them are nodes of the tree.
    """

    tree: TokenTree
    offers: tuple[Offer, ...] = ()
    tokens: tuple[tuple[int, ...], ...] = ()
    probs: tuple[tuple[float, ...], ...] = ()
    counts: tuple[int, ...] = ()

    def seen(self, tree: TokenTree, path: Sequence[int], emitted: Sequence[int]) -> list[Seen]:
        """What the verdict says of the offers it went through.

        Args:
            tree: that was verified: this one, or one grown from it by grafting.
            path: accepted nodes of it, root first.
            emitted: their tokens without the root's, and the bonus token.
        """
        found: list[Seen] = []
        for at, node in enumerate(path):
            row = tree.inner_rows.get(node)
            if row is None:
                break
            follower = path[at + 1] if at + 1 < len(path) else 0
            drawn = follower and follower not in tree.grafted
            found.append(
                Seen(
                    offer=self.offers[row],
                    depth=at + 1,
                    probs=self.probs[row],
                    tokens=self.tokens[row],
                    count=self.counts[row],
                    token_id=emitted[at],
                    accepted=tree.growmap.ranks[follower] if drawn else 0,
                )
            )
        return found


class _Sketch:
    """A tree being grown, as lists on the host."""

    def __init__(self, root_token: int) -> None:
        self.parents = [-1]
        self.depths = [0]
        self.tokens = [root_token]
        self.columns = [0]
        self.probs = [1.0]
        self.rows: dict[int, int] = {}
        self.offers: list[Offer] = []
        self.offered: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
        self.counts: list[int] = []

    def grow(self, offers: Sequence[Offer], counts: Sequence[int], drawn: "_Drawn") -> list[Born]:
        """Add the first children of each node, as many as were decided."""
        born: list[Born] = []
        for at, (offer, count) in enumerate(zip(offers, counts, strict=True)):
            for rank in range(count):
                node = len(self.parents)
                self.parents.append(offer.node)
                self.depths.append(self.depths[offer.node] + 1)
                self.tokens.append(drawn.tokens[at][rank])
                self.columns.append(drawn.columns[at][rank])
                self.probs.append(drawn.probs[at][rank])
                stated = drawn.stated[at][rank]
                born.append(Born(node, offer.node, rank + 1, self.tokens[node], stated))
            self.offered.append((drawn.tokens[at], drawn.stated[at]))
        self.offers += offers
        self.counts += counts
        return born

    def paths(self, nodes: Sequence[int]) -> list[list[int]]:
        """Which of the draft's rows each of the nodes that are read next sees, itself the last."""
        paths: list[list[int]] = []
        for node in nodes:
            self.rows[node] = len(self.rows)
            path = []
            while node >= 0:
                path.append(self.rows[node])
                node = self.parents[node]
            paths.append(path[::-1])
        return paths


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One level's possible children, read from the device in one piece."""

    columns: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]
    probs: tuple[tuple[float, ...], ...]
    stated: tuple[tuple[float, ...], ...]
    peaks: tuple[float, ...]

    @classmethod
    def of(cls, draws: Draws, token_of: Sequence[int]) -> "_Drawn":
        """By row; `token_of` is the target's id of each of the draft's columns."""
        width = len(draws.columns) // len(draws.peaks)
        rows = [slice(first, first + width) for first in range(0, len(draws.columns), width)]
        columns = [tuple(draws.columns[row]) for row in rows]
        return cls(
            columns=tuple(columns),
            tokens=tuple(tuple(map(token_of.__getitem__, row)) for row in columns),
            probs=tuple(tuple(draws.probs[row]) for row in rows),
            stated=tuple(tuple(draws.stated[row]) for row in rows),
            peaks=tuple(draws.peaks),
        )


def grow_adaptive(
    drafting: Drafting, policy: GrowthPolicy, pending: Sequence[int], cache: KVCache
) -> Growth:
    """Draft one tree. The cache gets the pending tokens and the nodes the policy lets it read.

    Where the policy does not even read the root, the cache is left as it is.

    Args:
        drafting: model and choice of children.
        policy: of this step.
        pending: committed tokens the draft's cache lacks; the last one is the tree's root.
        cache: holds the tokens before them.

    Raises:
        ContextFullError: the draft's context window is too small.
    """
    draft, how = drafting.draft, level_draw(drafting.choose)
    width = min(drafting.width, draft.columns)
    sketch, distributions = _Sketch(pending[-1]), []
    nodes = policy.read([Born(0, -1, 0, pending[-1], 1.0)])
    while nodes:
        if drafting.reader is not None and how is not None:
            rows = _rows(sketch, nodes, pending, cache)
            draws = drafting.reader.read_level(rows, width, cache, how)
        else:
            logits = known_columns(
                _read(draft.model, sketch, nodes, pending, cache), draft.vocab_ids
            )
            draws = drawn_on_host(drafting.choose, logits, width)
        distributions.append(draws.distributions)
        level = _Drawn.of(draws, draft.token_of)
        offers = [
            Offer(node, level.peaks[at], level.stated[at] if drafting.ranked else (), width)
            for at, node in enumerate(nodes)
        ]
        born = sketch.grow(offers, policy.children(offers), level)
        nodes = policy.read(born) if born else []
    return _finished(sketch, distributions, draft)


def _read(
    model: LanguageModel,
    sketch: _Sketch,
    nodes: Sequence[int],
    pending: Sequence[int],
    cache: KVCache,
) -> Tensor:
    """The draft's logits [n, V_draft] at nodes of a level; the pending tokens end with the root."""
    device, paths = model.device, sketch.paths(nodes)
    if nodes[0] == 0:
        ids = torch.tensor(pending, device=device)
        positions = torch.arange(cache.length, cache.length + len(pending), device=device)
        return model.forward(ids, positions, None, cache)[-1:]
    width = cache.length + len(nodes)
    root = width - len(sketch.rows)
    seen = np.ones((len(nodes), width), dtype=np.bool_)
    seen[:, root:] = False
    for at, path in enumerate(paths):
        seen[at, [root + row for row in path]] = True
    parents = torch.tensor([root + path[-2] - cache.length for path in paths], device=device)
    ids = torch.tensor([sketch.tokens[node] for node in nodes], device=device)
    positions = torch.full_like(ids, root + sketch.depths[nodes[0]])
    return model.forward(ids, positions, torch.from_numpy(seen).to(device), cache, parents)


def _rows(
    sketch: _Sketch, nodes: Sequence[int], pending: Sequence[int], cache: KVCache
) -> TreeRows:
    """As `_read` reads them, for a draft that reads them itself."""
    paths = sketch.paths(nodes)
    if nodes[0] == 0:
        return TreeRows(pending)
    root = cache.length + len(nodes) - len(sketch.rows)
    return TreeRows([sketch.tokens[node] for node in nodes], root, Paths.of(paths))


def _stacked(distributions: list[Tensor]) -> Tensor:
    if len(distributions) == 1:
        return distributions[0]
    return torch.cat(distributions) if distributions else torch.empty((0, 0))


def _finished(sketch: _Sketch, distributions: list[Tensor], draft: DraftModel) -> Growth:
    tree = TokenTree(
        growmap=GrowMap.numbered(sketch.parents, ADAPTIVE),
        token_ids=tuple(sketch.tokens),
        columns=tuple(sketch.columns),
        node_probs=tuple(sketch.probs),
        draft_probs=_stacked(distributions),
        inner_rows=sketch.rows,
        vocab_ids=draft.vocab_ids,
        host_vocab_ids=draft.host_vocab_ids,
    )
    return Growth(
        tree=tree,
        offers=tuple(sketch.offers),
        tokens=tuple(tokens for tokens, _ in sketch.offered),
        probs=tuple(each for _, each in sketch.offered),
        counts=tuple(sketch.counts),
    )
