"""The interface between the decoding loop and a model with its cache.

Shape legend, for the whole package: `T` tree nodes (root included), `n` rows of one forward,
`S` tokens in the KV cache, `V` vocabulary of the target, `L` layers, `H` query heads, `K` KV heads,
`D` head dim. There is one conversation per forward, so no tensor has a batch dimension.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:  # screens import this module without loading torch
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Paths:
    """For each of n rows of a tree, the rows it attends to: its path from the root, itself last."""

    lengths: array[int]  # int32 [n]
    rows: array[int]  # int32, one path after the other, each ascending

    @classmethod
    def of(cls, paths: Sequence[Sequence[int]]) -> Paths:
        return cls(array("i", map(len, paths)), array("i", chain.from_iterable(paths)))


@dataclass(frozen=True, slots=True)
class TreeRows:
    """Rows for a `TreeReader`: tokens that continue the text, or nodes of a tree."""

    token_ids: Sequence[int]
    prefix: int = 0  # tokens before a tree, to which all its rows attend
    paths: Paths | None = None  # None for a text


@dataclass(frozen=True, slots=True)
class Summary:
    """Per row of a tree's logits, on the host."""

    argmax: Sequence[int]  # the target's most probable token after each node
    log_totals: Sequence[float]  # L of a token's probability exp(logit / temperature - L)
    log_peaks: Sequence[float]  # log probability of the argmax
    log_probs: Sequence[float]  # of the node's own token at its parent; meaningless at the root


@dataclass(frozen=True, slots=True)
class Draws:
    """Children chosen at n nodes, on the host."""

    columns: Sequence[int]  # of each row's children in order of rank, row by row
    probs: Sequence[float]  # the draft's probabilities of them
    stated: Sequence[float]  # the same at temperature 1, which predicts acceptance better
    peaks: Sequence[float]  # the largest probability of each row at temperature 1
    distributions: Tensor  # float32 [n, V_draft], what they were drawn from


@dataclass(frozen=True, slots=True, eq=False)
class LabelledDraws:
    """Drawn continuations of rows of logits, and the targets of training, on the CPU."""

    tokens: list[int]
    columns: Tensor  # int32 [n, k], each row's most probable tokens in order
    probs: Tensor  # float32 [n, k], their probabilities at temperature 1


@dataclass(frozen=True, slots=True)
class LevelDraw:
    """How children are chosen from a distribution."""

    temperature: float = 1.0  # above 0
    generator: torch.Generator | None = None  # draws without replacement; None: the most probable


class KVCache(Protocol):
    """Keys and values of one conversation's tokens."""

    @property
    def length(self) -> int:
        """Tokens held, `S`."""

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the first `committed` tokens and, after them, the given later rows in order."""

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on. Memory is not cleared."""

    def release(self) -> None:
        """Return memory that the tokens held do not need."""


@runtime_checkable
class SizedCache(KVCache, Protocol):
    """A cache whose memory is known."""

    def held_bytes(self) -> Mapping[torch.device, tuple[int, int]]:
        """On each device the bytes of the tokens held, and of all that is reserved."""


@runtime_checkable
class FeatureCache(KVCache, Protocol):
    """A cache that holds outputs of layers as well."""

    def features(self, start: int, stop: int) -> Tensor:
        """Hidden states [stop - start, F, hidden] of tokens `start` to `stop - 1`."""


class LanguageModel(Protocol):
    """A causal language model that reads any number of rows against a cache of its own."""

    vocab_size: int  # columns of the logits: `V`, or fewer for a draft with a trimmed head
    context_window: int  # most tokens the model can attend over
    device: torch.device  # of inputs

    @property
    def prompt_rows(self) -> int:
        """Tokens of a prompt to read by one `extend`; an answer can be stopped in between."""

    def new_cache(self, target_cache: KVCache | None = None) -> KVCache:
        """An empty cache for one conversation.

        A draft conditioned on the target's hidden states reads them from `target_cache`, which must
        be ahead of the draft's whenever the draft is run.
        """

    def forward(
        self,
        token_ids: Tensor,  # int64 [n]
        position_ids: Tensor,  # int64 [n]
        mask: Tensor | None,  # bool [n, k], True where a row may attend; None is causal
        cache: KVCache,  # of S tokens
        parents: Tensor | None = None,  # int64 [n]
    ) -> Tensor:
        """Logits of n new rows, float32 [n, V], valid until the next call.

        Their keys and values are appended to the cache. Rows without a mask continue the text; rows
        with one are nodes of a tree. A mask is about the last k of the S + n tokens, k <= S + n;
        all rows attend to the tokens before those. `parents` say where each node's parent lies in
        the cache, counted back from -1; given for a draft's nodes, since the target's forward
        includes them.
        Raises ContextFullError if S + n exceeds the context window.
        """

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Append n tokens, int64 [n], after the S cached ones without computing logits.

        Raises ContextFullError if S + n exceeds the context window; the cache is unchanged.
        """


@runtime_checkable
class PartReader(LanguageModel, Protocol):
    """A model that reads a prompt at once, which takes long."""

    def extend_in_parts(self, token_ids: Tensor, cache: KVCache) -> Iterator[float]:
        """`extend`; yields the fraction done, below 1.

        If it is left, the cache is unchanged. The cache must not be used until it has ended.
        """


@runtime_checkable
class TreeReader(LanguageModel, Protocol):
    """A model on the CPU with one call per pass, between values of the host.

    A forward evicts everything else from the processor's caches, so each further operation of
    PyTorch is slow, however small. Both methods raise ContextFullError as `forward` does.
    """

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        """Logits [T, V] of a tree, and their summary.

        `parents` are int64 [T]; the root is its own. The temperature is above 0.
        """

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        """`count` children of each row of a tree, or of the last of the rows that continue a text.

        Raises NumberError if a logit is not a number.
        """
