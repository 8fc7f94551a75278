"""A draft that knows the text and agrees with it as often as an acceptance vector says."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.model.interface import KVCache
from tests.core.models import TableModel

STEP = 7919
"""Distance between the wrong tokens of one position; a prime, so that they differ."""


class OracleDraft(TableModel):
    """A `LanguageModel` whose r-th likeliest token is the text's next one with probability a_r.

    One draw per position decides which rank the true token has there, or that it has none. So
    siblings exclude each other and positions are independent, as the acceptance vector assumes.
    Below a wrong token it continues as if that token had been right.

    Args:
        text: token ids, prompt included.
        vocab_size: of the target.
        rates: a_1, a_2, ...
        seed: of the draws.
    """

    def __init__(
        self, text: Sequence[int], vocab_size: int, rates: Sequence[float], seed: int
    ) -> None:
        super().__init__(vocab_size, seed, window=1 << 20)
        self._text, self._rates = tuple(text), tuple(rates)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        """Float32 [n, V], zero except for one token per rank."""
        self.extend(token_ids, cache)
        logits = torch.zeros(len(token_ids), self.vocab_size)
        values = torch.arange(len(self._rates), 0, -1).float()
        for row, position in zip(logits, position_ids.tolist(), strict=True):
            row[self._ranked(position + 1)] = values
        return logits

    def rank(self, position: int) -> int | None:
        """Rank of the true token at a position, from 0; None where it has none."""
        drawn = random.Random(f"{self._seed} {position}").random()
        for rank, rate in enumerate(self._rates):
            drawn -= rate
            if drawn < 0.0:
                return rank
        return None

    def _ranked(self, position: int) -> list[int]:
        known = position < len(self._text)
        true = self._text[position] if known else 0
        tokens = [(true + (at + 1) * STEP) % self.vocab_size for at in range(len(self._rates))]
        rank = self.rank(position)
        if known and rank is not None:
            tokens[rank] = true
        return tokens
