"""Positional acceptance rates of a pair: how often the k-th drawn child is the accepted one.

Owns the counting (Sequoia, section 3.1): at every position of a text that the target wrote,
children are drawn from the draft and held against the target by the very rule that decodes. Knows
nothing of time.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.draft import DraftModel
from sequoia_core.growmap import GrowMap
from sequoia_core.protocols import KVCache, LanguageModel
from sequoia_core.speculator import Sampler
from sequoia_core.token_tree import TokenTree, score


class AcceptanceCount:
    """Counts of accepted ranks over many positions.

    Args:
        width: children drawn at each position.
    """

    def __init__(self, width: int) -> None:
        self.positions = 0
        self._star = GrowMap.k_ary([width])
        self._accepted: Counter[int] = Counter()

    @property
    def rates(self) -> tuple[float, ...]:
        """a_1 to a_width; empty before anything was counted."""
        if not self.positions:
            return ()
        ranks = range(1, self._star.branching + 1)
        return tuple(self._accepted[rank] / self.positions for rank in ranks)

    @torch.inference_mode()
    def count(
        self, target: LanguageModel, draft: DraftModel, text: tuple[Sequence[int], int],
        sampler: Sampler,
    ) -> None:  # fmt: skip
        """Judge every position of a text by teacher forcing: two forwards in all.

        Args:
            target: the model that wrote the text.
            draft: the model to judge.
            text: token ids, and how many of them are the prompt, which is not judged.
            sampler: draws and judges, at the temperature the rates are for.
        """
        token_ids, prompt = text
        ids = torch.tensor(list(token_ids), device=target.device)
        cache = target.new_cache()
        target_logits = _answer_logits(target, ids, prompt, cache)
        draft_logits = _answer_logits(draft.model, ids, prompt, draft.model.new_cache(cache))
        if draft.vocab_ids is not None:
            draft_logits = draft_logits[:, : draft.vocab_ids.shape[0]]
        for target_row, draft_row in zip(target_logits, draft_logits, strict=True):
            self._judge(target_row, draft_row[None], draft.vocab_ids, sampler)

    def _judge(
        self, target_row: Tensor, draft_row: Tensor, vocab_ids: Tensor | None, sampler: Sampler
    ) -> None:
        width = self._star.branching
        drawn, probs = sampler.choose(draft_row, width)
        tokens = drawn[0] if vocab_ids is None else vocab_ids[drawn[0]]
        root = tokens.new_zeros(1)  # judged children do not depend on the root's own token
        tree = TokenTree(
            growmap=self._star,
            parents=root.expand(width + 1),
            token_ids=torch.cat((root, tokens)),
            columns=torch.cat((root, drawn[0])),
            node_probs=torch.ones(width + 1, device=tokens.device),
            draft_probs=probs,
            inner_rows={0: 0},
            vocab_ids=vocab_ids,
        )
        scored = score(tree, target_row.expand(width + 1, -1), sampler.params)
        verdict = sampler.rule(scored, sampler.generator)
        self.positions += 1
        if len(verdict.path) > 1:
            self._accepted[self._star.ranks[verdict.path[1]]] += 1


def _answer_logits(model: LanguageModel, ids: Tensor, prompt: int, cache: KVCache) -> Tensor:
    """Logits [answer, V] before each answer token."""
    model.extend(ids[: prompt - 1], cache)
    positions = torch.arange(prompt - 1, len(ids) - 1, device=model.device)
    return model.forward(ids[prompt - 1 : -1], positions, None, cache)
