"""A tree shape filled with tokens: what drafting hands to verification, and what rules look at.

Immutable values. They know neither how tokens were drafted nor how they are judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.growmap import GrowMap
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

    What is needed of every node was read from the device in one piece; shaped distributions are
    made only for the nodes that a walk visits.

    Attributes:
        tree: as drafted.
        logits: float32 [T, V], the target's.
        probs: float32 [T, V], their softmax at the temperature (1 at temperature 0).
        params: how the target's distribution is shaped.
        token_ids: token of each node.
        columns: draft column of each node.
        draft_prob: the draft's probability of each node at its parent.
        target_prob: the target's, from `probs`, so before top-p and top-k; 1 at the root.
    """

    tree: TokenTree
    logits: Tensor
    probs: Tensor
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
        return float(self.probs[node, token_id])

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        row = slice(node, node + 1)
        return shaped_probs(self.logits[row], self.probs[row], self.params)[0].cpu()

    def draft_probs(self, node: int) -> Tensor:
        """The distribution a node's children were drawn from, q: float32 [V_draft] on the CPU."""
        return self.tree.draft_probs[self.tree.inner_rows[node]].cpu()

    def vocab_ids(self) -> Tensor | None:
        """The target's id of each draft column, on the CPU; None when they agree."""
        return None if self.tree.vocab_ids is None else self.tree.vocab_ids.cpu()


def score(tree: TokenTree, logits: Tensor, params: SamplingParams) -> ScoredTree:
    """Attach the target's logits [T, V] and read what every rule needs, in one transfer."""
    probs = full_probs(logits, params.temperature)
    packed = torch.stack(  # float64 holds a token id exactly
        (
            tree.token_ids.double(),
            tree.columns.double(),
            tree.node_probs.double(),
            probs[tree.parents, tree.token_ids].double(),
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
