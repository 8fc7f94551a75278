"""Forwards of a Llama by recordings: rows padded to a bucket, at slots of a leased cache."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Hashable
from typing import TYPE_CHECKING, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.model.graphs import (
    Graphs,
    Recording,
    Rung,
    least_tokens,
    row_bucket,
    span_bucket,
)
from sequoia_core.model.kv_cache import LayeredKVCache, LeasePool

if TYPE_CHECKING:
    from sequoia_core.model.interface import KVCache, LanguageModel
    from sequoia_core.model.llama import Llama

CAUSAL_ROWS = 64  # more rows without a mask are a prompt's, whose numbers do not repeat
PLAIN_SPAN = 4096  # above it one row takes the kernel without a mask, which divides the keys
CHECKED = 2  # lengths at which each recording is compared: a length that is baked in shows
KEPT_MASKS = 64
NEARLY_FULL = 0.75  # of a span: recordings for the next one are made in idle time
ROUNDING = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Of the largest logit: what is larger is no rounding."""


class _Shape(NamedTuple):
    """Key of a recording."""

    leases: tuple[int, ...]
    rows: int  # R
    columns: int  # of the mask
    span: int
    with_parents: bool


class _Mask(NamedTuple):
    """What a forward's rows see, as its recording takes it."""

    source: Tensor | None  # held, since its identity is the key
    bordered: Tensor  # [G R, columns + 2]
    offsets: Tensor  # int64 [3], from the length to `_Rows.bounds`


class _Rows:
    """Inputs and output at fixed addresses, of rows of one bucket."""

    def __init__(self, model: Llama, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns
        self.token_ids, self.position_ids, self.parents = (
            torch.zeros(rows, dtype=torch.int64, device=model.device) for _ in range(3)
        )
        self.bounds = torch.zeros(3, dtype=torch.int64, device=model.device)
        """Slots of the mask's first token, of the first row, and after the last one."""
        nothing = torch.zeros((rows, columns), dtype=torch.bool, device=model.device)
        self.bordered = model.bordered(nothing)
        self.logits = torch.zeros((rows, model.vocab_size), device=model.device)
        self._mask: _Mask | None = None

    def idle(self, scratch: int) -> None:
        """Until they are filled, all rows go to the scratch row."""
        self.bounds.fill_(scratch)

    def fill(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: _Mask,
        parents: Tensor | None,
        length: int,
    ) -> None:
        count = token_ids.shape[0]
        self.token_ids[:count].copy_(token_ids)
        self.position_ids[:count].copy_(position_ids)
        torch.add(mask.offsets, length, out=self.bounds)
        if parents is not None:
            torch.add(parents, length, out=self.parents[:count])
        if self._mask is not mask:
            self.bordered.copy_(mask.bordered)
            self._mask = mask

    def compute(self, model: Llama, cache: LayeredKVCache, shape: _Shape) -> Tensor:
        """Logits [R, V] of what the inputs hold."""
        first, start, stop = self.bounds.unbind()
        slots = torch.arange(self.rows, device=model.device) + start
        slots = slots.masked_fill_(slots >= stop, cache.scratch)
        whole = model.attention.whole(least_tokens(shape.span) - shape.columns)
        bias = model.bias_at(self.bordered, first, shape.span, whole)
        parents = self.parents if shape.with_parents else None
        inputs = self.token_ids, self.position_ids, slots, bias
        hidden = model.rows_at(*inputs, cache, parents, whole)
        return self.logits.copy_(model.logits(hidden))


class _Several(Protocol):
    def prepare(
        self, graphs: Graphs, model: Llama, cache: LayeredKVCache, span: int, longer: int
    ) -> bool:
        """Record over a longer span what is over this one; False if there is nothing to do."""


class RecordedForward:
    """How a `Llama` on one device computes by recordings; `graphs` are its pair's.

    Its caches lease their memory from `pool`, since a recording holds for one memory only.
    """

    def __init__(self, graphs: Graphs) -> None:
        self.graphs = graphs
        self.pool = LeasePool(graphs.retired)
        self.loops = WeakValueDictionary[Hashable, _Several]()
        """Works of several forwards; each lives as long as a recording of it."""
        self._dropped = graphs.dropped
        self._rows: dict[tuple[int, int], _Rows] = {}
        self._masks = OrderedDict[tuple[int, ...], _Mask]()
        self._offsets: dict[tuple[int, int], Tensor] = {}
        self._checked = defaultdict[_Shape, set[int]](set)
        """Lengths at which a recording was compared."""

    def forward(
        self,
        model: Llama,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: LayeredKVCache,
        parents: Tensor | None,
    ) -> Tensor | None:
        """See `LanguageModel.forward`; None where this forward is not recorded."""
        count = token_ids.shape[0]
        self.forget_dropped()
        if self.graphs.rung < Rung.FORWARDS:
            return None
        if not _is_of_step(count, mask, cache.length) or cache.length < model.unseen_rows:
            return None
        cache.reserve(count)
        rows = self._rows_for(model, count, count if mask is None else mask.shape[1])
        if rows is None:
            return None
        span = span_bucket(cache.length + count, cache.capacity)
        shape = _Shape(cache.lease_numbers, rows.rows, rows.columns, span, parents is not None)
        recording = self._recording(model, cache, rows, shape)
        if recording is None:
            return None
        expected = None
        length = cache.length
        lengths = self._checked[shape]
        if len(lengths) < CHECKED and length not in lengths:
            lengths.add(length)
            expected = model.forward_eagerly(token_ids, position_ids, mask, cache, parents)
            cache.truncate(length)
        rows.fill(token_ids, position_ids, self._mask(model, mask, count, rows), parents, length)
        logits = recording.replay()[:count]
        if expected is not None and not same_logits(logits, expected, model.dtype):
            self.graphs.step_down(Rung.EAGER, "one computes something else than its kernels do")
            return None
        cache.advance(count)
        return logits

    @torch.inference_mode()
    def prepare(self, model: Llama, cache: LayeredKVCache) -> bool:
        """Record one work over the next longer span, if this one is nearly full, for idle time.

        False if there is nothing to record.
        """
        span = span_bucket(cache.length + 1, cache.capacity)
        if self.graphs.rung < Rung.FORWARDS or cache.length < NEARLY_FULL * span:
            return False
        longer = span_bucket(span + 1, cache.capacity)
        known = [key for key in self.graphs.known if isinstance(key, _Shape)]
        for shape in known:
            wanted = shape._replace(span=longer)
            if (shape.leases, shape.span) == (cache.lease_numbers, span) and wanted not in known:
                rows = self._rows[shape.rows, shape.columns]
                return self._recording(model, cache, rows, wanted) is not None
        several = list(self.loops.values())
        return any(each.prepare(self.graphs, model, cache, span, longer) for each in several)

    def forget_dropped(self) -> None:
        """Free what only recordings need that were dropped since the last call."""
        if self._dropped == self.graphs.dropped:
            return
        self._dropped = self.graphs.dropped
        self._rows.clear()
        self._masks.clear()
        self.pool.clear()

    def _recording(
        self, model: Llama, cache: LayeredKVCache, rows: _Rows, shape: _Shape
    ) -> Recording[Tensor] | None:
        if shape not in (known := self.graphs.known):
            rows.idle(cache.scratch)
            for each in [each for each in self._checked if each not in known]:
                del self._checked[each]  # recorded again, it is compared again
        return self.graphs.recording(shape, lambda: rows.compute(model, cache, shape))

    def _rows_for(self, model: Llama, count: int, width: int) -> _Rows | None:
        rows, columns = row_bucket(count), row_bucket(width)
        if rows is None or columns is None:
            return None
        found = self._rows.get((rows, columns))
        if found is None:
            found = self._rows[rows, columns] = _Rows(model, rows, columns)
        return found

    def _mask(self, model: Llama, source: Tensor | None, count: int, rows: _Rows) -> _Mask:
        key = (0 if source is None else id(source), count, rows.rows, rows.columns)
        found = self._masks.get(key)
        if found is None:
            mask = source
            if mask is None:
                mask = torch.ones((count, count), dtype=torch.bool, device=model.device).tril()
            width = mask.shape[1]
            # a row that only fills up the shape must see something, as a softmax of nothing is NaN
            padded = functional.pad(mask, (0, rows.columns - width))
            padded = functional.pad(padded, (0, 0, 0, rows.rows - count), value=True)
            offsets = self._offsets.get((count, width))
            if offsets is None:  # masks of adaptive trees are new at each step, these are not
                offsets = torch.tensor((count - width, 0, count), device=model.device)
                self._offsets[count, width] = offsets
            found = self._masks[key] = _Mask(source, model.bordered(padded), offsets)
            if len(self._masks) > KEPT_MASKS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(key)
        return found


def record_forwards(graphs: Graphs, *models: Llama) -> None:
    """Let the models of a pair, each on the same one device, compute by recordings."""
    for model in models:
        model.recorded = RecordedForward(graphs)


def graphs_of(model: LanguageModel | None) -> Graphs | None:
    """What a model's forwards are recorded in, if they are."""
    recorded: RecordedForward | None = getattr(model, "recorded", None)
    return recorded.graphs if recorded else None


def prepare_forward(model: LanguageModel | None, cache: KVCache | None) -> bool:
    """See `RecordedForward.prepare`; False of models whose forwards are not recorded."""
    recorded = getattr(model, "recorded", None)
    return recorded is not None and bool(recorded.prepare(model, cache))


def _is_of_step(count: int, mask: Tensor | None, length: int) -> bool:
    if mask is not None:
        return True
    return length < PLAIN_SPAN if count == 1 else count <= CAUSAL_ROWS


def same_logits(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether logits [n, V] differ by rounding only, computed in a dtype; waits for the device."""
    allowed = ROUNDING[dtype] * expected.abs().amax()
    close = (found - expected).abs().amax() <= allowed  # false of what is not a number
    best = expected.topk(2, dim=-1)
    clear = best.values[:, 0] - best.values[:, 1] > allowed
    agree = (found.argmax(-1) == best.indices[:, 0]).logical_or_(~clear).all()
    return bool(close.logical_and_(agree))
