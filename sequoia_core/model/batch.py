"""Many conversations decoded together with one model.

Shapes: `B` rows, each a conversation, `R` rows of a group, `F` kept layers, `G = H / K`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sequoia_core.errors import ContextFullError
from sequoia_core.model.attention import within_window
from sequoia_core.model.kv_cache import resized, round_up
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import Continuation, NativeLlama

GROUP = 16  # rows of a group, `R`: fewer waste fewer tokens, more make larger products
GPU_GROUPS = 8  # groups on a GPU, where each costs about ten kernels per layer
SPAN = 64  # attention spans multiples of so many tokens
WORTH_MOVING = 0.9  # rows are regrouped if that leaves at most so many of the tokens to attend over
PASS_ROWS = 256  # rows of a native pass that prompts may fill up; bounds the working memory


class NativeBatch:
    """B rows of a native model."""

    def __init__(self, model: NativeLlama, rows: int) -> None:
        assert rows > 0
        self._model = model
        self._caches = [model.new_cache() for _ in range(rows)]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens held by each row."""
        return [cache.length for cache in self._caches]

    def start(self, row: int, kept: int = 0) -> None:
        """Begin another conversation in a row that shares its first `kept` tokens."""
        self._caches[row].truncate(kept)

    def features(self, row: int) -> Tensor:
        """Outputs of the model's kept layers for the S tokens of a row: [S, F, hidden]."""
        length = self._caches[row].length
        if not self._model.kept_layers:
            return torch.empty(length, 0, self._model.config.hidden_size)
        return self._caches[row].features(0, length)

    def forward(self, token_ids: Sequence[Sequence[int]]) -> tuple[Sequence[int], Tensor]:
        """Append tokens to rows: of each row what it has to read, perhaps nothing.

        At least the first token is read. Gives the rows that have read all of their tokens,
        ascending, and the logits after the last token of each: float32 [n, V]. Raises
        ContextFullError if a row has no room left; nothing is changed.
        """
        spare = PASS_ROWS - sum(map(bool, token_ids))
        texts, done = [], []
        for row, ids in enumerate(token_ids):
            if not ids:
                continue
            more = min(max(spare, 0), len(ids) - 1)
            spare -= more
            ended = more == len(ids) - 1
            if ended:
                done.append(row)
            texts.append(Continuation(self._caches[row], ids[: 1 + more], int(ended)))
        if not texts:
            return done, torch.empty(0, self._model.vocab_size)
        return done, self._model.continue_texts(texts)


@dataclass(slots=True)
class _Group:
    rows: list[int]  # the row in each slot
    memory: Tensor  # keys and values [L, 2, R, K, span, D]; contiguous, which doubles the speed
    features: Tensor  # outputs of the kept layers [R, span, F, hidden]
    positions: Tensor  # int64 [R], where the current pass writes
    bias: Tensor  # [R, 1, 1, span], minus infinity where a row has no token in the current pass
    near_bias: Tensor  # the same of layers with a sliding window

    @property
    def span(self) -> int:
        return self.memory.shape[4]

    def resize(self, span: int) -> None:
        kept = min(span, self.span)
        self.memory = resized(self.memory, 4, span, kept)
        self.features = resized(self.features, 1, span, kept)

    def begin_pass(self, positions: Tensor, window: int | None) -> None:
        """Set where the next pass writes; each row attends up to there."""
        later = torch.arange(self.span, device=positions.device) > positions[:, None]
        bias = torch.zeros(later.shape, device=later.device, dtype=self.memory.dtype)
        bias = bias.masked_fill_(later, float("-inf"))
        near = bias if window is None else within_window(bias, window)
        self.positions = positions
        self.bias, self.near_bias = bias[:, None, None, :], near[:, None, None, :]


class Batch:
    """As `NativeBatch`, of a PyTorch model, but a pass reads one token of each row.

    B is a multiple of `GROUP`; the groups are of similar length. Products always have B rows and
    attention always R, over a multiple of `SPAN` tokens: so no row's results depend on the others,
    on the CPU bit for bit.
    """

    def __init__(self, model: Llama, rows: int) -> None:
        assert rows > 0
        assert rows % GROUP == 0
        config, device, dtype = model.config, model.device, model.dtype
        few = device.type != "cpu" and rows % (GPU_GROUPS * GROUP) == 0
        self._size = size = rows // GPU_GROUPS if few else GROUP  # R
        self._model = model
        self.lengths = [0] * rows
        self._slots = torch.arange(size, device=device)
        shape = (config.num_layers, 2, size, config.num_kv_heads, SPAN, config.head_dim)
        kept = (size, SPAN, len(model.feature_slots), config.hidden_size)
        self._groups = [
            _Group(
                rows=list(range(first, first + size)),
                memory=torch.zeros(shape, device=device, dtype=dtype),
                features=torch.zeros(kept, device=device, dtype=dtype),
                positions=self._slots,
                bias=self._slots,
                near_bias=self._slots,
            )
            for first in range(0, rows, size)
        ]

    def start(self, row: int, kept: int = 0) -> None:
        assert kept <= self.lengths[row]
        self.lengths[row] = kept

    @torch.inference_mode()
    def forward(self, token_ids: Sequence[Sequence[int]]) -> tuple[Sequence[int], Tensor]:
        window, device = self._model.context_window, self._model.device
        active = [bool(ids) for ids in token_ids]
        if any(reads and held >= window for reads, held in zip(active, self.lengths, strict=True)):
            raise ContextFullError(f"a row has filled the model's context window of {window}")
        self._arrange()
        order = [row for group in self._groups for row in group.rows]
        ids = torch.tensor(
            [token_ids[row][0] if active[row] else 0 for row in order], device=device
        )
        positions = torch.tensor(
            [min(self.lengths[row], window - 1) for row in order], device=device
        )
        for group, each in zip(self._groups, torch.split(positions, self._size), strict=True):
            group.begin_pass(each, self._model.config.sliding_window)
        embedded = self._model.embed(ids)
        hidden = self._model.run_layers(embedded, positions, self._attend, self._keep)
        for row, reads in enumerate(active):
            self.lengths[row] += reads
        # all rows go through the head: products with fewer rows round differently
        logits = self._model.logits(hidden)
        done = [row for row, each in enumerate(token_ids) if len(each) == 1]
        if not done:
            return done, logits[:0]
        place_of = {row: place for place, row in enumerate(order)}
        places = torch.tensor([place_of[row] for row in done], device=device)
        return done, logits.index_select(0, places)

    def features(self, row: int) -> Tensor:
        group = self._group_of(row)
        return group.features[group.rows.index(row), : self.lengths[row]].clone()

    def _keep(self, layer: int, hidden: Tensor) -> None:
        slot = self._model.feature_slots.get(layer)
        if slot is None:
            return
        for group, outputs in zip(self._groups, torch.split(hidden, self._size), strict=True):
            group.features[self._slots, group.positions, slot] = outputs

    def _attend(self, layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """Write [2, K, B, D], then attend with [1, K, G B, D], group by group -> [B, H D]."""
        _, heads, rows, dim = keys_values.shape
        scale, softcap = self._model.scores.scale or dim**-0.5, self._model.scores.softcap
        sliding = layer in self._model.config.sliding_layers
        scaled = queries.view(heads, -1, rows, dim).permute(2, 0, 1, 3) * scale  # [B, K, G, D]
        written = keys_values.permute(2, 0, 1, 3)  # [B, 2, K, D]
        parts = (torch.split(each, self._size) for each in (scaled, written))
        mixed = []
        for group, group_queries, group_written in zip(self._groups, *parts, strict=True):
            memory = group.memory[layer]  # [2, R, K, span, D]
            memory[:, self._slots, :, group.positions] = group_written
            keys, values = memory.flatten(1, 2)
            scores = torch.bmm(group_queries.reshape(self._size * heads, -1, dim), keys.mT)
            if softcap is not None:
                scores = scores.div_(softcap).tanh_().mul_(softcap)
            bias = group.near_bias if sliding else group.bias
            scores = scores.view(self._size, heads, -1, group.span).add_(bias)
            weights = torch.softmax(scores, dim=-1).flatten(0, 1)  # [R K, G, span]
            mixed.append(torch.bmm(weights, values).view(self._size, -1))
        return torch.cat(mixed)

    def _arrange(self) -> None:
        """Regroup rows by length where that pays, and resize each group to its longest row."""
        ranked = sorted(range(len(self.lengths)), key=lambda row: -self.lengths[row])
        firsts = range(0, len(ranked), self._size)
        wanted = [ranked[first : first + self._size] for first in firsts]
        if self._span_of(wanted) <= WORTH_MOVING * self._span_of(g.rows for g in self._groups):
            self._move(wanted)
        for group in self._groups:
            needed = self._needed(group.rows)
            if not needed <= group.span <= needed + SPAN:
                group.resize(needed)

    def _move(self, wanted: Sequence[Sequence[int]]) -> None:
        """Move rows to the groups of `wanted`; the others stay where they are."""
        homes = {row: number for number, rows in enumerate(wanted) for row in rows}
        moving: dict[int, tuple[Tensor, Tensor]] = {}
        for number, group in enumerate(self._groups):
            for slot, row in enumerate(group.rows):
                if homes[row] != number:
                    length = self.lengths[row]
                    memory = group.memory[:, :, slot, :, :length].clone()
                    moving[row] = memory, group.features[slot, :length].clone()
        for number, group in enumerate(self._groups):
            arrivals = [row for row in moving if homes[row] == number]
            free = [slot for slot, row in enumerate(group.rows) if row in moving]
            for slot, row in zip(free, arrivals, strict=True):
                group.rows[slot] = row
        for row, (memory, features) in moving.items():
            group = self._group_of(row)
            slot, length = group.rows.index(row), len(features)
            if length > group.span:
                group.resize(round_up(length, SPAN))
            group.memory[:, :, slot, :, :length] = memory
            group.features[slot, :length] = features

    def _group_of(self, row: int) -> _Group:
        return next(each for each in self._groups if row in each.rows)

    def _needed(self, rows: Sequence[int]) -> int:
        """Span of a group of these rows after one more token each, up to the context window."""
        longest = 1 + max(self.lengths[row] for row in rows)
        return round_up(min(longest, self._model.context_window), SPAN)

    def _span_of(self, groups: Iterable[Sequence[int]]) -> int:
        return sum(map(self._needed, groups))
