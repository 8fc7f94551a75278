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
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.adaptive import Born, Offer, Seen
from sequoia_core.draft import ChildChooser, DraftModel, known_columns
from sequoia_core.growmap import GrowMap
from sequoia_core.protocols import KVCache
from sequoia_core.token_tree import TokenTree
from sequoia_core.trees import ADAPTIVE


class GrowthPolicy(Protocol):
    """Decides one tree."""

    def read(self, born: Sequence[Born]) -> list[int]:
        """Which of a level's new nodes the draft reads next, ascending; none ends the growth."""
        ...

    def children(self, offers: Sequence[Offer]) -> list[int]:
        """How many children each node that was read gets, before any is drawn."""
        ...


@dataclass(frozen=True, slots=True)
class Drafting:
    """How an adaptive tree is filled.

    Attributes:
        draft: the model.
        choose: picks children from logits.
        ranked: `choose` takes the most probable tokens, which follow from the distribution alone.
        width: most children of a node.
    """

    draft: DraftModel
    choose: ChildChooser
    ranked: bool
    width: int


@dataclass(frozen=True, slots=True)
class Growth:
    """A drafted tree, and what the draft offered at each node it read.

    Attributes:
        tree: what is verified.
        offers: by row of the draft.
        tokens: the target's ids of each row's possible children in order, drawn or not.
        probs: the draft's probabilities of them.
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
                born.append(Born(node, offer.node, rank + 1, self.tokens[node], self.probs[node]))
            self.offered.append((drawn.tokens[at], drawn.probs[at]))
        self.offers += offers
        self.counts += counts
        return born

    def visible(self, nodes: Sequence[int]) -> NDArray[np.bool_]:
        """Bool [nodes, rows], which of the draft's rows those nodes see; they are read next."""
        for node in nodes:
            self.rows[node] = len(self.rows)
        mask = np.zeros((len(nodes), len(self.rows)), dtype=np.bool_)
        for at, node in enumerate(nodes):
            above = node
            while above >= 0:
                mask[at, self.rows[above]] = True
                above = self.parents[above]
        return mask


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One level's possible children, read from the device in one piece."""

    columns: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]
    probs: tuple[tuple[float, ...], ...]
    peaks: tuple[float, ...]

    @classmethod
    def of(cls, drawn: Tensor, probs: Tensor, vocab_ids: Tensor | None) -> "_Drawn":
        """From columns [n, width] and the distributions [n, V_draft] they were drawn from."""
        tokens = drawn if vocab_ids is None else vocab_ids[drawn]
        packed = torch.cat(  # float64 holds a token id exactly
            (
                drawn.double(),
                tokens.double(),
                probs.gather(1, drawn).double(),
                probs.amax(-1, keepdim=True).double(),
            ),
            dim=1,
        ).tolist()
        width = drawn.shape[1]
        return cls(
            columns=tuple(tuple(map(int, row[:width])) for row in packed),
            tokens=tuple(tuple(map(int, row[width : 2 * width])) for row in packed),
            probs=tuple(tuple(row[2 * width : 3 * width]) for row in packed),
            peaks=tuple(row[-1] for row in packed),
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
    draft, device = drafting.draft, drafting.draft.model.device
    width = min(drafting.width, draft.columns)
    sketch, distributions = _Sketch(pending[-1]), []
    root_position = cache.length + len(pending) - 1
    nodes = policy.read([Born(0, -1, 0, pending[-1], 1.0)])
    while nodes:
        mask = sketch.visible(nodes)
        if nodes == [0]:
            positions = torch.arange(cache.length, root_position + 1, device=device)
            ids = torch.tensor(list(pending), device=device)
            logits = draft.model.forward(ids, positions, None, cache)[-1:]
        else:
            ids = torch.tensor([sketch.tokens[node] for node in nodes], device=device)
            position = root_position + sketch.depths[nodes[0]]
            prefix = np.ones((len(nodes), root_position), dtype=np.bool_)
            seen = torch.from_numpy(np.concatenate((prefix, mask), axis=1)).to(device)
            logits = draft.model.forward(ids, torch.full_like(ids, position), seen, cache)
        drawn, probs = drafting.choose(known_columns(logits, draft.vocab_ids), width)
        distributions.append(probs)
        level = _Drawn.of(drawn, probs, draft.vocab_ids)
        offers = [
            Offer(node, level.peaks[at], level.probs[at] if drafting.ranked else (), width)
            for at, node in enumerate(nodes)
        ]
        born = sketch.grow(offers, policy.children(offers), level)
        nodes = policy.read(born) if born else []
    return _finished(sketch, distributions, draft)


def _finished(sketch: _Sketch, distributions: list[Tensor], draft: DraftModel) -> Growth:
    device = draft.model.device
    probs = torch.tensor(sketch.probs, device=device)
    numbers = [[0, *sketch.parents[1:]], sketch.tokens, sketch.columns]
    parents, token_ids, columns = torch.tensor(numbers, device=device)  # [3, T], one copy
    tree = TokenTree(
        growmap=GrowMap.numbered(sketch.parents, ADAPTIVE),
        parents=parents,
        token_ids=token_ids,
        columns=columns,
        node_probs=probs,
        draft_probs=torch.cat(distributions) if distributions else probs.new_empty((0, 0)),
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
