"""A tree shape filled with tokens: what drafting hands to verification, and what rules look at.

Immutable values. They know neither how tokens were drafted nor how they are judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.growmap import GrowMap
from sequoia_core.sampling import target_probs


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Drafted tokens and the distributions they were drawn from, on the draft's device.

    Attributes:
        growmap: the shape, `T` nodes.
        token_ids: int64 [T], the target's ids; the root is the last committed token.
        node_probs: float32 [T], the draft's probability of each node at its parent; 1 at the root.
        draft_probs: float32 [I, V_draft], the distribution drawn from at each of the I nodes that
            have children.
        inner_rows: row of `draft_probs` for each node that has children.
        vocab_ids: int64 [V_draft], the target's id of each draft column; None when they agree.
    """

    growmap: GrowMap
    token_ids: Tensor
    node_probs: Tensor
    draft_probs: Tensor
    inner_rows: Mapping[int, int]
    vocab_ids: Tensor | None


@dataclass(frozen=True, slots=True)
class ScoredTree:
    """A token tree with the target's logits: everything an acceptance rule may look at.

    What every rule needs of every node was read from the device in one piece; whole distributions
    are made only for the nodes that a walk visits.

    Attributes:
        tree: as drafted.
        logits: float32 [T, V], the target's.
        params: how the target's distribution is shaped.
        token_ids: token of each node.
        draft_prob: the draft's probability of each node at its parent.
        target_prob: the target's, at the same temperature (1 at temperature 0), before top-p and
            top-k; 1 at the root.
        argmax: the target's most probable token at each node.
    """

    tree: TokenTree
    logits: Tensor
    params: SamplingParams
    token_ids: tuple[int, ...]
    draft_prob: tuple[float, ...]
    target_prob: tuple[float, ...]
    argmax: tuple[int, ...]

    @property
    def growmap(self) -> GrowMap:
        """The shape."""
        return self.tree.growmap

    def target_prob_of(self, node: int, token_id: int) -> float:
        """The target's probability of one token after a node, in the sense of `target_prob`."""
        row = self.logits[node] / (self.params.temperature or 1.0)
        return float(torch.exp(row[token_id] - torch.logsumexp(row, dim=-1)))

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        return target_probs(self.logits[node : node + 1], self.params)[0].cpu()

    def draft_probs(self, node: int) -> Tensor:
        """The distribution a node's children were drawn from, q: float32 [V] on the CPU."""
        row = self.tree.draft_probs[self.tree.inner_rows[node]].cpu()
        if self.tree.vocab_ids is None:
            return row
        scattered = torch.zeros(self.logits.shape[-1])
        return scattered.index_copy_(0, self.tree.vocab_ids.cpu(), row)

    def support(self) -> Tensor:
        """Bool [V] on the CPU: tokens a draw can yield; over them the fallback is uniform."""
        vocab = self.logits.shape[-1]
        if self.tree.vocab_ids is None:
            return torch.ones(vocab, dtype=torch.bool)
        support = torch.zeros(vocab, dtype=torch.bool)
        return support.index_fill_(0, self.tree.vocab_ids.cpu(), True)


def score(tree: TokenTree, logits: Tensor, params: SamplingParams) -> ScoredTree:
    """Attach the target's logits [T, V] and read what every rule needs, in one transfer."""
    parents = torch.tensor((0, *tree.growmap.parents[1:]), device=logits.device)
    temperature = params.temperature or 1.0
    inner = torch.tensor(list(tree.inner_rows), device=logits.device, dtype=torch.int64)
    log_mass = logits.new_zeros(logits.shape[0])
    log_mass[inner] = torch.logsumexp(logits[inner] / temperature, dim=-1)
    node_logits = logits[parents, tree.token_ids] / temperature
    target_prob = torch.exp(node_logits - log_mass[parents])
    packed = torch.stack(  # float64 holds a token id exactly
        (
            tree.token_ids.double(),
            tree.node_probs.double(),
            target_prob.double(),
            logits.argmax(-1).double(),
        )
    )
    token_ids, draft_prob, probs, argmax = packed.tolist()
    return ScoredTree(
        tree=tree,
        logits=logits,
        params=params,
        token_ids=tuple(map(int, token_ids)),
        draft_prob=tuple(draft_prob),
        target_prob=(1.0, *probs[1:]),
        argmax=tuple(map(int, argmax)),
    )
