"""Drafting as one recording: all levels of a tree of a fixed shape, their forwards and draws.

`draft.grow` does the same kernel by kernel. Shapes as there.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.graphs import Graphs, Recording, Rung, least_tokens, span_bucket
from sequoia_core.model.interface import KVCache
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.memory_plan import MOST_STATED
from sequoia_core.model.recorded import CHECKED, ROUNDING, RecordedForward
from sequoia_core.speculate.draft import (
    ChildChooser,
    Drafted,
    DraftModel,
    GrowPlan,
    LevelChooser,
    LevelPlan,
    SampledChildren,
    grow,
    grow_by_forwards,
    grow_levels,
    read_pending,
    top_children,
)
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree

Grow = Callable[[GrowPlan, Tensor, KVCache, ChildChooser], TokenTree]
"""`draft.grow` of one draft."""

READ = 2  # pending tokens in a recording: the root, and before it a leaf that was accepted unread
FAR = 1 << 40  # slots after any: the scratch row is taken
AGREEING = 0.5  # of a tree at least, where rounding may decide: between near ties, or at a cut


class LoopKey(NamedTuple):
    """What lies in a recording as numbers and addresses."""

    parents: tuple[int, ...]  # of the growmap
    draws: tuple[object, ...] | None  # how children are chosen
    span: int
    leases: tuple[int, ...]


@dataclass(eq=False)  # without slots, to be referred to weakly
class Loop:
    """What recordings of a tree read and write at fixed addresses, over whatever span."""

    plan: GrowPlan
    choose: ChildChooser  # its generator is not used
    vocab_ids: Tensor | None  # held for as long as a recording may read them
    token_ids: Tensor  # int64 [READ]
    slots: Tensor  # int64 [READ], where they go in the cache
    before: Tensor  # int64 [READ, READ], those slots from the root's, for 1 to READ tokens
    bordered: Tensor  # what the row before the root, the root, and the inner nodes below it see
    uniforms: Sequence[Tensor]  # float64 [n, numbers] of each level; see `SampledChildren`
    drafted: Drafted
    checks: Counter[tuple[int, tuple[int, ...]]] = field(default_factory=Counter)

    @classmethod
    def of(cls, draft: DraftModel, llama: Llama, plan: GrowPlan, choose: ChildChooser) -> "Loop":
        inner, count, device = list(plan.inner_rows), plan.growmap.size, llama.device
        # the token before the root is visible to all; its row, where it is read, sees itself
        seen = functional.pad(plan.growmap.ancestor_mask()[inner][:, inner], (1, 0, 1, 0))
        seen[:, 0] = True

        def integers(size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        uniforms = [
            torch.zeros(
                (level.nodes, choose.numbers(draft.columns, level.draws)),
                dtype=torch.float64,
                device=device,
            )
            for level in plan.levels
            if isinstance(choose, SampledChildren)
        ]
        nodes = DeviceNodes(integers(count), integers(count), torch.zeros(count, device=device))
        return cls(
            plan=plan,
            choose=choose,
            vocab_ids=draft.vocab_ids,
            token_ids=integers(READ),
            slots=integers(READ),
            before=torch.tensor([[FAR, 0], [-1, 0]], device=device),
            bordered=llama.bordered(seen.to(device)),
            uniforms=uniforms,
            drafted=Drafted(nodes, torch.zeros((len(inner), draft.columns), device=device)),
        )

    def fill(self, pending: Tensor, root: int, choose: ChildChooser) -> None:
        """Take the pending tokens, at most READ, the last for the slot `root`; draw the numbers."""
        count = len(pending)
        self.token_ids[READ - count :].copy_(pending)
        torch.add(self.before[count - 1], root, out=self.slots)
        if isinstance(choose, SampledChildren):
            for uniforms in self.uniforms:  # with the generator's calls of `SampledChildren`
                uniforms.uniform_(generator=choose.generator)

    def recording(
        self, graphs: Graphs, llama: Llama, cache: LayeredKVCache, span: int
    ) -> Recording["Loop"] | None:
        """What drafts a tree from what was filled in, within so many tokens; see `Graphs`."""
        key = LoopKey(self.plan.growmap.parents, _draws(self.choose), span, cache.lease_numbers)
        if key not in graphs.known:
            self.slots.fill_(FAR)  # no token's row is harmed
            self.checks.pop((span, cache.lease_numbers), None)
        return graphs.recording(key, partial(self.draft, llama, cache, span), Rung.LOOPS)

    def prepare(
        self, graphs: Graphs, llama: Llama, cache: LayeredKVCache, span: int, longer: int
    ) -> bool:
        """Record over a longer span what is over this one; False if there is nothing to do."""
        key = LoopKey(self.plan.growmap.parents, _draws(self.choose), span, cache.lease_numbers)
        if key not in graphs.known or key._replace(span=longer) in graphs.known:
            return False
        return self.recording(graphs, llama, cache, longer) is not None

    def draft(self, llama: Llama, cache: LayeredKVCache, span: int) -> "Loop":
        """Draft a tree: the work of a recording, which holds the loop, as its output."""
        rows, root = 1 + len(self.plan.inner_rows), self.slots[-1]  # the row before the root first
        whole = llama.attention.whole(least_tokens(span) - rows)
        bias = llama.bias_at(self.bordered, root - 1, span, whole).view(-1, rows, span - whole)
        places = torch.arange(-1, rows - 1, device=llama.device)
        slots = (places + root).clamp_(max=cache.scratch)

        def logits(
            ids: Tensor, positions: Tensor, at: slice, slots: Tensor, parents: Tensor | None
        ) -> Tensor:
            seen = bias[:, at].reshape(-1, span - whole)
            return llama.logits(llama.rows_at(ids, positions, slots, seen, cache, parents, whole))

        def read(level: LevelPlan, ids: Tensor) -> Tensor:
            at = slice(1 + level.first, 1 + level.first + len(ids))
            positions = (root + level.depth).expand(len(ids))
            parents = slots[level.parents + at.start] if llama.config.feature_layers else None
            return logits(ids, positions, at, slots[at], parents)

        pending, first = self.slots.clamp(max=cache.scratch), slice(READ)
        after = logits(self.token_ids, places[first] + root, first, pending, None)[-1:]
        draft, chosen = DraftModel(llama, self.vocab_ids), _chooser(self.choose, self.uniforms)
        after = draft.without_padding(after)
        found = grow_levels(draft, self.plan.levels, self.token_ids[-1:], after, chosen, read)
        # the memory of a recording is another one's as well
        for output, value in zip(_tensors(self.drafted), _tensors(found), strict=True):
            output.copy_(value)
        return self

    def is_right(
        self, llama: Llama, cache: LayeredKVCache, pending: Tensor, uniforms: Sequence[Tensor]
    ) -> bool:
        """Whether it is a tree that `grow` drafts of these numbers, up to rounding; waits.

        The cache gets its rows appended. Each node is chosen anew, and the tree's is taken.
        """
        choose, draft = _chooser(self.choose, uniforms), DraftModel(llama, self.vocab_ids)
        widths = [len(level.take) for level in self.plan.levels]
        columns = iter(torch.split(self.drafted.nodes.columns[1:], widths))
        agreeing: list[Tensor] = []

        def chosen(level: LevelPlan, logits: Tensor) -> tuple[Tensor, Tensor]:
            drawn, probs = choose(level, logits)
            flat, taken = drawn.flatten(), next(columns)
            agreeing.append(flat[level.take] == taken)
            flat[level.take] = taken
            return flat.view_as(drawn), probs

        expected = grow_by_forwards(draft, llama.forward_eagerly, self.plan, pending, cache, chosen)
        stated, ids = expected.draft_probs, expected.nodes.token_ids
        allowed = ROUNDING[llama.dtype] * stated.amax()
        close = (self.drafted.draft_probs - stated).abs().amax(-1) <= allowed  # [I]
        shares = torch.stack([each.double().mean() for each in (close, torch.cat(agreeing))])
        cuts = isinstance(self.choose, SampledChildren) and self.choose.params.shapes
        least = shares.new_tensor((AGREEING if cuts else 1.0, AGREEING))
        return bool((shares >= least).all() & (self.drafted.nodes.token_ids == ids).all())


class DraftLoops:
    """`draft.grow` of one draft, by recordings as far as they are made."""

    def __init__(
        self,
        draft: DraftModel,
        llama: Llama,  # the draft's model, without a wrapper
        recorded: RecordedForward,  # its
        timing: Callable[[], AbstractContextManager[None]] = nullcontext,  # of a replay
    ) -> None:
        self._draft, self._llama, self._timing = draft, llama, timing
        self._graphs, self._loops = recorded.graphs, recorded.loops

    def grow(
        self, plan: GrowPlan, pending: Tensor, cache: KVCache, choose: ChildChooser
    ) -> TokenTree:
        """See `draft.grow`. The tensors of a tree hold until the next one of its shape."""
        assert isinstance(cache, LayeredKVCache)
        draws, stated = _draws(choose), len(plan.inner_rows) * self._draft.columns
        before = cache.length + len(pending) - 1  # tokens before the root; it must see one of them
        unseen = self._llama.unseen_rows
        begins = before <= unseen or cache.length < unseen
        if draws is None or begins or stated > MOST_STATED or self._graphs.rung < Rung.LOOPS:
            return grow(self._draft, plan, pending, cache, choose)
        if len(early := pending[:-READ]):
            read_pending(self._draft.model.forward, early, cache)
            pending = pending[-READ:]
        length, rows = cache.length, len(pending) - 1 + len(plan.inner_rows)
        cache.reserve(rows)
        loop = self._loop(plan, choose)
        span = span_bucket(length + rows, cache.capacity)
        recording = loop.recording(self._graphs, self._llama, cache, span)
        if recording is None:
            return grow(self._draft, plan, pending, cache, choose)
        loop.fill(pending, length + len(pending) - 1, choose)
        loop.checks[span, cache.lease_numbers] += 1
        checks = loop.checks[span, cache.lease_numbers] <= CHECKED
        uniforms = [each.clone() for each in loop.uniforms] if checks else []
        with self._timing():
            recording.replay()
        if not checks:
            cache.advance(rows)
        elif not loop.is_right(self._llama, cache, pending, uniforms):
            self._graphs.step_down(Rung.FORWARDS, "a tree was drafted otherwise than without")
            cache.truncate(length)
            return grow(self._draft, plan, pending, cache, choose)
        return plan.tree(self._draft, loop.drafted)

    def _loop(self, plan: GrowPlan, choose: ChildChooser) -> Loop:
        """Of a tree and a choice, for as long as there are recordings of it."""
        kind = plan.growmap.parents, _draws(choose)
        loop = self._loops.get(kind)
        if not isinstance(loop, Loop):
            loop = self._loops[kind] = Loop.of(self._draft, self._llama, plan, choose)
        return loop


def _draws(choose: ChildChooser) -> tuple[object, ...] | None:
    """What a recording has of it in itself; None if it cannot be recorded."""
    if choose is top_children:
        return ()
    if isinstance(choose, SampledChildren):
        params = choose.params
        return choose.replaced, params.temperature, params.top_k, params.top_p
    return None


def _chooser(choose: ChildChooser, uniforms: Sequence[Tensor]) -> LevelChooser:
    def chosen(level: LevelPlan, logits: Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(choose, SampledChildren):
            return choose.given(uniforms[level.depth - 1], logits, level.draws)
        return choose(logits, level.draws)

    return chosen


def _tensors(drafted: Drafted) -> tuple[Tensor, ...]:
    return (*drafted.nodes, drafted.draft_probs)


def grower(draft: DraftModel) -> Grow:
    """`draft.grow`, by recordings where the draft computes by them."""
    model = getattr(draft.model, "untimed", draft.model)
    if not isinstance(model, Llama) or model.recorded is None:
        return partial(grow, draft)
    timing = getattr(draft.model, "timing", nullcontext)
    return DraftLoops(draft, model, model.recorded, timing).grow
