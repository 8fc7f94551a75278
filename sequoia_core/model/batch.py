"""Many conversations decoded side by side, one token each per pass, with one model's weights.

Owns the keys and values of all rows and where they lie. It knows nothing of what the tokens are or
when a row has ended. Shapes: `B` rows, `R` rows of a group, `L` layers, `H` query heads, `K` KV
heads, `G = H / K`, `D` head dim, `V` vocabulary.

Rows lie in groups of similar length, so that nobody attends over the longest row of all. Products
always have B rows and attention always R, over a multiple of `SPAN` tokens: what a row computes
then does not depend on its neighbours, on the CPU bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import ContextFullError
from sequoia_core.model.llama import Llama

GROUP = 16
"""Rows of a group, `R`: fewer waste fewer tokens, more make larger products."""

SPAN = 64
"""Attention runs over multiples of so many tokens."""

WORTH_MOVING = 0.9
"""Rows are grouped anew once that leaves at most this part of the tokens to attend over."""


@dataclass(slots=True)
class _Group:
    """R rows.

    Attributes:
        rows: which row lies at each slot.
        memory: keys and values, `[L, 2, R, K, span, D]`; contiguous, which doubles the speed.
        positions: int64 `[R]`, where the present pass writes.
        bias: `[R, 1, 1, span]`, minus infinity where a row has no token in the present pass.
    """

    rows: list[int]
    memory: Tensor
    positions: Tensor
    bias: Tensor

    @property
    def span(self) -> int:
        return self.memory.shape[4]

    def resize(self, span: int) -> None:
        kept = min(span, self.span)
        shape = list(self.memory.shape)
        shape[4] = span
        # zeros, not empty: a masked tail is multiplied by zero weights, and 0 x NaN is NaN
        resized = self.memory.new_zeros(shape)
        resized[:, :, :, :, :kept] = self.memory[:, :, :, :, :kept]
        self.memory = resized

    def aim(self, positions: Tensor) -> None:
        """Say where the coming pass writes and up to where each row attends."""
        later = torch.arange(self.span, device=positions.device) > positions[:, None]
        bias = torch.zeros(later.shape, device=later.device, dtype=self.memory.dtype)
        self.positions = positions
        self.bias = bias.masked_fill_(later, float("-inf"))[:, None, None, :]


class Batch:
    """B rows of one model, each a conversation of its own.

    Args:
        model: whose weights are used; they are not copied.
        rows: `B`, a multiple of `GROUP`.
    """

    def __init__(self, model: Llama, rows: int) -> None:
        assert rows > 0
        assert rows % GROUP == 0
        config = model.config
        self._model = model
        self._lengths = [0] * rows
        self._slots = torch.arange(GROUP, device=model.device)
        shape = (config.num_layers, 2, GROUP, config.num_kv_heads, SPAN, config.head_dim)
        self._groups = [
            _Group(
                rows=list(range(first, first + GROUP)),
                memory=torch.zeros(shape, device=model.device, dtype=model.dtype),
                positions=self._slots,
                bias=self._slots,
            )
            for first in range(0, rows, GROUP)
        ]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens held by each row."""
        return self._lengths

    @property
    def attended(self) -> int:
        """Tokens that a pass attends over, all rows together: those they hold, and the waste."""
        return sum(GROUP * group.span for group in self._groups)

    @torch.inference_mode()
    def read(self, token_ids: Sequence[int]) -> Tensor:
        """Keys and values `[L, 2, K, n, D]` of a beginning that rows can start with."""
        count, config = len(token_ids), self._model.config
        ids = torch.tensor(list(token_ids), dtype=torch.int64, device=self._model.device)
        causal = torch.ones((count, count), dtype=torch.bool, device=ids.device).tril()
        mask = causal.repeat(config.num_heads // config.num_kv_heads, 1)
        kept: list[Tensor] = []

        def attend(_layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            kept.append(keys_values)
            keys, values = keys_values[:, None]
            mixed = functional.scaled_dot_product_attention(queries, keys, values, mask)
            split = mixed.view(config.num_kv_heads, -1, count, config.head_dim)
            return split.permute(2, 0, 1, 3).reshape(count, -1)

        self._model.through_layers(ids, torch.arange(count, device=ids.device), attend, _nobody)
        return torch.stack(kept)

    @torch.inference_mode()
    def start(self, row: int, beginning: Tensor | None = None) -> None:
        """Make a row hold a beginning, from `read`, or nothing, instead of what it held."""
        length = 0 if beginning is None else beginning.shape[3]
        if beginning is not None:
            self._put(row, beginning)
        self._lengths[row] = length

    @torch.inference_mode()
    def forward(self, token_ids: Sequence[int | None]) -> Tensor:
        """Append a token to every row that is given one.

        Args:
            token_ids: B of them; a row that is given None rests.

        Returns:
            float32 [B, V], the logits after each row's token; those of a resting row mean nothing.

        Raises:
            ContextFullError: a row has no room left; nothing is changed.
        """
        window, device = self._model.context_window, self._model.device
        awake = [token is not None for token in token_ids]
        if any(up and held >= window for up, held in zip(awake, self._lengths, strict=True)):
            raise ContextFullError(f"a row has filled the model's context window of {window}")
        self._arrange()
        order = [row for group in self._groups for row in group.rows]
        ids = torch.tensor([token_ids[row] or 0 for row in order], device=device)
        positions = torch.tensor(
            [min(self._lengths[row], window - 1) for row in order], device=device
        )
        for group, each in zip(self._groups, torch.split(positions, GROUP), strict=True):
            group.aim(each)
        hidden = self._model.through_layers(ids, positions, self._attend, _nobody)
        for row, up in enumerate(awake):
            self._lengths[row] += up
        places = sorted(range(len(order)), key=order.__getitem__)
        return self._model.logits(hidden[torch.tensor(places, device=device)])

    def _attend(self, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Write [2, K, B, D], then attend with [1, K, G B, D], group by group -> [B, H D]."""
        _, heads, rows, dim = keys_values.shape
        asked = queries.view(heads, -1, rows, dim).permute(2, 0, 1, 3) * dim**-0.5  # [B, K, G, D]
        written = keys_values.permute(2, 0, 1, 3)  # [B, 2, K, D]
        mixed = []
        parts = zip(
            self._groups, torch.split(asked, GROUP), torch.split(written, GROUP), strict=True
        )
        for group, group_asked, group_written in parts:
            memory = group.memory[layer]  # [2, R, K, span, D]
            memory[:, self._slots, :, group.positions] = group_written
            keys, values = memory.flatten(1, 2)
            scores = torch.bmm(group_asked.reshape(GROUP * heads, -1, dim), keys.mT)
            scores = scores.view(GROUP, heads, -1, group.span).add_(group.bias)
            weights = torch.softmax(scores, dim=-1).flatten(0, 1)  # [R K, G, span]
            mixed.append(torch.bmm(weights, values).view(GROUP, -1))
        return torch.cat(mixed)

    def _arrange(self) -> None:
        """Regroup rows by length where that pays, and make each group as long as it must be."""
        ranked = sorted(range(len(self._lengths)), key=lambda row: -self._lengths[row])
        wanted = [ranked[first : first + GROUP] for first in range(0, len(ranked), GROUP)]
        if self._span_of(wanted) <= WORTH_MOVING * self._span_of(g.rows for g in self._groups):
            self._move(wanted)
        for group in self._groups:
            needed = self._needed(group.rows)
            if not needed <= group.span <= needed + SPAN:
                group.resize(needed)

    def _move(self, wanted: Sequence[Sequence[int]]) -> None:
        """Bring rows to the groups of `wanted`; who is there already stays where it is."""
        homes = {row: number for number, rows in enumerate(wanted) for row in rows}
        moving: dict[int, Tensor] = {}
        for number, group in enumerate(self._groups):
            for slot, row in enumerate(group.rows):
                if homes[row] != number:
                    moving[row] = group.memory[:, :, slot, :, : self._lengths[row]].clone()
        for number, group in enumerate(self._groups):
            arrivals = [row for row in moving if homes[row] == number]
            free = [slot for slot, row in enumerate(group.rows) if row in moving]
            for slot, row in zip(free, arrivals, strict=True):
                group.rows[slot] = row
        for row, memory in moving.items():
            self._put(row, memory)

    def _put(self, row: int, memory: Tensor) -> None:
        group = next(each for each in self._groups if row in each.rows)
        length = memory.shape[3]
        if length > group.span:
            group.resize(_rounded(length))
        group.memory[:, :, group.rows.index(row), :, :length] = memory

    def _needed(self, rows: Sequence[int]) -> int:
        """Span of a group of these rows when each of them gets one more token."""
        return _rounded(1 + max(self._lengths[row] for row in rows))

    def _span_of(self, groups: Iterable[Sequence[int]]) -> int:
        return sum(map(self._needed, groups))


def _rounded(length: int) -> int:
    return -(-length // SPAN) * SPAN


def _nobody(_layer: int, _hidden: Tensor) -> None:
    """Watches nothing."""
