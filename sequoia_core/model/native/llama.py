"""A Llama computed by the native library; a `TreeReader`.

A row's logits have the same bits whatever rows are computed with it and however its context was
read, so decoding with a tree at temperature 0 gives the text of plain decoding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import addressof, byref, c_double, c_float, c_int32, c_int64
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sequoia_core.errors import NumberError
from sequoia_core.model.interface import Draws, Summary
from sequoia_core.model.kv_cache import check_room
from sequoia_core.model.native.cache import NativeCache
from sequoia_core.model.native.filling import fill_matrices, fill_vectors, shape_struct
from sequoia_core.model.native.library import (
    ReadingStruct,
    SegmentStruct,
    check,
    forced_instruction_set,
    load_library,
    made,
)
from sequoia_core.model.native.matrices import (
    cache_is_half,
    model_matrices,
)
from sequoia_core.model.native.pool import free_with

if TYPE_CHECKING:
    from array import array

    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.interface import KVCache, LevelDraw, TreeRows
    from sequoia_core.model.native.pool import Pool
    from sequoia_core.model.offload.layer_stream import LayerStream

PREFILL_ROWS = 128
"""Rows read at once by `extend`: bounds the working memory of a long prompt."""

PROMPT_SECONDS = 0.15
"""Time that `prompt_rows` should take; an answer can be stopped after them."""

FIRST_PROMPT_ROWS, FEWEST_PROMPT_ROWS = 32, 8
"""`prompt_rows` before a time is known, and where rows are slow: fewer would be slower still."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """One or more tokens to append to a conversation; the last `logit_rows` of them get logits."""

    cache: NativeCache
    token_ids: Sequence[int]
    logit_rows: int


class NativeLlama:
    """A Llama whose forward is one call of the native library.

    Args:
        config: the model's shape.
        weights: tensors as their file stores them.
        pool: threads to compute with.
        feature_layers: layers whose outputs a cache keeps, for a draft that reads them.
        embedding_of: a model that lends its embedding, for a draft that has none.
        matrix_format: see `stored_matrix`.
        instruction_set: None is the one that the environment names, or the best.

    Attributes:
        kept_layers: layers whose outputs are kept, in slot order.

    Raises:
        ModelLoadError: the library is missing, or a tensor is of a format it does not read.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    """Of activations; products with quantised weights read them in 8 bits."""
    layer_stream: LayerStream | None = None
    """As of `Llama`; layers are always resident."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        pool: Pool,
        *,
        feature_layers: Sequence[int] = (),
        embedding_of: NativeLlama | None = None,
        matrix_format: int | None = None,
        instruction_set: str | None = None,
    ) -> None:
        self.config = config
        self._library = load_library()
        self._pool, self._embedding_of = pool, embedding_of  # kept alive
        self._prompt_rows = FIRST_PROMPT_ROWS
        conditioned = bool(config.feature_layers)
        self.kept_layers = (config.num_layers - 1,) if conditioned else tuple(feature_layers)
        matrices = model_matrices(config, weights, matrix_format)
        shape = shape_struct(config, self.kept_layers, half_cache=cache_is_half(matrices))
        name = instruction_set or forced_instruction_set()
        lender = embedding_of.handle if embedding_of else None
        self.handle: int = made(
            self._library.sequoia_model_new(
                byref(shape), pool.handle, name.encode() if name else None, lender
            )
        )
        free_with(self, self.handle, self._library.sequoia_model_free)
        fill_matrices(self.handle, matrices)
        fill_vectors(self.handle, config, weights)

    @property
    def vocab_size(self) -> int:
        """Columns of the logits: `V`, or fewer for a draft with a trimmed head."""
        return self.config.head_vocab_size

    @property
    def context_window(self) -> int:
        """Most tokens the model can attend over."""
        return self.config.context_window

    @property
    def prompt_rows(self) -> int:
        """Tokens of a prompt that take about `PROMPT_SECONDS`, by the last that were read.

        No result depends on this time: a row has the same bits in any chunk.
        """
        return self._prompt_rows

    @property
    def weight_bytes(self) -> int:
        """Memory of its matrices."""
        return int(self._library.sequoia_model_bytes(self.handle))

    def new_cache(self, target_cache: KVCache | None = None) -> NativeCache:
        """See `LanguageModel.new_cache`."""
        assert target_cache is None or isinstance(target_cache, NativeCache)
        return NativeCache(self, target_cache if self.config.feature_layers else None)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """See `LanguageModel.forward`."""
        assert isinstance(cache, NativeCache)
        logits = torch.empty((len(token_ids), self.vocab_size))
        self._run(token_ids, position_ids, mask, cache, logits)
        return logits

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """See `LanguageModel.extend`."""
        assert isinstance(cache, NativeCache)
        check_room(cache.length + len(token_ids), self.context_window)
        for chunk in torch.split(token_ids, PREFILL_ROWS):
            first, began = cache.length, perf_counter()
            positions = torch.arange(first, first + len(chunk))
            self._run(chunk, positions, None, cache, None)
            if len(chunk) >= FEWEST_PROMPT_ROWS:
                seconds = max(perf_counter() - began, 1e-6)
                rows = int(len(chunk) * PROMPT_SECONDS / seconds)
                self._prompt_rows = min(max(rows, FEWEST_PROMPT_ROWS), 2 * PREFILL_ROWS)

    def _run(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: NativeCache,
        logits: Tensor | None,
    ) -> None:
        rows, length = len(token_ids), cache.length
        check_room(length + rows, self.context_window)
        ids, positions = token_ids.contiguous(), position_ids.contiguous()
        assert ids.dtype == positions.dtype == torch.int64
        assert len(positions) == rows
        segment = _segment(cache, rows, 0 if logits is None else rows)
        if mask is not None:
            assert mask.dtype == torch.bool
            assert mask.shape == (rows, length + rows), (mask.shape, rows, length)
            mask = mask.contiguous()  # alive until the call has ended
            segment.mask = mask.data_ptr()
        pointer = None if logits is None else logits.data_ptr()
        check(
            self._library.sequoia_forward(
                self.handle, byref(segment), 1, ids.data_ptr(), positions.data_ptr(), pointer, None
            )
        )

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        """See `TreeReader.read_tree`."""
        count = len(rows.token_ids)
        logits = torch.empty((count, self.vocab_size))
        found = (c_double * (4 * count))()
        reading = ReadingStruct(
            size=ctypes.sizeof(ReadingStruct),
            inverse_temperature=1.0 / temperature,
            parents=parents.buffer_info()[0],
            summaries=addressof(found),
        )
        self._read(rows, cache, logits, reading)
        return logits, Summary(list(map(int, found[::4])), *(found[at::4] for at in (1, 2, 3)))

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        """See `TreeReader.read_level`."""
        nodes = len(rows.token_ids) if rows.paths else 1
        logits = torch.empty((nodes, self.vocab_size))
        probs = torch.empty((nodes, self.vocab_size))
        columns = (c_int32 * (nodes * count))()
        picked, stated = (c_float * len(columns))(), (c_float * len(columns))()
        peaks, uniforms = (c_float * nodes)(), None
        if draw.generator is not None:
            uniforms = torch.rand(nodes * count, generator=draw.generator, dtype=torch.float64)
        reading = ReadingStruct(
            size=ctypes.sizeof(ReadingStruct),
            inverse_temperature=1.0 / draw.temperature,
            wanted=count,
            probs=probs.data_ptr(),
            uniforms=None if uniforms is None else uniforms.data_ptr(),
            columns=addressof(columns),
            picked=addressof(picked),
            stated=addressof(stated),
            peaks=addressof(peaks),
        )
        self._read(rows, cache, logits, reading)
        if min(columns) < 0:
            raise NumberError(
                "the draft's logits left the range of its number format; take another draft"
            )
        return Draws(columns[:], picked[:], stated[:], peaks[:], probs)

    def _read(self, rows: TreeRows, cache: KVCache, logits: Tensor, reading: ReadingStruct) -> None:
        assert isinstance(cache, NativeCache)
        count = len(rows.token_ids)
        check_room(cache.length + count, self.context_window)
        segment = _segment(cache, count, len(logits))
        if (paths := rows.paths) is not None:
            segment.prefix = rows.prefix
            segment.path_lengths, _ = paths.lengths.buffer_info()
            segment.path_slots, segment.slot_count = paths.rows.buffer_info()
        ids = (c_int64 * count)(*rows.token_ids)
        check(
            self._library.sequoia_forward(
                self.handle, byref(segment), 1, ids, None, logits.data_ptr(), byref(reading)
            )
        )

    def continue_texts(self, texts: Sequence[Continuation]) -> Tensor:
        """Append tokens to different conversations of this model in one forward.

        A row has the bits that it has when its conversation is computed alone.

        Returns:
            float32 [sum of `logit_rows`, V], in the order of `texts`.

        Raises:
            ContextFullError: one exceeds the context window; no cache is changed.
        """
        ids: list[int] = []
        for text in texts:
            rows = len(text.token_ids)
            check_room(text.cache.length + rows, self.context_window)
            assert 0 <= text.logit_rows <= rows
            ids += text.token_ids
        segments = (SegmentStruct * len(texts))(
            *(_segment(text.cache, len(text.token_ids), text.logit_rows) for text in texts)
        )
        logits = torch.empty((sum(text.logit_rows for text in texts), self.vocab_size))
        c_ids = (c_int64 * len(ids))(*ids)
        check(
            self._library.sequoia_forward(
                self.handle, segments, len(segments), c_ids, None, logits.data_ptr(), None
            )
        )
        return logits


def _segment(cache: NativeCache, rows: int, logit_rows: int) -> SegmentStruct:
    """Rows that continue a cache's text, the last `logit_rows` with logits."""
    return SegmentStruct(
        size=ctypes.sizeof(SegmentStruct),
        rows=rows,
        logit_rows=logit_rows,
        cache=cache.handle,
        target_cache=cache.target.handle if cache.target else None,
    )
