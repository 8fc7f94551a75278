"""Keys and values of one conversation, in a few preallocated tensors: growth and rollback."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from sequoia_core.errors import ContextFullError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import free_bytes, moved
from sequoia_core.model.loading.memory_plan import kv_token_bytes

INITIAL_CAPACITY = 256
CUDA_BUCKET = 256
PART_LAYERS = 8  # of one buffer: while a cache grows, only one is held twice
DOUBLED_CAPACITY = 1024  # up to this capacity a cache doubles; from then on it grows by a quarter
RESERVED_SHARE = 0.25  # of a GPU's free memory: a window that takes no more is reserved at once


def check_room(needed: int, window: int) -> None:
    if needed > window:
        raise ContextFullError(
            f"{needed} tokens do not fit into the model's context window of {window}; "
            "shorten the prompt or clear the chat"
        )


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def resized(buffer: Tensor, axis: int, size: int, kept: int) -> Tensor:
    """A buffer of another size with the first `kept` entries of an axis; itself if it fits."""
    if buffer.shape[axis] == size:
        return buffer
    shape = list(buffer.shape)
    shape[axis] = size
    # zeros, not empty: a masked tail is multiplied by zero weights, and 0 x NaN is NaN
    found = buffer.new_zeros(shape)
    found.narrow(axis, 0, kept).copy_(buffer.narrow(axis, 0, kept))
    return found


class LayeredKVCache:
    """A `KVCache` in buffers `[PART_LAYERS, 2, K, capacity, D]`.

    Dropping a rejected branch is one gather over several layers, and growing needs room for one
    more buffer only. Rows past `length` are never read as tokens; on CUDA, attention under a mask
    spans a whole length bucket, whose tail the mask hides, so that shapes repeat from step to step.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,  # of the features
        dtype: torch.dtype,
        feature_slots: int = 0,  # hidden states of each token to hold, for a draft that reads them
        layer_devices: Sequence[torch.device] | None = None,  # of each layer, all of one type
    ) -> None:
        self._window = config.context_window
        self._bucket = CUDA_BUCKET if device.type == "cuda" else 1
        self.length = 0
        places = layer_devices or [device] * config.num_layers
        window = round_up(self._window, self._bucket)
        layer = window * kv_token_bytes(config, dtype.itemsize) // config.num_layers
        needed = Counter({place: count * layer for place, count in Counter(places).items()})
        needed[device] += window * dtype.itemsize * feature_slots * config.hidden_size
        self._least = window if _can_reserve(needed) else min(INITIAL_CAPACITY, window)
        split = [
            (place, min(PART_LAYERS, layers - first))
            for place, layers in ((place, len(list(run))) for place, run in groupby(places))
            for first in range(0, layers, PART_LAYERS)
        ]
        # zeros, not empty: see `resized`
        shape = (2, config.num_kv_heads, self._least, config.head_dim)
        self._parts = [
            torch.zeros((layers, *shape), device=place, dtype=dtype) for place, layers in split
        ]
        self._places = [(part, at) for part, (_, n) in enumerate(split) for at in range(n)]
        self._features = torch.zeros(
            (self._least, feature_slots, config.hidden_size), device=device, dtype=dtype
        )

    @property
    def capacity(self) -> int:
        return min(self._features.shape[0], *(part.shape[3] for part in self._parts))

    def span(self, rows: int) -> int:
        """Tokens that attention spans when `rows` more are written: S + rows, or its bucket."""
        return round_up(self.length + rows, self._bucket)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more tokens; the tokens held survive a failure."""
        check_room(self.length + rows, self._window)
        needed, present = self.span(rows), self.capacity
        if needed <= present:
            return
        quarter = round_up(present + present // 4, self._bucket)
        grown = present * 2 if present < DOUBLED_CAPACITY else quarter
        self._resize(min(max(grown, needed), round_up(self._window, self._bucket)))

    def release(self) -> None:
        """See `KVCache.release`; the first capacity is kept."""
        self._resize(min(max(self._least, self.span(0)), self.capacity))

    def _resize(self, capacity: int) -> None:
        # one buffer after the other, so that only one of them is held twice
        for at in range(len(self._parts)):
            self._parts[at] = resized(self._parts[at], 3, capacity, self.length)
        self._features = resized(self._features, 0, capacity, self.length)

    def write(self, layer: int, keys_values: Tensor, span: int) -> tuple[Tensor, Tensor]:
        """Put n rows [2, K, n, D] after the S cached ones; gives those to attend over.

        That are keys and values `[1, K, span, D]`, views of the buffer. Requires `reserve`;
        `advance` counts the rows once every layer is written.
        """
        part, at = self._places[layer]
        layer_buffer = self._parts[part][at]
        layer_buffer[:, :, self.length : self.length + keys_values.shape[2]].copy_(keys_values)
        attended = layer_buffer[:, None, :, :span]
        return attended[0], attended[1]

    def write_features(self, slot: int, hidden: Tensor) -> None:
        """Put hidden states [n, hidden] of n rows after the S cached ones; see `write`."""
        rows = slice(self.length, self.length + hidden.shape[0])
        self._features[rows, slot].copy_(moved(hidden, self._features.device))

    def features(self, start: int, stop: int) -> Tensor:
        """A view `[stop - start, feature_slots, hidden]` of tokens `start` to `stop - 1`."""
        assert 0 <= start <= stop <= self.length
        return self._features[start:stop]

    def features_of_parents(self, parents: Tensor) -> Tensor:
        """Features `[n, feature_slots, hidden]` of `LanguageModel.forward`'s parents, int64 [n]."""
        return self._features[parents + self.length]

    def advance(self, rows: int) -> None:
        self.length += rows

    @torch.inference_mode()
    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """See `KVCache.keep`; `rows` are ascending indices in `[committed, length)`."""
        assert 0 <= committed <= self.length
        assert all(committed <= row < self.length for row in rows)
        kept = slice(committed, committed + len(rows))
        if list(rows) != list(range(kept.start, kept.stop)):
            devices = {buffer.device for buffer in (self._features, *self._parts)}
            index = {device: torch.tensor(list(rows), device=device) for device in devices}
            for part in self._parts:
                part[:, :, :, kept].copy_(part.index_select(3, index[part.device]))
            self._features[kept].copy_(self._features[index[self._features.device]])
        self.length = kept.stop

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        self.length = length


def _can_reserve(needed: Mapping[torch.device, int]) -> bool:
    """Whether there are GPUs with much more memory than is needed on each."""
    return torch.cuda.is_available() and all(
        place.type == "cuda" and size <= RESERVED_SHARE * free_bytes(place)
        for place, size in needed.items()
    )
