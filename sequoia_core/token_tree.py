"""A tree shape filled with tokens: what drafting hands to verification, and what rules look at.

Immutable values. They know neither how tokens were drafted nor how they are judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.growmap import GrowMap
from sequoia_core.memory import SCORED_ROWS
from sequoia_core.sampling import full_probs, shaped_probs


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Drafted tokens and the distributions they were drawn from, on the draft's device.

    Attributes:
        growmap: the shape, `T` nodes.
        parents: int64 [T], parent of each node, the root's own index at the root.
        token_ids: int64 [T], the target's ids; the root is the last committed token.
        columns: int64 [T], each node's column among the draft's; 0 at the root.
        node_probs: float32 [T], the draft's probability of each node at its parent; 1 at the root.
        draft_probs: float32 [I, V_draft], the draft's distribution at each of the I nodes that it
            read, which children were drawn from.
        inner_rows: row of `draft_probs` for each node that the draft read.
        vocab_ids: int64 [V_draft], the target's id of each draft column; None when they agree.
        grafted: nodes that were not drawn from anything: each is the last child of its parent, and
            a proposal of that one token with certainty.
        host_vocab_ids: `vocab_ids` on the CPU where it lies there too.
    """

    growmap: GrowMap
    parents: Tensor
    token_ids: Tensor
    columns: Tensor
    node_probs: Tensor
    draft_probs: Tensor
    inner_rows: Mapping[int, int]
    vocab_ids: Tensor | None
    grafted: frozenset[int] = frozenset()
    host_vocab_ids: Tensor | None = None


@dataclass(frozen=True, slots=True)
class TreeLayout:
    """A shape as the target's forward needs it.

    Attributes:
        parents: int64 [T], the root its own.
        mask: bool [T, T], ancestor-or-self.
        depths: int64 [T].
    """

    parents: Tensor
    mask: Tensor
    depths: Tensor

    @classmethod
    def of(cls, growmap: GrowMap, device: torch.device) -> "TreeLayout":
        """Index tensors of a shape on a device."""
        return cls(
            parents=torch.tensor((0, *growmap.parents[1:]), device=device),
            mask=growmap.ancestor_mask().to(device),
            depths=torch.tensor(growmap.depths, device=device),
        )


@dataclass(frozen=True, slots=True)
class ScoredTree:
    """A token tree with the target's view of it: everything an acceptance rule may look at.

    What is needed of every node was read from the device in one piece; distributions are made only
    for the nodes that are asked for.

    Attributes:
        tree: as drafted.
        logits: float32 [T, V], the target's.
        probs: float32 [T, V], their softmax at the temperature (1 at temperature 0); None of a
            large tree, whose rows become probabilities when they are asked for.
        params: how the target's distribution is shaped.
        token_ids: token of each node.
        columns: draft column of each node.
        draft_prob: the draft's probability of each node at its parent.
        target_prob: the target's, before top-p and top-k; 1 at the root.
    """

    tree: TokenTree
    logits: Tensor
    probs: Tensor | None
    params: SamplingParams
    token_ids: tuple[int, ...]
    columns: tuple[int, ...]
    draft_prob: tuple[float, ...]
    target_prob: tuple[float, ...]

    @property
    def growmap(self) -> GrowMap:
        """The shape."""
        return self.tree.growmap

    def argmax(self) -> list[int]:
        """The target's most probable token after each node, in one read."""
        tokens: list[int] = self.logits.argmax(-1).tolist()
        return tokens

    def target_prob_of(self, node: int, token_id: int) -> float:
        """The target's probability of one token after a node, in the sense of `target_prob`."""
        return float(self.some_probs(slice(node, node + 1))[0, token_id])

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        row = slice(node, node + 1)
        return shaped_probs(self.logits[row], self.some_probs(row), self.params)[0].cpu()

    def draft_probs(self, node: int) -> Tensor:
        """The distribution a node's children were drawn from, q: float32 [V_draft] on the CPU."""
        return self.tree.draft_probs[self.tree.inner_rows[node]].cpu()

    def vocab_ids(self) -> Tensor | None:
        """The target's id of each draft column, on the CPU; None when they agree."""
        ids, on_host = self.tree.vocab_ids, self.tree.host_vocab_ids
        return ids.cpu() if ids is not None and on_host is None else on_host

    def some_probs(self, rows: slice | Tensor) -> Tensor:
        """Rows of the softmax at the temperature: float32 [n, V] on the device."""
        if self.probs is not None:
            return self.probs[rows]
        return full_probs(self.logits[rows], self.params.temperature)


def score(tree: TokenTree, logits: Tensor, params: SamplingParams) -> ScoredTree:
    """Attach the target's logits [T, V] and read what every rule needs, in one transfer."""
    temperature = params.temperature
    small = tree.growmap.size <= SCORED_ROWS
    probs = full_probs(logits, temperature) if small else None
    if probs is not None:
        node_probs = probs[tree.parents, tree.token_ids]
    else:
        node_probs = _probs_in_blocks(tree, logits, temperature)
    packed = torch.stack(  # float64 holds a token id exactly
        (
            tree.token_ids.double(),
            tree.columns.double(),
            tree.node_probs.double(),
            node_probs.double(),
        )
    )
    token_ids, columns, draft_prob, target_prob = packed.tolist()
    return ScoredTree(
        tree=tree,
        logits=logits,
        probs=probs,
        params=params,
        token_ids=tuple(map(int, token_ids)),
        columns=tuple(map(int, columns)),
        draft_prob=tuple(draft_prob),
        target_prob=(1.0, *target_prob[1:]),
    )


def _probs_in_blocks(tree: TokenTree, logits: Tensor, temperature: float) -> Tensor:
    """The target's probability of each node at its parent: float32 [T].

    Only a block of rows is made into probabilities at a time: those of a large tree over a large
    vocabulary take hundreds of megabytes.
    """
    found = torch.zeros_like(tree.node_probs)
    rows = max(tree.growmap.parents) + 1  # later ones have no children
    for first in range(0, rows, SCORED_ROWS):
        probs = full_probs(logits[first : min(first + SCORED_ROWS, rows)], temperature)
        at = tree.parents - first
        inside = (at >= 0) & (at < len(probs))
        in_block = probs[at.clamp(0, len(probs) - 1), tree.token_ids]
        found = torch.where(inside, in_block, found)
    return found
