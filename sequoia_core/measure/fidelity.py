"""How far a model's distributions are from another's: of rounded weights from the original's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.errors import ParameterError, TokenizerMismatchError
from sequoia_core.model.interface import LanguageModel
from sequoia_core.model.loading.pair import Pair

ROWS = 32  # positions at once: each takes a few rows of the vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Of a model from a reference, at each position of a text."""

    kl: NDArray[np.float64]  # KL(reference || model) in nats
    same: NDArray[np.bool_]  # whether the most probable token is

    @classmethod
    def of_all(cls, parts: Sequence["Distances"]) -> "Distances":
        kl, same = (np.concatenate([getattr(each, name) for each in parts]) for name in _FIELDS)
        return cls(kl, same)

    @property
    def figures(self) -> dict[str, float]:
        return {
            "positions": len(self.kl),
            "kl_mean": float(self.kl.mean()),
            "kl_99_percent": float(np.quantile(self.kl, 0.99)),
            "kl_largest": float(self.kl.max()),
            "same_argmax": float(self.same.mean()),
        }


_FIELDS = ("kl", "same")


def check_comparable(model: Pair, reference: Pair) -> None:
    """Raises TokenizerMismatchError unless both targets predict the same tokens."""
    sizes = model.target.vocab_size, reference.target.vocab_size
    same = model.tokenizer.get_vocab() == reference.tokenizer.get_vocab()
    if sizes[0] != sizes[1] or not same:
        raise TokenizerMismatchError(
            f"{model.description.target} and {reference.description.target} have different tokens; "
            "give --against the model that was rounded"
        )


@torch.inference_mode()
def with_answer(
    model: LanguageModel, question: Sequence[int], most: int, ends: frozenset[int]
) -> list[int]:
    """A question and the model's own most probable continuation, without its end."""
    cache, token_ids = model.new_cache(), list(question)
    room = min(most, model.context_window - len(token_ids))
    rows = token_ids
    for _ in range(room):
        first = len(token_ids) - len(rows)
        positions = torch.arange(first, len(token_ids), device=model.device)
        logits = model.forward(torch.tensor(rows, device=model.device), positions, None, cache)
        rows = [int(logits[-1].argmax())]
        if rows[0] in ends:
            break
        token_ids += rows
    return token_ids


def divergences(
    model: LanguageModel, reference: LanguageModel, texts: Sequence[Sequence[int]]
) -> Iterator[Distances]:
    """Of the tokens after each of a text's; a beginning that the first text has, too, counts once.

    Raises ParameterError for a text that does not fit into a context window.
    """
    window = min(model.context_window, reference.context_window)
    for number, token_ids in enumerate(texts):
        if len(token_ids) > window:
            raise ParameterError(
                f"a text has {len(token_ids):,} tokens, but the context window {window:,}; "
                "give a lower --tokens"
            )
        first = _shared(texts[0], token_ids) if number else 0
        if first < len(token_ids):
            yield Distances.of_all(list(_read(model, reference, token_ids, first)))


def _shared(first: Sequence[int], other: Sequence[int]) -> int:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(first, other, strict=False))
    return sum(1 for _ in pairs)


@torch.inference_mode()
def _read(
    model: LanguageModel, reference: LanguageModel, token_ids: Sequence[int], first: int
) -> Iterator[Distances]:
    both = model, reference
    caches = [each.new_cache() for each in both]
    ids = torch.tensor(token_ids)
    if first:
        for each, cache in zip(both, caches, strict=True):
            each.extend(ids[:first].to(each.device), cache)
    for at in range(first, len(ids), ROWS):
        rows = ids[at : at + ROWS]
        positions = torch.arange(at, at + len(rows))
        found, wanted = (
            each.forward(rows.to(each.device), positions.to(each.device), None, cache)
            .cpu()
            .double()
            for each, cache in zip(both, caches, strict=True)
        )
        yield divergence(found, wanted)


def divergence(found: Tensor, wanted: Tensor) -> Distances:
    """Of logits [n, V] from those of the reference."""
    log_q, log_p = found.log_softmax(-1), wanted.log_softmax(-1)
    # tokens that neither can give have probability 0 and a difference that is no number
    terms = torch.where(log_p == -torch.inf, 0.0, log_p.exp() * (log_p - log_q))
    same = found.argmax(-1) == wanted.argmax(-1)
    return Distances(terms.sum(-1).clamp_(min=0.0).numpy(), same.numpy())
