"""Keys and values of one conversation, in a few preallocated tensors: growth and rollback."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import NamedTuple
from weakref import finalize

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
KEPT_LEASES = 2  # of one model that no cache uses: for both sides of a race

_numbers = count(1)


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


class Move(NamedTuple):
    """Rows of a cache that are to lie elsewhere: `rows[i]` at `first + i`."""

    rows: tuple[int, ...]
    first: int


@dataclass(slots=True, eq=False)
class Lease:
    """Memory that a cache leases."""

    parts: list[Tensor]  # keys and values [PART_LAYERS, 2, K, capacity + 1, D]
    features: Tensor  # hidden states [capacity + 1, feature_slots, hidden]
    least: int  # capacity that is never given up
    number: int = field(default_factory=_numbers.__next__)  # of these addresses; never used again
    retired: list[int] = field(default_factory=list)  # numbers of addresses that are left

    @property
    def capacity(self) -> int:
        """Tokens; the row after them is the scratch row."""
        return min(buffer.shape[axis] for buffer, axis in self.buffers) - 1

    @property
    def buffers(self) -> list[tuple[Tensor, int]]:
        """Each with the axis of its rows."""
        return [*((part, 3) for part in self.parts), (self.features, 0)]

    def resize(self, capacity: int, kept: int) -> None:
        """Keep the first `kept` tokens; they survive a failure."""
        if all(buffer.shape[axis] == capacity + 1 for buffer, axis in self.buffers):
            return
        self.retired.append(self.number)
        self.number = next(_numbers)
        # one buffer after the other, so that only one of them is held twice
        for at in range(len(self.parts)):
            self.parts[at] = resized(self.parts[at], 3, capacity + 1, kept)
        self.features = resized(self.features, 0, capacity + 1, kept)


class LeasePool:
    """Memory of caches that are garbage, for the next ones of the same model.

    So a new chat, a race or a calibration writes where earlier ones did, and finds their
    recordings. What is recorded over memory that is left is of no use any more.
    """

    def __init__(self, retired: list[int] | None = None) -> None:
        self._free: list[Lease] = []
        self._retired = [] if retired is None else retired  # receives numbers of such memory
        finalize(self, _leave, self._free, self._retired).atexit = False

    def lease(self, cache: object, make: Callable[[], Lease]) -> Lease:
        """Memory for as long as the cache is alive."""
        if self._free:
            lease = self._free.pop()
            with torch.inference_mode():  # in which a cache grows
                for buffer, _ in lease.buffers:
                    buffer.zero_()  # see `resized`
        else:
            lease = make()
            lease.retired = self._retired
        finalize(cache, self._give_back, lease).atexit = False
        return lease

    def clear(self) -> None:
        """Free what no cache uses."""
        _leave(self._free, self._retired)

    def _give_back(self, lease: Lease) -> None:
        if len(self._free) < KEPT_LEASES:
            self._free.append(lease)
        else:
            self._retired.append(lease.number)


def _leave(leases: list[Lease], retired: list[int]) -> None:
    while leases:
        retired.append(leases.pop().number)


class LayeredKVCache:
    """A `KVCache` in buffers `[PART_LAYERS, 2, K, capacity + 1, D]`.

    The row after the capacity is a scratch row: what is written there is no token. Dropping a
    rejected branch is one gather over several layers, and growing needs room for one more buffer
    only. Rows past `length` are never read as tokens; on CUDA, attention under a mask spans a whole
    length bucket, whose tail the mask hides, so that shapes repeat from step to step.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: torch.device,  # of the features
        dtype: torch.dtype,
        feature_slots: int = 0,  # hidden states of each token to hold, for a draft that reads them
        layer_devices: Sequence[torch.device] | None = None,  # of each layer, all of one type
        pool: LeasePool | None = None,  # of the model; None: the memory is the cache's own
    ) -> None:
        self._window = config.context_window
        self._bucket = CUDA_BUCKET if device.type == "cuda" else 1
        self.length = 0
        self.defers = False  # `keep` leaves a move to `take_move`, or to the next use
        self._move: Move | None = None
        self._leased = pool is not None
        places = layer_devices or [device] * config.num_layers
        split = [
            (place, min(PART_LAYERS, layers - first))
            for place, layers in ((place, len(list(run))) for place, run in groupby(places))
            for first in range(0, layers, PART_LAYERS)
        ]
        self._places = [(part, at) for part, (_, n) in enumerate(split) for at in range(n)]

        def allocated() -> Lease:
            window = round_up(self._window, self._bucket)
            layer = window * kv_token_bytes(config, dtype.itemsize) // config.num_layers
            needed = Counter({place: count * layer for place, count in Counter(places).items()})
            needed[device] += window * dtype.itemsize * feature_slots * config.hidden_size
            least = window if _can_reserve(needed) else min(INITIAL_CAPACITY, window)
            # zeros, not empty: see `resized`
            shape = (2, config.num_kv_heads, least + 1, config.head_dim)
            features = (least + 1, feature_slots, config.hidden_size)
            return Lease(
                [torch.zeros((layers, *shape), device=at, dtype=dtype) for at, layers in split],
                torch.zeros(features, device=device, dtype=dtype),
                least,
            )

        self.lease = pool.lease(self, allocated) if pool else allocated()

    @property
    def capacity(self) -> int:
        return self.lease.capacity

    @property
    def scratch(self) -> int:
        """The slot of rows that only fill up a shape."""
        return self.lease.capacity

    @property
    def devices(self) -> set[torch.device]:
        return {buffer.device for buffer, _ in self.lease.buffers}

    def held_bytes(self) -> dict[torch.device, tuple[int, int]]:
        """See `SizedCache.held_bytes`."""
        reserved = Counter[torch.device]()
        for buffer, _ in self.lease.buffers:
            reserved[buffer.device] += buffer.nbytes
        rows = self.capacity + 1
        return {place: (size * self.length // rows, size) for place, size in reserved.items()}

    @property
    def lease_numbers(self) -> tuple[int, ...]:
        """Of all memory that a forward reads or writes; other numbers are other addresses."""
        return (self.lease.number,)

    def span(self, rows: int) -> int:
        """Tokens that attention spans when `rows` more are written: S + rows, or its bucket."""
        return round_up(self.length + rows, self._bucket)

    def reserve(self, rows: int) -> None:
        """Make room for `rows` more tokens; the tokens held survive a failure."""
        check_room(self.length + rows, self._window)
        self.settle()
        needed, present = self.span(rows), self.capacity
        if needed <= present:
            return
        quarter = round_up(present + present // 4, self._bucket)
        grown = present * 2 if present < DOUBLED_CAPACITY else quarter
        self._resize(self._stepped(needed) if self._leased else max(grown, needed))

    def release(self) -> None:
        """See `KVCache.release`; the first capacity is kept."""
        needed = self._stepped(self.span(0)) if self._leased else self.span(0)
        self._resize(min(max(self.lease.least, needed), self.capacity))

    @staticmethod
    def _stepped(tokens: int) -> int:
        """A power of two, as spans are: recordings, lost where memory grows, are few times."""
        return max(INITIAL_CAPACITY, 1 << (tokens - 1).bit_length())

    def _resize(self, capacity: int) -> None:
        self._settle()
        self.lease.resize(min(capacity, round_up(self._window, self._bucket)), self.length)

    def write(
        self, layer: int, keys_values: Tensor, span: int, slots: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Put n rows [2, K, n, D] after the S cached ones; gives those to attend over.

        That are keys and values `[1, K, span, D]`, views of the buffer. Requires `reserve`;
        `advance` counts the rows once every layer is written. With slots, int64 [n], the rows go
        there, wherever the cache ends.
        """
        part, at = self._places[layer]
        layer_buffer = self.lease.parts[part][at]
        if slots is None:
            layer_buffer[:, :, self.length : self.length + keys_values.shape[2]].copy_(keys_values)
        else:
            layer_buffer.index_copy_(2, slots, keys_values)
        attended = layer_buffer[:, None, :, :span]
        return attended[0], attended[1]

    def write_features(self, slot: int, hidden: Tensor, slots: Tensor | None = None) -> None:
        """Put hidden states [n, hidden] of n rows after the S cached ones; see `write`."""
        features = self.lease.features[:, slot]
        if slots is None:
            rows = slice(self.length, self.length + hidden.shape[0])
            features[rows].copy_(moved(hidden, features.device))
        else:
            features.index_copy_(0, slots, hidden)

    def features(self, start: int, stop: int) -> Tensor:
        """A view `[stop - start, feature_slots, hidden]` of tokens `start` to `stop - 1`."""
        assert 0 <= start <= stop <= self.length
        self.settle()
        return self.lease.features[start:stop]

    def features_at(self, slots: Tensor) -> Tensor:
        """Features `[n, feature_slots, hidden]` at slots, int64 [n]."""
        return self.lease.features[slots]

    def advance(self, rows: int) -> None:
        self.length += rows

    @torch.inference_mode()
    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """See `KVCache.keep`; `rows` are ascending indices in `[committed, length)`."""
        assert 0 <= committed <= self.length
        assert all(committed <= row < self.length for row in rows)
        self._settle()
        self.length = committed + len(rows)
        places = range(committed, self.length)
        if out_of_place := [at for at, row in enumerate(rows) if row != places[at]]:
            first = out_of_place[0]  # ascending rows: so are all after it
            self._move = Move(tuple(rows[first:]), places[first])
        if not self.defers:
            self._settle()

    def take_move(self, most: int) -> Move | None:
        """The rows that `keep` has left; the caller must move them before anything is read.

        If there are more than `most`, they are moved now.
        """
        if self._move is not None and len(self._move.rows) > most:
            self._settle()
        move, self._move = self._move, None
        return move

    def leave_move(self, move: Move) -> None:
        """Leave a move that was taken and could not be made."""
        self._move = move

    def settle(self) -> None:
        """Move what `keep` has left, here and in a cache that is read."""
        self._settle()

    @torch.inference_mode()
    def _settle(self) -> None:
        move, self._move = self._move, None
        if move is None:
            return
        rows = {device: torch.tensor(list(move.rows), device=device) for device in self.devices}
        for buffer, axis in self.lease.buffers:
            kept = buffer.narrow(axis, move.first, len(move.rows))
            kept.copy_(buffer.index_select(axis, rows[buffer.device]))

    def move(self, source: Tensor, to: Tensor) -> None:
        """Copy the rows at the slots `source` to the slots `to`, int64 [n], of one device.

        All of them or, where memory ends, none.
        """
        buffers = [each for each in self.lease.buffers if each[0].numel()]
        moved_rows = [buffer.index_select(axis, source) for buffer, axis in buffers]
        for (buffer, axis), rows in zip(buffers, moved_rows, strict=True):
            buffer.index_copy_(axis, to, rows)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= self.length
        if self._move is not None and length <= self._move.first:
            self._move = None
        self.length = length


def _can_reserve(needed: Mapping[torch.device, int]) -> bool:
    """Whether there are GPUs with much more memory than is needed on each."""
    return torch.cuda.is_available() and all(
        place.type == "cuda" and size <= RESERVED_SHARE * free_bytes(place)
        for place, size in needed.items()
    )
