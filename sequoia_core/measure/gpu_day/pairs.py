"""Pairs of Llamas of real sizes with random weights, made on the device, that agree at set rates.

The weights know a text: a cycle of tokens, each with a dimension of its own in which its embedding
is loud, so that the output head finds its successor there, whatever the layers add. The draft's
head ranks several successors; the right one comes at the rank that positional acceptance rates say,
or not at all. Tokens of a step are then those of a trained draft, and the text is known beforehand.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.llama import Llama
from sequoia_core.model.tensor_names import EMBEDDING, HEAD, expected_shapes

LOUD = 2048.0  # exact in every number format, and far above what 32 random layers add
PEAK, FALL = 24.0, 1.4  # logit of the first successor, and by how much less each next one has
STD = 0.02  # of random weights
RANKS = 16  # successors that a draft knows


@dataclass(frozen=True, slots=True)
class KnownText:
    """Of each token of the cycle 0, 1, ..., what a model takes for its successor, best first."""

    guesses: tuple[tuple[int, ...], ...]

    @classmethod
    def certain(cls, length: int) -> "KnownText":
        """The target's: the next token of the cycle."""
        return cls(tuple(((at + 1) % length,) for at in range(length)))

    @classmethod
    def guessed(cls, length: int, rates: Sequence[float], seed: int = 0) -> "KnownText":
        """A draft's, right at rank k as often as the k-th of positional acceptance rates says."""
        bounds = [round(length * each) for each in accumulate(rates[:RANKS])]
        ranks = [bisect_right(bounds, at) for at in range(length)]  # RANKS: at none
        random.Random(seed).shuffle(ranks)
        guesses = []
        for at, rank in enumerate(ranks):
            row = [(at + 2 + other) % length for other in range(RANKS)]
            if rank < len(bounds):
                row[rank] = (at + 1) % length
            guesses.append(tuple(row))
        return cls(tuple(guesses))

    def head(self, hidden_size: int) -> Tensor:
        """Rows of the output head by dimension, float32 [tokens, tokens]."""
        length = len(self.guesses)
        found = torch.zeros(length, length)
        loudness = hidden_size**0.5  # of the token's own dimension after the norm
        for token, guesses in enumerate(self.guesses):
            for rank, guess in enumerate(guesses):
                found[guess, token] = (PEAK - rank * FALL) / loudness
        return found


class RandomWeights(Mapping[str, Tensor]):
    """Made where they are wanted, one tensor at a time, so that none is in main memory."""

    def __init__(
        self,
        config: ModelConfig,
        place: tuple[torch.device, torch.dtype],
        *,
        seed: int,
        text: KnownText | None = None,
        std: float = STD,
    ) -> None:
        self._shapes, (self._device, self._dtype) = expected_shapes(config), place
        self._seed, self._text, self._std = seed, text, std

    def __getitem__(self, name: str) -> Tensor:
        shape, device, dtype = self._shapes[name], self._device, self._dtype
        if name.endswith("norm.weight"):
            return torch.ones(shape, device=device, dtype=dtype)
        # the device's own generator, seeded by name, since weights are asked for in any order
        torch.manual_seed(random.Random(f"{self._seed} {name}").getrandbits(60))
        made = torch.randn(shape, device=device, dtype=dtype).mul_(self._std)
        if self._text is not None and name in (EMBEDDING, HEAD):
            known = len(self._text.guesses)
            block = LOUD * torch.eye(known) if name == EMBEDDING else self._text.head(shape[1])
            made[:known] = 0.0
            made[:known, :known] = block.to(device, dtype)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def random_llama(
    entries: Mapping[str, Any],
    place: tuple[torch.device, torch.dtype],
    text: KnownText | None = None,
    seed: int = 0,
) -> Llama:
    config = ModelConfig.from_hf(entries)
    return Llama(config, RandomWeights(config, place, seed=seed, text=text), *place)
