"""One decoding step: draft a tree, score it with the target, verify it, commit what is kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.errors import GrowMapError
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.interface import KVCache, LanguageModel, TreeReader, TreeRows
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.model.step_inputs import NODES, UNIFORMS, StepInputs
from sequoia_core.speculate import verify
from sequoia_core.speculate.adaptive_draft import (
    BestPaths,
    DraftedTree,
    FixedShape,
    grow_adaptive,
)
from sequoia_core.speculate.adaptive_policy import AdaptivePolicy
from sequoia_core.speculate.appended_path import append_path
from sequoia_core.speculate.cost_model import CostModel
from sequoia_core.speculate.draft import (
    ChildChooser,
    DraftModel,
    GrowPlan,
    SampledChildren,
    level_draw,
    top_children,
)
from sequoia_core.speculate.draft_loop import grower
from sequoia_core.speculate.grown_plan import Relations, filled_up, looked_up
from sequoia_core.speculate.judging import rule_of
from sequoia_core.speculate.prompt_lookup import PromptLookup
from sequoia_core.speculate.scored_tree import ScoredTree, Uniforms, score
from sequoia_core.speculate.token_tree import DeviceNodes, FilledNodes, HostNodes, TokenTree
from sequoia_core.speculate.verify import AcceptanceRule, Verdict
from sequoia_core.tree.choice import ROOT, AdaptiveTree, DynamicTree, Tree
from sequoia_core.tree.growmap import GrowMap

MOST_PENDING = 32  # tokens the draft may lag behind; more are not left to a tree's first level
KEPT_PLANS = 64  # shapes whose index tensors are kept; those of adaptive trees are few


@dataclass(frozen=True, slots=True)
class Sampler:
    """How one answer's children are chosen from draft logits and judged."""

    params: SamplingParams
    choose: ChildChooser
    rule: AcceptanceRule
    generator: torch.Generator

    @property
    def greedy(self) -> bool:
        """Children are the draft's most probable tokens, and at most one of them is right."""
        return self.params.temperature == 0.0

    @classmethod
    def of(
        cls, params: SamplingParams, device: torch.device, mode: Mode = Mode.SEQUOIA
    ) -> "Sampler":
        """Greedy at temperature 0; above it by the mode, without replacement by default.

        A seed makes the answer repeatable on the same machine; noise is drawn on the draft's
        device.
        """
        generator = torch.Generator()
        if params.seed is None:
            generator.seed()
        else:
            generator.manual_seed(params.seed)
        if params.temperature == 0.0:
            return cls(params, top_children, verify.greedy, generator)
        noise = generator
        if device.type != "cpu":
            noise = torch.Generator(device).manual_seed(generator.initial_seed())
        choose: ChildChooser = SampledChildren(params, noise, replaced=mode is Mode.SPECINFER)
        if mode is Mode.TOPK:
            choose = top_children
        return cls(params, choose, rule_of(mode, device), generator)


class _Proposal(NamedTuple):
    """A tree to be verified and the rows of each drafting pass; `drafted` is an adaptive tree's."""

    tree: TokenTree
    passes: Sequence[int]
    uniforms: Tensor | None = None  # of the verdict, where they were uploaded before
    drafted: DraftedTree | None = None


class Speculator:
    """Runs steps of one pair of models on their caches; without a draft, of one node and look-ups.

    Nothing is looked up after one of `endings`.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: DraftModel | None,
        cache: TokenCache,
        endings: frozenset[int] = frozenset(),
        graphs: Graphs | None = None,
    ) -> None:
        self._target, self._draft, self._cache = target, draft, cache
        self._graphs = graphs
        self._inputs = graphs.inputs if graphs else None
        if self._inputs is None and target.device.type == "cuda":
            self._inputs = StepInputs(target.device)
        self._deferring = [
            each
            for each in (cache.target_cache, cache.draft_cache)
            if self._inputs and isinstance(each, LayeredKVCache) and each.devices == {target.device}
        ]
        for each in self._deferring:
            each.defers = True
        self._grow = grower(draft) if draft else None
        self._target_reader = target if isinstance(target, TreeReader) else None
        self._plan = lru_cache(KEPT_PLANS)(partial(GrowPlan, device=target.device))
        self.costs = CostModel()
        self._policies = {greedy: AdaptivePolicy(self.costs, greedy) for greedy in (True, False)}
        self._lookup = PromptLookup(self.costs, endings)

    @torch.inference_mode()
    def step(
        self, shape: Tree, sampler: Sampler, lookup: Lookup = Lookup.OFF
    ) -> tuple[ScoredTree, Verdict]:
        """Draft, score, verify. The caches hold all the tree's rows until `commit`.

        Raises MemoryFullError, before anything was judged, if the tree does not fit into memory,
        and GrowMapError if a node of it has more children than the draft has tokens.
        """
        with memory_errors(self.memory_full):
            if isinstance(shape, DynamicTree):
                proposal = self._draft_dynamic(shape, sampler, lookup)
            elif isinstance(shape, AdaptiveTree):
                proposal = self._draft_adaptive(shape, sampler, lookup)
            else:
                proposal = self._draft_fixed(shape, sampler, lookup)
            scored = self._score(proposal.tree, sampler.params, proposal.uniforms)
        verdict = sampler.rule(scored, sampler.generator)
        self._learn(proposal, scored, verdict, sampler.greedy)
        return scored, verdict

    def commit(self, scored: ScoredTree, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Keep the cache rows of `path`, root first, and add `emitted` to the tokens."""
        read = scored.tree.inner_rows
        rows = [scored.rows[node] for node in path]
        self._cache.commit(emitted, rows, [read[node] for node in path if node in read])

    def _draft_fixed(self, growmap: GrowMap, sampler: Sampler, lookup: Lookup) -> _Proposal:
        room = self._room() - growmap.size
        known = self._lookup.propose(self._cache.token_ids, lookup, room, growmap.size).token_ids
        path = looked_up(known, room, self._inputs) if self._inputs else None
        uniforms = self._uniforms(growmap.size + (len(path.filled) if path else 0), sampler)
        if growmap.size == 1:
            root = HostNodes((self._cache.token_ids[-1],), (0,), (1.0,))
            nothing = torch.empty((0, 0), device=self._target.device)
            ids = self._uploaded(root.token_ids) if self._inputs else None
            tree = TokenTree(ROOT, root, nothing, {}, device_ids=ids)
            if path and ids is not None:
                nodes = DeviceNodes(ids, torch.zeros_like(ids), torch.ones_like(ids).float())
                tree = TokenTree(ROOT, nodes, nothing, {})
        else:
            assert self._draft is not None
            assert self._grow is not None
            draft, choose = self._draft, sampler.choose
            if growmap.branching > draft.columns:
                raise GrowMapError(
                    f"growmap {growmap.name!r} draws {growmap.branching} children at a node, but "
                    f"the draft knows only {draft.columns} tokens"
                )
            pending, cache = self._draft_state()
            if draft.reader is not None and level_draw(choose) is not None:
                drafted = grow_adaptive(draft, FixedShape(growmap), pending, cache, choose)
                tree = replace(drafted.tree(), growmap=growmap)
            else:
                tree = self._grow(self._plan(growmap), self._uploaded(pending), cache, choose)
        tree = replace(tree, grown=path) if path else append_path(tree, known)
        return _Proposal(tree, growmap.passes, uniforms)

    def _uniforms(self, count: int, sampler: Sampler) -> Tensor | None:
        """The numbers of a verdict, for the upload; None where it draws them itself."""
        inputs, on_host = self._inputs, self._target.device.type == "cpu"
        if inputs is None or on_host or sampler.greedy or count > UNIFORMS:
            return None
        found = torch.rand(count, generator=sampler.generator, dtype=torch.float64)
        inputs.set("uniforms", found.tolist())
        return found

    def _uploaded(self, pending: Sequence[int]) -> Tensor:
        """Token ids on the device, int64 [n], until the next step; all else goes there as well."""
        if self._inputs is None:
            return torch.tensor(pending, device=self._target.device)
        self._inputs.set("pending", pending)
        self._inputs.upload(self._deferring, self._graphs)
        return self._inputs["pending"][: len(pending)]

    def _draft_adaptive(self, bounds: AdaptiveTree, sampler: Sampler, lookup: Lookup) -> _Proposal:
        assert self._draft is not None
        room = min(bounds.size, self._room())
        known = self._lookup.propose(self._cache.token_ids, lookup, room - 1, 1)
        pending, cache = self._draft_state()
        bounds = replace(bounds, size=room)
        policy = self._policies[sampler.greedy].step(bounds, self._draft_room(), known)
        upload, choose = self._uploaded, sampler.choose
        drafted = grow_adaptive(self._draft, policy, pending, cache, choose, upload)
        tree = append_path(drafted.tree(), known.token_ids)
        return _Proposal(*self._brought(tree, policy.passes, sampler), drafted)

    def _draft_dynamic(self, shape: DynamicTree, sampler: Sampler, lookup: Lookup) -> _Proposal:
        assert self._draft is not None
        room = self._room()
        pending, cache = self._draft_state()
        policy = BestPaths(shape, min(shape.size, room), self._draft_room())
        upload, choose = self._uploaded, sampler.choose
        drafted = grow_adaptive(self._draft, policy, pending, cache, choose, upload)
        tree = drafted.part(policy.best(), shape.name)
        size = tree.growmap.size
        known = self._lookup.propose(self._cache.token_ids, lookup, room - size, size)
        tree = append_path(tree, known.token_ids)
        return _Proposal(*self._brought(tree, policy.passes, sampler))

    def _brought(
        self, tree: TokenTree, passes: Sequence[int], sampler: Sampler
    ) -> tuple[TokenTree, Sequence[int], Tensor | None]:
        """A tree that the host has grown, where one copy brings all of it to the device."""
        if self._inputs is None or max(tree.growmap.size, len(tree.draft_probs)) > NODES:
            return tree, passes, None
        uniforms = self._uniforms(tree.growmap.size, sampler)
        tree = filled_up(tree, self._room(), self._inputs)
        self._inputs.upload(self._deferring, self._graphs)
        return tree, passes, uniforms

    def _score(
        self, tree: TokenTree, params: SamplingParams, uniforms: Tensor | None
    ) -> ScoredTree:
        """The target's logits [T, V] under the tree mask; a node's position is S + depth."""
        root, cache = len(self._cache.token_ids) - 1, self._cache.target_cache
        plan = self._plan(tree.read_shape)
        if self._target_reader is not None:
            nodes = tree.on_host()
            rows = TreeRows(nodes.token_ids, root, plan.paths)
            logits, summary = self._target_reader.read_tree(
                rows, plan.host_parents, params.temperature or 1.0, cache
            )
            return ScoredTree(replace(tree, nodes=nodes), logits, params, summary)
        ids = tree.ids_on(self._target.device)
        if isinstance(tree.grown, FilledNodes):
            parents = tree.grown.parents
            mask = Relations.of(parents, tree.grown.levels).visible()
            depths = mask.sum(1) - 1
        else:
            mask, depths, parents = plan.mask, plan.depths, plan.parents
        seen = mask if len(ids) > 1 else None
        logits = self._target.forward(ids, depths + root, seen, cache)
        if uniforms is None or len(uniforms) < tree.read_shape.size:  # without a look-up
            return score(tree, logits, params, parents, ids)
        assert self._inputs is not None
        there = self._inputs["uniforms"][: len(ids)]
        return ScoredTree(tree, logits, params, None, Uniforms(uniforms, there, self._graphs))

    def _learn(
        self, proposal: _Proposal, scored: ScoredTree, verdict: Verdict, greedy: bool
    ) -> None:
        emitted = scored.emitted(verdict.path, verdict.bonus_token)
        self.costs.record(len(emitted), scored.growmap.size, proposal.passes)
        self._lookup.learn(emitted)
        if proposal.drafted is not None:
            outcomes = proposal.drafted.outcomes(scored.tree, verdict.path, emitted)
            self._policies[greedy].learn(outcomes)

    @property
    def reads_trees(self) -> bool:
        """Whether both models read a tree in one call, so that one more level costs little."""
        draft_reader = self._draft.reader if self._draft else None
        return self._target_reader is not None and draft_reader is not None

    def memory_full(self) -> str:
        return (
            f"the memory of {self._target.device} is full at {len(self._cache.token_ids):,} "
            "tokens of context; clear the chat or shorten the message, or start again with a "
            "smaller model, another dtype or --offload"
        )

    def fits(self, shape: Tree) -> bool:
        """Whether both context windows have room; an adaptive tree, which is cut, needs a row."""
        if self._room() < (1 if isinstance(shape, AdaptiveTree) else shape.size):
            return False
        if shape.size == 1:
            return True
        assert self._draft is not None
        read = 1 if isinstance(shape, AdaptiveTree) else sum(shape.passes)
        return len(self._cache.token_ids) - 1 + read <= self._draft.model.context_window

    def _room(self) -> int:
        """Rows that the target's context window has left, the root's included."""
        return self._target.context_window - len(self._cache.token_ids) + 1

    def _draft_room(self) -> int:
        """The same of the draft's."""
        assert self._draft is not None
        return self._draft.model.context_window - len(self._cache.token_ids) + 1

    def _draft_state(self) -> tuple[list[int], KVCache]:
        """What the draft must read before it can go on, the root last, and its cache."""
        assert self._cache.draft_cache is not None
        for _ in self._cache.read_draft_prompt(MOST_PENDING):
            pass
        return self._cache.draft_pending, self._cache.draft_cache
