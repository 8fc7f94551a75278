"""Drafts a token tree of a fixed shape level by level.

Shapes: `T` tree nodes, `I` inner nodes (with children), `S` tokens before the root, `V_draft` draft
columns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.interface import KVCache, LanguageModel, LevelDraw, TreeReader
from sequoia_core.speculate import sampling
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree, TreeLayout
from sequoia_core.tree.growmap import GrowMap

ChildChooser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(logits [n, V_draft], count) -> columns [n, count] in rank order, probabilities [n, V_draft]."""


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

    draws: int  # children drawn at each inner node of the level, the most any of them needs
    take: Tensor  # int64 [children], which of the inner x draws tokens are nodes of the tree
    forward: Tensor  # int64 [m], which of those children are inner and are read next
    depth: int  # of the children
    mask: Tensor  # bool [m, 1 + rows], what those m see of the tree's rows, from the root on
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
            draws=draws,
            take=index(take),
            forward=index([below.index(node) for node in inner]),
            depth=depth + 1,
            mask=mask[inner][:, cached + inner].to(device),
            parents=index(above),
        )


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


@dataclass(frozen=True, slots=True)
class SampledChildren:
    """Children drawn without replacement, in order; the generator is on the logits' device."""

    params: SamplingParams
    generator: torch.Generator

    def __call__(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = sampling.draft_probs(logits, self.params)
        noise = sampling.exponential_noise(probs, self.generator)
        return sampling.ordered_draws(probs, noise, count), probs


def replaced_children(params: SamplingParams, generator: torch.Generator) -> ChildChooser:
    """Children drawn from the draft's distribution independently: a token may come again."""

    def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
        probs = sampling.draft_probs(logits, params)
        uniforms = torch.rand(
            (probs.shape[0], count), generator=generator, device=probs.device, dtype=torch.float64
        )
        return sampling.independent_draws(probs, uniforms), probs

    return choose


def top_children(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The draft's most probable tokens, in order: for the rules `greedy` and `topk`."""
    return logits.topk(count, dim=-1).indices, sampling.full_probs(logits, 1.0)


def level_draw(choose: ChildChooser) -> LevelDraw | None:
    """The choice as a `TreeReader` makes it; None where it cannot."""
    if choose is top_children:
        return LevelDraw()
    if isinstance(choose, SampledChildren) and not choose.params.shapes:
        return LevelDraw(choose.params.temperature, choose.generator)
    return None


def read_root(draft: DraftModel, pending: Tensor, cache: KVCache) -> Tensor:
    """The draft's logits [1, V_draft] at the root, the last of the pending tokens int64 [n]."""
    first = cache.length
    positions = torch.arange(first, first + len(pending), device=pending.device)
    return draft.without_padding(draft.model.forward(pending, positions, None, cache)[-1:])


def grow(
    draft: DraftModel, plan: GrowPlan, pending: Tensor, cache: KVCache, choose: ChildChooser
) -> TokenTree:
    """Draft one tree. The cache gets the pending tokens and the tree's inner nodes appended.

    Pending are the committed tokens that the cache lacks, int64 [n], the tree's root last. No node
    may have more children than the draft has tokens. Raises ContextFullError.
    """
    device, root = draft.model.device, cache.length + len(pending) - 1
    logits = read_root(draft, pending, cache)
    tokens, distributions = [pending[-1:]], []
    columns, drawn_probs = [pending.new_zeros(1)], [torch.ones(1, device=device)]
    for level in plan.levels:
        drawn, probs = choose(logits, level.draws)  # [inner, draws], [inner, V_draft]
        children = drawn.flatten()[level.take]
        columns.append(children)
        drawn_probs.append(probs.gather(1, drawn).flatten()[level.take])
        distributions.append(probs)
        tokens.append(children if draft.vocab_ids is None else draft.vocab_ids[children])
        rows = level.mask.shape[0]
        if rows:
            logits = draft.model.forward(
                tokens[-1][level.forward],
                torch.full((rows,), root + level.depth, device=device),
                level.mask,
                cache,
                level.parents,
            )
            logits = draft.without_padding(logits)
    return TokenTree(
        growmap=plan.growmap,
        nodes=DeviceNodes(torch.cat(tokens), torch.cat(columns), torch.cat(drawn_probs)),
        draft_probs=torch.cat(distributions) if distributions else logits.new_empty((0, 0)),
        inner_rows=plan.inner_rows,
        vocab_ids=draft.host_vocab_ids,
    )
