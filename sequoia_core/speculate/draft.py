"""Grow a token tree level by level with the draft model.

Owns the order of draft forwards and what each row may attend to; the model is seen through
`LanguageModel` only. Which children a node gets is the `ChildChooser`'s affair. Shapes: `T` tree
nodes, `I` inner nodes (those with children), `S` tokens before the root, `V_draft` draft columns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.errors import GrowMapError
from sequoia_core.model.interface import Draws, KVCache, LanguageModel, LevelDraw
from sequoia_core.speculate.sampling import (
    draft_probs,
    full_probs,
    independent_draws,
    ordered_draws,
    race_noise,
    to_host,
)
from sequoia_core.speculate.token_tree import TokenTree, TreeLayout
from sequoia_core.tree.growmap import GrowMap

ChildChooser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(logits [n, V_draft], count) -> columns [n, count] in rank order, probabilities [n, V_draft]."""


@dataclass(frozen=True)  # without slots, for the cached property
class DraftModel:
    """A draft and how its output columns map to the target's vocabulary.

    Attributes:
        model: reads target token ids.
        vocab_ids: int64 [V_draft], the target's id of each column; None when they agree.
        host_vocab_ids: the same on the CPU, for the walk over a tree.
    """

    model: LanguageModel
    vocab_ids: Tensor | None = None
    host_vocab_ids: Tensor | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        host = None if self.vocab_ids is None else self.vocab_ids.cpu()
        object.__setattr__(self, "host_vocab_ids", host)

    @cached_property
    def token_of(self) -> Sequence[int]:
        """The target's id of each column, on the host."""
        host = self.host_vocab_ids
        return range(self.model.vocab_size) if host is None else host.tolist()

    @property
    def columns(self) -> int:
        """Tokens that can be drawn, `V_draft`: a padded head may have more columns than that."""
        return self.model.vocab_size if self.vocab_ids is None else self.vocab_ids.shape[0]


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """Drafting one level of a tree: constant per growmap, so tensors are made once.

    Attributes:
        draws: children drawn at each inner node of the level, the most any of them needs.
        take: int64 [children], which of the inner x draws tokens are nodes of the tree.
        forward: int64 [m], which of those children are inner and go through the draft next.
        depth: of the children.
        mask: bool [m, 1 + rows], what they see of the tree's rows, from the root on.
        parents: int64 [m], where their parents lie in the draft's cache, counted back from -1.
    """

    draws: int
    take: Tensor
    forward: Tensor
    depth: int
    mask: Tensor
    parents: Tensor


@dataclass(frozen=True, slots=True)
class GrowPlan:
    """A growmap prepared for a device.

    Attributes:
        growmap: the shape.
        levels: one plan per level that has children.
        inner_rows: each inner node's row among the draft's distributions. Its row in the draft's
            cache is the same number, counted from the root's.
        layout: for the target's forward.
        passes: rows that each drafting pass reads.
    """

    growmap: GrowMap
    levels: tuple[LevelPlan, ...]
    inner_rows: Mapping[int, int]
    layout: TreeLayout
    passes: tuple[int, ...]

    @classmethod
    def of(cls, growmap: GrowMap, device: torch.device) -> "GrowPlan":
        """Prepare a growmap's index tensors and masks."""
        inner = [node for node in range(growmap.size) if growmap.children[node]]
        mask = growmap.ancestor_mask()
        return cls(
            growmap=growmap,
            levels=tuple(
                _level_plan(growmap, depth, mask, device) for depth in range(growmap.depth)
            ),
            inner_rows={node: row for row, node in enumerate(inner)},
            layout=TreeLayout.of(growmap, device),
            passes=tuple(
                sum(1 for node in level if growmap.children[node]) for level in growmap.levels[:-1]
            ),
        )


def _level_plan(growmap: GrowMap, depth: int, mask: Tensor, device: torch.device) -> LevelPlan:
    parents = [node for node in growmap.levels[depth] if growmap.children[node]]
    draws = max(len(growmap.children[node]) for node in parents)
    take = [
        row * draws + rank
        for row, node in enumerate(parents)
        for rank in range(len(growmap.children[node]))
    ]
    below = growmap.levels[depth + 1]
    inner = [node for node in below if growmap.children[node]]
    seen = [n for n in range(growmap.size) if growmap.children[n] and growmap.depths[n] <= depth]
    return LevelPlan(
        draws=draws,
        take=torch.tensor(take, device=device),
        forward=torch.tensor([below.index(node) for node in inner], device=device).long(),
        depth=depth + 1,
        mask=mask[inner][:, seen + inner].to(device),
        parents=torch.tensor(
            [seen.index(growmap.parents[node]) - len(seen) for node in inner],
            dtype=torch.int64,
            device=device,
        ),
    )


def level_draw(choose: ChildChooser) -> LevelDraw | None:
    """What `choose` does, in words that a `TreeReader` understands, if there are any."""
    if choose is top_children:
        return LevelDraw()
    if isinstance(choose, SampledChildren) and not choose.params.shapes:
        return LevelDraw(choose.params.temperature, choose.generator)
    return None


def drawn_on_host(choose: ChildChooser, logits: Tensor, count: int) -> Draws:
    """What `choose` draws at n nodes, read in one transfer.

    Args:
        choose: picks children from logits.
        logits: float32 [n, V_draft].
        count: of children at each node.
    """
    drawn, distributions = choose(logits, count)
    stated = distributions if choose is top_children else full_probs(logits, 1.0)
    picked = (each.gather(1, drawn) for each in (distributions, stated))
    found = to_host(drawn, *picked, stated.amax(-1))
    return Draws(list(map(int, found[0])), found[1], found[2], found[3], distributions)


@dataclass(frozen=True, slots=True)
class SampledChildren:
    """Children drawn from the draft's distribution without replacement, in order.

    Attributes:
        params: shape of the distribution.
        generator: on the device of the logits.
    """

    params: SamplingParams
    generator: torch.Generator

    def __call__(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """As any `ChildChooser`."""
        probs = draft_probs(logits, self.params)
        return ordered_draws(probs, race_noise(probs, self.generator), count), probs


def replaced_children(params: SamplingParams, generator: torch.Generator) -> ChildChooser:
    """Children drawn from the draft's distribution independently: a token may come again."""

    def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = draft_probs(logits, params)
        uniforms = torch.rand(
            (probs.shape[0], count), generator=generator, device=probs.device, dtype=torch.float64
        )
        return independent_draws(probs, uniforms), probs

    return choose


def top_children(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The draft's most probable tokens, in order: for the rules `greedy` and `topk`."""
    return logits.topk(count, dim=-1).indices, full_probs(logits, 1.0)


def grow(
    draft: DraftModel, plan: GrowPlan, pending: Sequence[int], cache: KVCache, choose: ChildChooser
) -> TokenTree:
    """Draft one tree. The cache gets the pending tokens and the tree's inner nodes appended.

    Args:
        draft: the model.
        plan: of the growmap to fill.
        pending: committed tokens the draft's cache lacks; the last one is the tree's root.
        cache: holds the tokens before them.
        choose: picks children from logits.

    Raises:
        GrowMapError: a node has more children than the draft has tokens.
        ContextFullError: the draft's context window is too small.
    """
    if plan.growmap.branching > draft.columns:
        raise GrowMapError(
            f"growmap {plan.growmap.name!r} draws {plan.growmap.branching} children at a node, "
            f"but the draft knows only {draft.columns} tokens"
        )
    device = draft.model.device
    ids = torch.tensor(list(pending), device=device)
    first = cache.length
    root_position = first + len(pending) - 1
    logits = draft.model.forward(
        ids, torch.arange(first, root_position + 1, device=device), None, cache
    )
    logits = known_columns(logits[-1:], draft.vocab_ids)
    columns, node_probs = [ids.new_zeros(1)], [torch.ones(1, device=device)]
    tokens, distributions = [ids[-1:]], []
    for level in plan.levels:
        drawn, probs = choose(logits, level.draws)  # [inner, draws], [inner, V_draft]
        children = drawn.flatten()[level.take]
        columns.append(children)
        node_probs.append(probs.gather(1, drawn).flatten()[level.take])
        distributions.append(probs)
        tokens.append(children if draft.vocab_ids is None else draft.vocab_ids[children])
        rows = level.mask.shape[0]
        if rows:
            prefix = torch.ones((rows, root_position), dtype=torch.bool, device=device)
            logits = draft.model.forward(
                tokens[-1][level.forward],
                torch.full((rows,), root_position + level.depth, device=device),
                torch.cat((prefix, level.mask), dim=1),
                cache,
                level.parents,
            )
            logits = known_columns(logits, draft.vocab_ids)
    return TokenTree(
        growmap=plan.growmap,
        token_ids=torch.cat(tokens),
        columns=torch.cat(columns),
        node_probs=torch.cat(node_probs),
        draft_probs=torch.cat(distributions) if distributions else logits.new_empty((0, 0)),
        inner_rows=plan.inner_rows,
        vocab_ids=draft.vocab_ids,
        host_vocab_ids=draft.host_vocab_ids,
    )


def known_columns(logits: Tensor, vocab_ids: Tensor | None) -> Tensor:
    """Without the padding columns that a map to the target's vocabulary leaves out."""
    if vocab_ids is None or logits.shape[1] == vocab_ids.shape[0]:
        return logits
    return logits[:, : vocab_ids.shape[0]]
