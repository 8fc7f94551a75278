"""One decoding step: draft a tree, score it with the target, let a rule judge it.

Owns the two models' part in a step, and what it learns from one for adaptive trees and look-ups. It
knows neither events nor text; what is kept of the result is committed to the ledger by the engine,
which knows where the answer ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.token_cache import Ledger
from sequoia_core.model.interface import KVCache, LanguageModel, TreeReader, TreeRows
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.speculate import verify
from sequoia_core.speculate.adaptive_draft import Drafting, FixedShape, Growth, grow_adaptive
from sequoia_core.speculate.adaptive_policy import AdaptivePolicy, Continuation, Limits
from sequoia_core.speculate.cost_model import Economy, StepCosts
from sequoia_core.speculate.draft import (
    ChildChooser,
    DraftModel,
    GrowPlan,
    SampledChildren,
    grow,
    level_draw,
    replaced_children,
    top_children,
)
from sequoia_core.speculate.graft import graft
from sequoia_core.speculate.prompt_lookup import Lookups
from sequoia_core.speculate.token_tree import (
    ScoredTree,
    TokenTree,
    TreeLayout,
    device_ids,
    host_values,
    score,
    scored,
)
from sequoia_core.speculate.verify import AcceptanceRule, Verdict
from sequoia_core.tree.choice import ROOT, AdaptiveTree, Tree
from sequoia_core.tree.growmap import GrowMap

MOST_PENDING = 32
"""Tokens the draft may lag behind before they are read apart from a tree's first level."""

KEPT_LAYOUTS = 64
"""Shapes of trees whose index tensors are kept."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """How one answer's children are chosen and judged. All its randomness is fresh each step.

    Attributes:
        params: shape of the target's distribution.
        choose: children from draft logits.
        rule: which of them the target keeps.
        generator: on the CPU, for the rule.
    """

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
        """Greedy at temperature 0; above it as the mode says, without replacement by default.

        Args:
            params: a seed makes the answer repeatable on the same machine.
            device: of the draft, where its noise is drawn.
            mode: whose children and rule are wanted.
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
        if mode is Mode.TOPK:
            return cls(params, top_children, verify.topk, generator)
        if mode is Mode.SPECINFER:
            return cls(params, replaced_children(params, noise), verify.specinfer, generator)
        return cls(params, SampledChildren(params, noise), verify.sequoia, generator)


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A tree to be verified.

    Attributes:
        tree: as drafted and grafted.
        passes: rows of each drafting pass.
        growth: what the draft said, for a tree whose shape followed it.
    """

    tree: TokenTree
    passes: tuple[int, ...]
    growth: Growth | None = None


class Speculator:
    """Runs steps of one pair of models on one ledger.

    Args:
        target: decides.
        draft: proposes; None allows only the one-node tree and what is looked up.
        ledger: both models' caches.
        endings: tokens after which nothing follows.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: DraftModel | None,
        ledger: Ledger,
        endings: frozenset[int] = frozenset(),
    ) -> None:
        self._target, self._draft, self._ledger = target, draft, ledger
        self._target_reader = target if isinstance(target, TreeReader) else None
        # the columns that a padded head has too many are no children
        known = draft is not None and draft.columns == draft.model.vocab_size
        model = draft.model if draft is not None and known else None
        self._draft_reader = model if isinstance(model, TreeReader) else None
        self._plans: dict[tuple[int, ...], GrowPlan] = {}  # a shape, whatever it is called
        self._layouts: dict[tuple[int, ...], TreeLayout] = {}
        self._economy = Economy()
        self._policies = {greedy: AdaptivePolicy(self._economy, greedy) for greedy in (True, False)}
        self._lookups = Lookups(self._economy, endings)

    @property
    def reads_trees(self) -> bool:
        """Whether both models read a tree in one call, so that one more level costs little."""
        return self._target_reader is not None and self._draft_reader is not None

    def reckon(self, costs: StepCosts) -> None:
        """Price rows and drafting passes by these times from now on."""
        self._economy.use(costs)

    @torch.inference_mode()
    def step(
        self, shape: Tree, sampler: Sampler, lookup: Lookup = Lookup.OFF
    ) -> tuple[ScoredTree, Verdict]:
        """Speculate once. The caches hold all the tree's rows until `keep` says which stay.

        Raises:
            MemoryFullError: the tree does not fit into the memory; nothing was judged yet.
        """
        with memory_errors(self.memory_full):
            if isinstance(shape, AdaptiveTree):
                proposal = self._adaptive(shape, sampler, lookup)
            else:
                proposal = self._fixed(shape, sampler, lookup)
            scored = self._scored(proposal.tree, sampler.params)
        verdict = sampler.rule(scored, sampler.generator)
        self._learn(proposal, scored, verdict, sampler.greedy)
        return scored, verdict

    def keep(self, scored: ScoredTree, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Commit a step: the rows of `path` (root first) stay, `emitted` joins the ledger."""
        read = scored.tree.inner_rows
        self._ledger.commit(emitted, path, [read[node] for node in path if node in read])

    def memory_full(self) -> str:
        """What to do where not even a plain step fits into the memory, one line."""
        return (
            f"the memory of {self._target.device} is full at {len(self._ledger.token_ids):,} "
            "tokens of context; clear the chat or shorten the message, or start again with a "
            "smaller model, another dtype or --offload"
        )

    def fits(self, shape: Tree) -> bool:
        """Whether both models' context windows have room for the tree now.

        An adaptive tree is cut to the room there is, so it needs only that of its root.
        """
        committed = len(self._ledger.token_ids)
        size = 1 if isinstance(shape, AdaptiveTree) else shape.size
        if committed - 1 + size > self._target.context_window:
            return False
        if shape.size == 1:
            return True
        assert self._draft is not None
        read = 1 if isinstance(shape, AdaptiveTree) else len(self._plan(shape).inner_rows)
        return committed - 1 + read <= self._draft.model.context_window

    def _fixed(self, growmap: GrowMap, sampler: Sampler, lookup: Lookup) -> _Proposal:
        plan = self._plan(growmap)
        if growmap.size == 1:
            tree = self._root_only()
        else:
            assert self._draft is not None
            pending, cache = self._draft_state()
            if self._draft_reader is not None and level_draw(sampler.choose) is not None:
                drafting = self._drafting(sampler, growmap.branching)
                grown = grow_adaptive(drafting, FixedShape(growmap), pending, cache)
                tree = replace(grown.tree, growmap=growmap)
            else:
                tree = grow(self._draft, plan, pending, cache, sampler.choose)
        known = self._known(lookup, self._target_room() - growmap.size, growmap.size)
        return _Proposal(graft(tree, known.token_ids), plan.passes)

    def _adaptive(self, bounds: AdaptiveTree, sampler: Sampler, lookup: Lookup) -> _Proposal:
        assert self._draft is not None
        room = min(bounds.size, self._target_room())
        known = self._known(lookup, room - 1, 1)
        pending, cache = self._draft_state()
        draft_room = self._draft.model.context_window - len(self._ledger.token_ids) + 1
        limits = Limits(room, bounds.depth, bounds.branching, draft_room)
        policy = self._policies[sampler.greedy].step(limits, known)
        drafting = self._drafting(sampler, bounds.branching)
        growth = grow_adaptive(drafting, policy, pending, cache)
        return _Proposal(graft(growth.tree, known.token_ids), policy.passes, growth)

    def _drafting(self, sampler: Sampler, width: int) -> Drafting:
        assert self._draft is not None
        return Drafting(self._draft, sampler.choose, sampler.greedy, width, self._draft_reader)

    def _known(self, lookup: Lookup, room: int, rows: int) -> Continuation:
        return self._lookups.propose(self._ledger.token_ids, lookup, room, rows)

    def _target_room(self) -> int:
        return self._target.context_window - len(self._ledger.token_ids) + 1

    def _draft_state(self) -> tuple[list[int], KVCache]:
        """What the draft must read before it can go on, the root last, and its cache."""
        assert self._ledger.draft_cache is not None
        for _ in self._ledger.read_draft_prompt(MOST_PENDING):
            pass
        return self._ledger.draft_pending, self._ledger.draft_cache

    def _learn(
        self, proposal: _Proposal, scored: ScoredTree, verdict: Verdict, greedy: bool
    ) -> None:
        path = verdict.path
        emitted = [*(scored.token_ids[node] for node in path[1:]), verdict.bonus_token]
        self._economy.record(len(emitted), scored.growmap.size, proposal.passes)
        self._lookups.learn(emitted)
        if proposal.growth is not None:
            self._policies[greedy].learn(proposal.growth.seen(scored.tree, path, emitted))

    def _plan(self, growmap: GrowMap) -> GrowPlan:
        plan = self._plans.get(growmap.parents)
        if plan is None:
            plan = self._plans[growmap.parents] = GrowPlan.of(growmap, self._target.device)
        return plan

    def _root_only(self) -> TokenTree:
        device = self._target.device
        return TokenTree(
            growmap=ROOT,
            token_ids=(self._ledger.token_ids[-1],),
            columns=(0,),
            node_probs=(1.0,),
            draft_probs=torch.empty((0, 0), device=device),
            inner_rows={},
            vocab_ids=None,
        )

    def _scored(self, tree: TokenTree, params: SamplingParams) -> ScoredTree:
        """The target's logits [T, V] under the tree mask; a node's position is S + depth."""
        root, size = len(self._ledger.token_ids) - 1, tree.growmap.size
        plan, cache = self._plans.get(tree.growmap.parents), self._ledger.target_cache
        layout = plan.layout if plan else self._layout(tree.growmap)
        if self._target_reader is not None:
            values = host_values(tree)
            rows = TreeRows(values[0], root, layout.paths)
            logits, summary = self._target_reader.read_tree(
                rows, layout.host_parents, params.temperature or 1.0, cache
            )
            return scored(tree, values, logits, params, summary)
        mask = None
        if size > 1:
            prefix = layout.mask.new_ones((size, root))
            mask = torch.cat((prefix, layout.mask), dim=1)
        ids = device_ids(tree, self._target.device)
        logits = self._target.forward(ids, layout.depths + root, mask, cache)
        return score(replace(tree, token_ids=ids), logits, params, layout)

    def _layout(self, growmap: GrowMap) -> TreeLayout:
        """Of a shape that is decided each step; they are few, and come again."""
        layout = self._layouts.get(growmap.parents)
        if layout is None:
            if len(self._layouts) == KEPT_LAYOUTS:
                self._layouts.clear()
            layout = TreeLayout.of(growmap, self._target.device)
            self._layouts[growmap.parents] = layout
        return layout
