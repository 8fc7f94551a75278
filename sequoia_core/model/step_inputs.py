"""What the host decides of a step, brought to the device by one copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor

from sequoia_core.model.kv_cache import LayeredKVCache, Move

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sequoia_core.model.graphs import Graphs

PENDING = 64  # most tokens that a draft reads before a tree
UNIFORMS = 1024  # most nodes of a tree whose judgement draws its numbers beforehand
NODES = 128  # most nodes of a tree that the host has grown
LOOKED_UP = 16  # most tokens of a path that was looked up
MOVED = (8, 32, 128)  # rows of a cache moved at once; more are moved by themselves
MOVES = (("target_from", "target_to"), ("draft_from", "draft_to"))
FIELDS: Final[Mapping[str, int]] = {
    "pending": PENDING,
    "bounds": 4,
    "uniforms": UNIFORMS,
    "looked_up": LOOKED_UP,
    **dict.fromkeys(("token_ids", "columns", "draft_prob", "parents", "read"), NODES),
    "appended": LOOKED_UP,
    **{name: MOVED[-1] for names in MOVES for name in names},
}
"""Sizes."""
REAL = ("uniforms", "draft_prob")


class _MoveKey(NamedTuple):
    leases: tuple[int, ...]
    names: tuple[str, str]
    rows: int


class StepInputs:
    """Fields at fixed addresses, and the moves of rows that the step before has kept.

    A field holds int64, or float64 if it is in `REAL`. What is not set again stays what it was.
    Since recordings read the fields, a pair has one of these for all its chats.
    """

    def __init__(self, device: torch.device) -> None:
        total = sum(FIELDS.values())
        self._host = torch.zeros(total, dtype=torch.int64)
        self._device = torch.zeros(total, dtype=torch.int64, device=device)
        self._on_host: dict[str, NDArray[Any]] = {}
        self._on_device: dict[str, Tensor] = {}
        first = 0
        for name, size in FIELDS.items():
            host, there = (buffer[first : first + size] for buffer in (self._host, self._device))
            real = name in REAL
            self._on_host[name] = (host.view(torch.float64) if real else host).numpy()
            self._on_device[name] = there.view(torch.float64) if real else there
            first += size

    def __getitem__(self, name: str) -> Tensor:
        """A field on the device, the same tensor each time."""
        return self._on_device[name]

    def set(self, name: str, values: Sequence[float]) -> None:
        """Set the first entries of a field, for the next upload."""
        self._on_host[name][: len(values)] = values

    def fill(self, name: str, values: Sequence[float], filler: Sequence[float]) -> Tensor:
        """Set the first entries, and those after them that fill up a size; all these there."""
        whole = [*values, *filler[len(values) :]]
        self.set(name, whole)
        return self[name][: len(whole)]

    @torch.inference_mode()
    def upload(self, caches: Sequence[LayeredKVCache], graphs: Graphs | None = None) -> None:
        """Bring all fields to the device, and move the rows that caches have left to be moved.

        The caches are the target's and then the draft's. The host does not wait.
        """
        left = [
            (names, cache, move)
            for names, cache in zip(MOVES, caches, strict=False)
            if (move := cache.take_move(MOVED[-1])) is not None
        ]
        try:
            works = [self._prepared(*each, graphs) for each in left]
            # pinned memory is used again only once the copy has read it
            source = self._host.pin_memory() if torch.cuda.is_available() else self._host
            self._device.copy_(source, True)
            for work in works:
                work()
                left.pop(0)
        finally:  # what a full memory has left undone is not lost
            for _, cache, move in left:
                cache.leave_move(move)

    def _prepared(
        self, names: tuple[str, str], cache: LayeredKVCache, move: Move, graphs: Graphs | None
    ) -> Callable[[], object]:
        """Set the fields of a move; returns what makes it once they are uploaded."""
        size = next(size for size in MOVED if size >= len(move.rows))
        source, to = (self[name][:size] for name in names)

        def work() -> None:
            cache.move(source, to)

        recording = None
        if graphs is not None:
            key = _MoveKey((cache.lease.number,), names, size)
            if key not in graphs.known:
                for each in (source, to):
                    each.fill_(cache.scratch)
            recording = graphs.recording(key, work)
        rest = [cache.scratch] * (size - len(move.rows))
        places = range(move.first, move.first + len(move.rows))
        for name, rows in zip(names, (move.rows, places), strict=True):
            self.set(name, [*rows, *rest])
        return work if recording is None else recording.replay
