"""One decoding step: draft a tree, score it with the target, let a rule judge it.

Owns the two models' part in a step. It knows neither events nor text; what is kept of the result is
committed to the ledger by the engine, which knows where the answer ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sequoia_core import verify
from sequoia_core.config import SamplingParams
from sequoia_core.draft import (
    ChildChooser,
    DraftModel,
    GrowPlan,
    grow,
    sampled_children,
    top_children,
)
from sequoia_core.growmap import GrowMap
from sequoia_core.ledger import Ledger
from sequoia_core.protocols import LanguageModel
from sequoia_core.token_tree import ScoredTree, TokenTree, score
from sequoia_core.trees import ROOT
from sequoia_core.verify import AcceptanceRule, Verdict

MOST_PENDING = 32
"""Tokens the draft may lag behind before they are read apart from a tree's first level."""


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

    @classmethod
    def of(cls, params: SamplingParams, device: torch.device) -> "Sampler":
        """Greedy at temperature 0, sampling without replacement above.

        Args:
            params: a seed makes the answer repeatable on the same machine.
            device: of the draft, where its noise is drawn.
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
        return cls(params, sampled_children(params, noise), verify.sequoia, generator)


class Speculator:
    """Runs steps of one pair of models on one ledger.

    Args:
        target: decides.
        draft: proposes; None allows only the one-node tree.
        ledger: both models' caches.
    """

    def __init__(self, target: LanguageModel, draft: DraftModel | None, ledger: Ledger) -> None:
        self._target, self._draft, self._ledger = target, draft, ledger
        self._plans: dict[GrowMap, GrowPlan] = {}

    @torch.inference_mode()
    def step(self, growmap: GrowMap, sampler: Sampler) -> tuple[ScoredTree, Verdict]:
        """Speculate once. The caches hold all the tree's rows until `keep` says which stay."""
        plan = self._plan(growmap)
        tree = self._root_only() if growmap.size == 1 else self._grown(plan, sampler)
        scored = score(tree, self._scores(tree, plan), sampler.params)
        return scored, sampler.rule(scored, sampler.generator)

    def keep(self, growmap: GrowMap, path: Sequence[int], emitted: Sequence[int]) -> None:
        """Commit a step: the rows of `path` (root first) stay, `emitted` joins the ledger."""
        inner_rows = self._plan(growmap).inner_rows
        draft_rows = [inner_rows[node] for node in path if node in inner_rows]
        self._ledger.commit(emitted, path, draft_rows)

    def fits(self, growmap: GrowMap) -> bool:
        """Whether both models' context windows have room for the tree now."""
        committed = len(self._ledger.token_ids)
        if committed - 1 + growmap.size > self._target.context_window:
            return False
        if growmap.size == 1:
            return True
        assert self._draft is not None
        inner = len(self._plan(growmap).inner_rows)
        return committed - 1 + inner <= self._draft.model.context_window

    def _plan(self, growmap: GrowMap) -> GrowPlan:
        plan = self._plans.get(growmap)
        if plan is None:
            plan = self._plans[growmap] = GrowPlan.of(growmap, self._target.device)
        return plan

    def _grown(self, plan: GrowPlan, sampler: Sampler) -> TokenTree:
        assert self._draft is not None
        assert self._ledger.draft_cache is not None
        self._ledger.read_draft_prompt(MOST_PENDING)
        pending, cache = self._ledger.draft_pending, self._ledger.draft_cache
        return grow(self._draft, plan, pending, cache, sampler.choose)

    def _root_only(self) -> TokenTree:
        device = self._target.device
        return TokenTree(
            growmap=ROOT,
            parents=torch.zeros(1, dtype=torch.int64, device=device),
            columns=torch.zeros(1, dtype=torch.int64, device=device),
            token_ids=torch.tensor(self._ledger.token_ids[-1:], device=device),
            node_probs=torch.ones(1, device=device),
            draft_probs=torch.empty((0, 0), device=device),
            inner_rows={},
            vocab_ids=None,
        )

    def _scores(self, tree: TokenTree, plan: GrowPlan) -> torch.Tensor:
        """The target's logits [T, V] under the tree mask; a node's position is S + depth."""
        root = len(self._ledger.token_ids) - 1
        mask = None
        if plan.growmap.size > 1:
            prefix = plan.mask.new_ones((plan.growmap.size, root))
            mask = torch.cat((prefix, plan.mask), dim=1)
        return self._target.forward(
            tree.token_ids, plan.depths + root, mask, self._ledger.target_cache
        )
