"""Drafts a token tree of a fixed shape level by level.

Shapes: `T` tree nodes, `I` inner nodes (with children), `S` tokens before the root, `V_draft` draft
columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.interface import KVCache, LanguageModel, LevelDraw, TreeReader
from sequoia_core.speculate import sampling
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree, TreeLayout
from sequoia_core.tree.growmap import GrowMap

ChildChooser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(logits [n, V_draft], count) -> columns [n, count] in rank order, probabilities [n, V_draft]."""

LevelChooser = Callable[["LevelPlan", Tensor], tuple[Tensor, Tensor]]
"""The same of a level's nodes: as many as its plan says."""

LevelReader = Callable[["LevelPlan", Tensor], Tensor]
"""Logits [m, V] after the m tokens of a level that are read next."""


@dataclass(frozen=True)  # without slots, for the cached properties
class DraftModel:
    """A draft and the target's id of each of its columns, int64 [V_draft]; None when they agree."""

    model: LanguageModel
    vocab_ids: Tensor | None = None

    @cached_property
    def host_vocab_ids(self) -> Tensor | None:
        return None if self.vocab_ids is None else self.vocab_ids.cpu()

    @cached_property
    def token_of(self) -> Sequence[int]:
        """The target's id of each column, on the host."""
        host = self.host_vocab_ids
        return range(self.model.vocab_size) if host is None else host.tolist()

    @property
    def columns(self) -> int:
        """Tokens that can be drawn, `V_draft`: a padded head has more columns than that."""
        return self.model.vocab_size if self.vocab_ids is None else self.vocab_ids.shape[0]

    @cached_property
    def reader(self) -> TreeReader | None:
        """The model if it reads a level in one call; what a padded head has more is no child."""
        whole = self.columns == self.model.vocab_size
        return self.model if whole and isinstance(self.model, TreeReader) else None

    def without_padding(self, logits: Tensor) -> Tensor:
        """The columns [n, V_draft] of logits that are tokens."""
        return logits if logits.shape[1] == self.columns else logits[:, : self.columns]


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """Drafting one level of a tree; the tensors are constant per growmap."""

    nodes: int  # inner ones of the level
    draws: int  # children drawn at each of them, the most any of them needs
    take: Tensor  # int64 [children], which of the inner x draws tokens are nodes of the tree
    forward: Tensor  # int64 [m], which of those children are inner and are read next
    depth: int  # of the children
    mask: Tensor  # bool [m, 1 + rows], what those m see of the tree's rows, from the root on
    first: int  # row of the first of those m among the tree's inner nodes
    parents: Tensor  # int64 [m], where their parents lie in the draft's cache, back from -1

    @classmethod
    def of(cls, growmap: GrowMap, depth: int, mask: Tensor, device: torch.device) -> "LevelPlan":
        children = growmap.children
        parents = [node for node in growmap.levels[depth] if children[node]]
        draws = max(len(children[node]) for node in parents)
        take = [
            row * draws + rank
            for row, node in enumerate(parents)
            for rank in range(len(children[node]))
        ]
        below = growmap.levels[depth + 1]
        inner = [node for node in below if children[node]]
        cached = [n for n in range(growmap.size) if children[n] and growmap.depths[n] <= depth]
        above = [cached.index(growmap.parents[node]) - len(cached) for node in inner]

        def index(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            nodes=len(parents),
            draws=draws,
            take=index(take),
            forward=index([below.index(node) for node in inner]),
            depth=depth + 1,
            mask=mask[inner][:, cached + inner].to(device),
            first=len(cached),
            parents=index(above),
        )


class Drafted(NamedTuple):
    """A tree's tensors on the draft's device."""

    nodes: DeviceNodes
    draft_probs: Tensor  # float32 [I, V_draft]


class GrowPlan(TreeLayout):
    @cached_property
    def levels(self) -> tuple[LevelPlan, ...]:
        mask = self.growmap.ancestor_mask()
        depths = range(self.growmap.depth)
        return tuple(LevelPlan.of(self.growmap, depth, mask, self.device) for depth in depths)

    @cached_property
    def inner_rows(self) -> dict[int, int]:
        """Each inner node's row among the draft's distributions; the same in its cache."""
        inner = [node for node in range(self.growmap.size) if self.growmap.children[node]]
        return {node: row for row, node in enumerate(inner)}

    def tree(self, draft: DraftModel, drafted: Drafted) -> TokenTree:
        return TokenTree(
            growmap=self.growmap,
            nodes=drafted.nodes,
            draft_probs=drafted.draft_probs,
            inner_rows=self.inner_rows,
            vocab_ids=draft.host_vocab_ids,
        )


@dataclass(frozen=True, slots=True)
class SampledChildren:
    """Children drawn from the draft's distribution; the generator is on the logits' device.

    Without replacement, in order; or `replaced`, where a token may come again.
    """

    params: SamplingParams
    generator: torch.Generator
    replaced: bool = False

    def __call__(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        size = (logits.shape[0], self.numbers(logits.shape[1], count))
        uniforms = torch.rand(
            size, generator=self.generator, device=logits.device, dtype=torch.float64
        )
        return self.given(uniforms, logits, count)

    def numbers(self, columns: int, count: int) -> int:
        """Uniform numbers that drawing `count` children of a node takes."""
        return count if self.replaced else columns

    def given(self, uniforms: Tensor, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What is drawn with uniform numbers float64 [n, numbers], which are overwritten."""
        probs = sampling.draft_probs(logits, self.params)
        if self.replaced:
            return sampling.independent_draws(probs, uniforms), probs
        return sampling.ordered_draws(probs, sampling.exponential_noise(uniforms), count), probs


def top_children(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The draft's most probable tokens, in order: for the rules `greedy` and `topk`."""
    return logits.topk(count, dim=-1).indices, sampling.full_probs(logits, 1.0)


def level_draw(choose: ChildChooser) -> LevelDraw | None:
    """The choice as a `TreeReader` makes it; None where it cannot."""
    if choose is top_children:
        return LevelDraw()
    if not isinstance(choose, SampledChildren) or choose.replaced or choose.params.shapes:
        return None
    return LevelDraw(choose.params.temperature, choose.generator)


def read_root(draft: DraftModel, pending: Tensor, cache: KVCache) -> Tensor:
    """The draft's logits [1, V_draft] at the root, the last of the pending tokens int64 [n]."""
    return draft.without_padding(read_pending(draft.model.forward, pending, cache)[-1:])


def read_pending(forward: Callable[..., Tensor], pending: Tensor, cache: KVCache) -> Tensor:
    """Logits [n, V] after the pending tokens, int64 [n], by a `LanguageModel.forward`."""
    positions = torch.arange(cache.length, cache.length + len(pending), device=pending.device)
    return forward(pending, positions, None, cache)


def grow(
    draft: DraftModel, plan: GrowPlan, pending: Tensor, cache: KVCache, choose: ChildChooser
) -> TokenTree:
    """Draft one tree. The cache gets the pending tokens and the tree's inner nodes appended.

    Pending are the committed tokens that the cache lacks, int64 [n], the tree's root last. No node
    may have more children than the draft has tokens. Raises ContextFullError.
    """

    def chosen(level: LevelPlan, logits: Tensor) -> tuple[Tensor, Tensor]:
        return choose(logits, level.draws)

    forward = draft.model.forward
    return plan.tree(draft, grow_by_forwards(draft, forward, plan, pending, cache, chosen))


def grow_by_forwards(
    draft: DraftModel,
    forward: Callable[..., Tensor],  # as `LanguageModel.forward`
    plan: GrowPlan,
    pending: Tensor,
    cache: KVCache,
    choose: LevelChooser,
) -> Drafted:
    """See `grow`."""
    root = cache.length + len(pending) - 1

    def read(level: LevelPlan, ids: Tensor) -> Tensor:
        positions = torch.full_like(ids, root + level.depth)
        return forward(ids, positions, level.mask, cache, level.parents)

    logits = draft.without_padding(read_pending(forward, pending, cache)[-1:])
    return grow_levels(draft, plan.levels, pending[-1:], logits, choose, read)


def grow_levels(
    draft: DraftModel,
    levels: Sequence[LevelPlan],
    root: Tensor,  # int64 [1], its token
    logits: Tensor,  # [1, V_draft], after it
    choose: LevelChooser,
    read: LevelReader,
) -> Drafted:
    """Draft a tree below its root without waiting for the device."""
    tokens, distributions = [root], []
    columns, drawn_probs = [torch.zeros_like(root)], [torch.ones_like(root, dtype=torch.float32)]
    for level in levels:
        drawn, probs = choose(level, logits)  # [inner, draws], [inner, V_draft]
        children = drawn.flatten()[level.take]
        columns.append(children)
        drawn_probs.append(probs.gather(1, drawn).flatten()[level.take])
        distributions.append(probs)
        tokens.append(children if draft.vocab_ids is None else draft.vocab_ids[children])
        if level.forward.shape[0]:
            logits = draft.without_padding(read(level, tokens[-1][level.forward]))
    nodes = DeviceNodes(torch.cat(tokens), torch.cat(columns), torch.cat(drawn_probs))
    stated = torch.cat(distributions) if distributions else logits.new_empty((0, 0))
    return Drafted(nodes, stated)
