"""Keys and values of one conversation, in one preallocated tensor.

Owns the memory, its growth and the rollback of speculated rows. It knows nothing of trees: which
rows survive is said by the caller. Every in-place write of the engine's state is in this file.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.errors import ContextFullError
from sequoia_core.model.config import ModelConfig

INITIAL_CAPACITY = 256
CUDA_BUCKET = 256


class LayeredKVCache:
    """Keys and values of `length` tokens; see `protocols.KVCache` for the verbs.

    The buffer is `[L, 2, K, capacity, D]`, so that dropping a rejected branch is one gather over
    all layers. Rows past `length` hold leftovers and are never read as tokens; on CUDA attention
    spans a whole length bucket, whose tail the mask hides, so that shapes repeat from step to step.

    Beside them it can hold features: hidden states of each token, for a draft that reads them. They
    follow the same verbs, so a feature is always that of the token at its place.

    Args:
        config: shape of the model.
        device: of the buffers.
        dtype: likewise.
        feature_slots: hidden states held per token.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,
        dtype: torch.dtype,
        feature_slots: int = 0,
    ) -> None:
        self._config = config
        self._bucket = CUDA_BUCKET if device.type == "cuda" else 1
        self._length = 0
        capacity = min(INITIAL_CAPACITY, self._rounded(config.context_window))
        # zeros, not empty: a masked tail is multiplied by zero weights, and 0 x NaN is NaN
        self._buffer = torch.zeros(
            (config.num_layers, 2, config.num_kv_heads, capacity, config.head_dim),
            device=device,
            dtype=dtype,
        )
        self._features = self._buffer.new_zeros((capacity, feature_slots, config.hidden_size))

    @property
    def length(self) -> int:
        """Tokens held, `S`."""
        return self._length

    @property
    def capacity(self) -> int:
        """Tokens the present buffer has room for."""
        return self._buffer.shape[3]

    def span(self, rows: int) -> int:
        """Tokens that attention runs over when `rows` more are written: S + rows, or its bucket."""
        return self._rounded(self._length + rows)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more tokens, moving to a larger buffer if need be.

        Raises:
            ContextFullError: they would not fit into the model's context window.
        """
        needed = self._length + rows
        window = self._config.context_window
        if needed > window:
            raise ContextFullError(
                f"{needed} tokens do not fit into the model's context window of {window}; "
                "shorten the prompt or clear the chat"
            )
        if self._rounded(needed) <= self.capacity:
            return
        capacity = min(max(2 * self.capacity, self._rounded(needed)), self._rounded(window))
        layers, two, heads, _, dim = self._buffer.shape
        larger = self._buffer.new_zeros((layers, two, heads, capacity, dim))
        larger[:, :, :, : self._length] = self._buffer[:, :, :, : self._length]
        self._buffer = larger
        features = self._features.new_zeros((capacity, *self._features.shape[1:]))
        features[: self._length] = self._features[: self._length]
        self._features = features

    def write(self, layer: int, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        """Put n rows after the S cached ones and return the keys and values to attend over.

        Room must have been reserved; `advance` counts the rows once every layer is written.

        Args:
            layer: index of the layer.
            keys_values: `[2, K, n, D]`.

        Returns:
            keys and values `[1, K, span(n), D]`, views of the buffer.
        """
        rows = keys_values.shape[2]
        layer_buffer = self._buffer[layer]
        layer_buffer[:, :, self._length : self._length + rows].copy_(keys_values)
        attended = layer_buffer[:, None, :, : self.span(rows)]
        return attended[0], attended[1]

    def write_features(self, slot: int, hidden: Tensor) -> None:
        """Put hidden states [n, hidden] of n rows after the S cached ones; see `write`."""
        self._features[self._length : self._length + hidden.shape[0], slot].copy_(hidden)

    def features(self, start: int, stop: int) -> Tensor:
        """Features of the tokens from `start` to before `stop`.

        Returns:
            `[stop - start, feature_slots, hidden]`, a view of the buffer.
        """
        assert 0 <= start <= stop <= self._length
        return self._features[start:stop]

    def features_at(self, rows: Tensor) -> Tensor:
        """Features of the tokens at int64 [n] places: `[n, feature_slots, hidden]`."""
        return self._features[rows]

    def advance(self, rows: int) -> None:
        """Count `rows` tokens that every layer has written."""
        self._length += rows

    @torch.inference_mode()
    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the first `committed` tokens and, after them, the given later rows in order.

        Args:
            committed: tokens at the front that stay where they are.
            rows: ascending indices in `[committed, length)`.
        """
        assert 0 <= committed <= self._length
        assert all(committed <= row < self._length for row in rows)
        if any(row != committed + offset for offset, row in enumerate(rows)):
            index = torch.tensor(list(rows), device=self._buffer.device)
            kept = self._buffer.index_select(3, index)
            self._buffer[:, :, :, committed : committed + len(rows)].copy_(kept)
            self._features[committed : committed + len(rows)].copy_(self._features[index])
        self._length = committed + len(rows)

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on. Memory is not cleared."""
        assert 0 <= length <= self._length
        self._length = length

    def _rounded(self, length: int) -> int:
        return -(-length // self._bucket) * self._bucket
