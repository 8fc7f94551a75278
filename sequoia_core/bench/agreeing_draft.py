"""A draft that agrees with a known text as often as an acceptance vector says.

It stands for a trained draft where the target's weights are random and nothing could be trained for
it. Owns when it agrees. It reads nothing but positions and takes next to no time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.model.interface import KVCache

STEP = 7919
"""Distance of the tokens that fill the other ranks; a prime, so that they differ."""


class Positions:
    """A `KVCache` that counts."""

    def __init__(self) -> None:
        self.length = 0

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the first `committed` tokens and as many more as there are rows."""
        self.length = committed + len(rows)

    def release(self) -> None:
        """Holds no memory of its own to return."""

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on."""
        self.length = length


class AgreeingDraft:
    """A `LanguageModel` whose r-th likeliest token is the text's next one with probability a_r.

    One draw per position, of the position and the seed alone, decides which rank the true token
    has there, or that it has none; so siblings exclude each other and positions are independent, as
    the acceptance vector's model has it. Below a wrong token it goes on as if that had been right,
    which cannot be accepted.

    Args:
        text: token ids, the prompt's among them.
        vocab_size: of the target.
        rates: a_1, a_2, ...
        seed: of the draws.
    """

    context_window = 1 << 20
    prompt_rows = 1 << 20

    def __init__(
        self, text: Sequence[int], vocab_size: int, rates: Sequence[float], seed: int
    ) -> None:
        self.vocab_size = vocab_size
        self.device = torch.device("cpu")
        self._text, self._rates, self._seed = tuple(text), tuple(rates), seed

    def new_cache(self, beside: KVCache | None = None) -> Positions:  # noqa: ARG002
        """An empty cache."""
        return Positions()

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Count n tokens."""
        assert isinstance(cache, Positions)
        cache.length += len(token_ids)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,  # noqa: ARG002
        cache: KVCache,
    ) -> Tensor:
        """Float32 [n, V]: zero but for as many tokens as there are ranks."""
        self.extend(token_ids, cache)
        logits = torch.zeros(len(token_ids), self.vocab_size)
        values = torch.arange(len(self._rates), 0, -1).float()
        for row, position in zip(logits, position_ids.tolist(), strict=True):
            row[self._ranked(position + 1)] = values
        return logits

    def rank(self, position: int) -> int | None:
        """Which rank, from 0, the true token at a position has; None for none of them."""
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
