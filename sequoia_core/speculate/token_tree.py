"""A tree shape filled with tokens: what drafting hands to verification, and what rules look at.

Immutable values. They know neither how tokens were drafted nor how they are judged.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.interface import Paths, Summary
from sequoia_core.speculate.sampling import full_probs, log_totals, shaped_probs, to_host
from sequoia_core.tree.growmap import GrowMap


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Drafted tokens and the distributions they were drawn from.

    What drafting had to read is on the host, as tuples; the rest is on the draft's device.

    Attributes:
        growmap: the shape, `T` nodes.
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
    token_ids: Tensor | tuple[int, ...]
    columns: Tensor | tuple[int, ...]
    node_probs: Tensor | tuple[float, ...]
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
        paths: the same as `mask`, for a `TreeReader`.
        host_parents: `parents` for it.
    """

    parents: Tensor
    mask: Tensor
    depths: Tensor
    paths: Paths
    host_parents: array[int]

    @classmethod
    def of(cls, growmap: GrowMap, device: torch.device) -> TreeLayout:
        """Index tensors of a shape on a device."""
        return cls(
            parents=torch.tensor((0, *growmap.parents[1:]), device=device),
            mask=growmap.ancestor_mask().to(device),
            depths=torch.tensor(growmap.depths, device=device),
            paths=Paths.of(growmap.paths()),
            host_parents=array("q", (0, *growmap.parents[1:])),
        )


@dataclass(frozen=True, slots=True)
class ScoredTree:
    """A token tree with the target's view of it: everything an acceptance rule may look at.

    What is needed of every node was read from the device in one piece; distributions are made only
    for the nodes that are asked for.

    Attributes:
        tree: as drafted.
        logits: float32 [T, V], the target's.
        params: how the target's distribution is shaped.
        token_ids: token of each node.
        columns: draft column of each node.
        draft_prob: the draft's probability of each node at its parent.
        target_prob: the target's, before top-p and top-k; 1 at the root. At temperature 0 it is
            that at temperature 1.
        summary: what else was read off the logits.
    """

    tree: TokenTree
    logits: Tensor
    params: SamplingParams
    token_ids: tuple[int, ...]
    columns: tuple[int, ...]
    draft_prob: tuple[float, ...]
    target_prob: tuple[float, ...]
    summary: Summary

    @property
    def argmax(self) -> Sequence[int]:
        """The target's most probable token after each node."""
        return self.summary.argmax

    @property
    def growmap(self) -> GrowMap:
        """The shape."""
        return self.tree.growmap

    def target_prob_of(self, node: int, token_id: int) -> float:
        """The target's probability of one token after a node, in the sense of `target_prob`."""
        if token_id == self.summary.argmax[node]:
            return exp(self.summary.log_peaks[node])
        logit = float(self.logits[node, token_id])
        return exp(logit / (self.params.temperature or 1.0) - self.summary.log_totals[node])

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        row = slice(node, node + 1)
        return shaped_probs(self.logits[row], self.some_probs(row), self.params)[0].cpu()

    def some_target_probs(self, node: int, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`target_probs` of some tokens, without top-p and top-k: float32 [n], of CPU logits."""
        logits = self.logits[node].numpy()
        found = logits.take(token_ids)
        found -= logits[self.summary.argmax[node]]
        found *= 1.0 / self.params.temperature
        np.exp(found, out=found)
        found *= exp(self.summary.log_peaks[node])
        return found

    def draft_probs(self, node: int) -> Tensor:
        """The distribution a node's children were drawn from, q: float32 [V_draft] on the CPU."""
        return self.tree.draft_probs[self.tree.inner_rows[node]].cpu()

    def vocab_ids(self) -> Tensor | None:
        """The target's id of each draft column, on the CPU; None when they agree."""
        ids, on_host = self.tree.vocab_ids, self.tree.host_vocab_ids
        return ids.cpu() if ids is not None and on_host is None else on_host

    def some_probs(self, rows: slice | Tensor) -> Tensor:
        """Rows of the softmax at the temperature: float32 [n, V] on the device."""
        return full_probs(self.logits[rows], self.params.temperature)


def device_ids(tree: TokenTree, device: torch.device) -> Tensor:
    """A tree's token ids on a device: int64 [T]."""
    ids = tree.token_ids
    return ids if isinstance(ids, Tensor) else torch.tensor(ids, device=device)


HostValues = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]
"""A tree's token ids, columns and the draft's probabilities."""


def score(
    tree: TokenTree, logits: Tensor, params: SamplingParams, layout: TreeLayout | None = None
) -> ScoredTree:
    """Attach the target's logits [T, V] and read what every rule needs, in one transfer.

    Args:
        tree: as drafted.
        logits: of the target at its nodes.
        params: how the target's distribution is shaped.
        layout: of the tree's shape, where there is one already.
    """
    temperature = params.temperature or 1.0
    index = (layout or TreeLayout.of(tree.growmap, logits.device)).parents
    peaks, best = logits.max(-1)
    tokens, columns, draft_prob, argmax, totals, highest, picked = to_host(
        tree.token_ids,
        tree.columns,
        tree.node_probs,
        best,
        log_totals(logits, temperature),
        peaks,
        logits[index, device_ids(tree, logits.device)],
    )
    parents = (0, *tree.growmap.parents[1:])
    log_probs = [
        logit / temperature - totals[parent] for logit, parent in zip(picked, parents, strict=True)
    ]
    values = tuple(map(int, tokens)), tuple(map(int, columns)), tuple(draft_prob)
    log_peaks = [peak / temperature - total for peak, total in zip(highest, totals, strict=True)]
    summary = Summary(list(map(int, argmax)), totals, log_peaks, log_probs)
    return scored(tree, values, logits, params, summary)


def host_values(tree: TokenTree) -> HostValues:
    """What is known of a tree before the target reads it, in one transfer."""
    tokens, columns, probs = to_host(tree.token_ids, tree.columns, tree.node_probs)
    return tuple(map(int, tokens)), tuple(map(int, columns)), tuple(probs)


def scored(
    tree: TokenTree, values: HostValues, logits: Tensor, params: SamplingParams, summary: Summary
) -> ScoredTree:
    """A tree with the target's logits [T, V] and what was read off them."""
    return ScoredTree(
        tree=tree,
        logits=logits,
        params=params,
        token_ids=values[0],
        columns=values[1],
        draft_prob=values[2],
        target_prob=(1.0, *map(exp, summary.log_probs[1:])),
        summary=summary,
    )
