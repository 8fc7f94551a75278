"""A Llama computed by the native library; a `TreeReader`.

A row's logits have the same bits whatever rows are computed with it and however its context was
read, so decoding with a tree at temperature 0 gives the text of plain decoding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ctypes import addressof, byref, c_double, c_float, c_int32, c_int64
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from sequoia_core.errors import NumberError
from sequoia_core.model.interface import Draws, Summary
from sequoia_core.model.kv_cache import check_room
from sequoia_core.model.native import library, matrices
from sequoia_core.model.native.library import ReadingStruct, SegmentStruct

if TYPE_CHECKING:
    from array import array

    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.interface import KVCache, LevelDraw, TreeRows
    from sequoia_core.model.native.library import Pool

PREFILL_ROWS = 128  # rows read at once by `extend`: bounds the working memory of a long prompt
PROMPT_SECONDS = 0.15  # time that `prompt_rows` should take; an answer can be stopped after them
FIRST_PROMPT_ROWS = 32  # before a time is known
FEWEST_PROMPT_ROWS = 8  # where rows are slow: fewer would be slower still


class NativeCache:
    """A `KVCache`; a conditioned draft's reads the target's cache, or zeros without one."""

    def __init__(self, model: NativeLlama, target: NativeCache | None = None) -> None:
        self.handle: int = library.made("cache", self, model.handle)
        self.target = target
        self._keeps_root_only = model.config.feature_layers != ()
        self._feature_shape = (len(model.kept_layers), model.config.hidden_size)

    @property
    def length(self) -> int:
        return int(library.load_library().sequoia_cache_length(self.handle))

    @property
    def nbytes(self) -> int:
        return int(library.load_library().sequoia_cache_bytes(self.handle))

    def held_bytes(self) -> dict[torch.device, tuple[int, int]]:
        """See `SizedCache.held_bytes`; pages are there for what is held only."""
        return {NativeLlama.device: (self.nbytes, self.nbytes)}

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """See `KVCache.keep`, and `ConditionedCache.keep` for a conditioned draft."""
        kept = list(rows[:1] if self._keeps_root_only else rows)
        array = (c_int32 * len(kept))(*kept)
        library.call("cache_keep", self.handle, committed, array, len(kept))

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on; pages that are not needed are freed."""
        library.call("cache_truncate", self.handle, length)

    def release(self) -> None:
        self.truncate(self.length)

    def features(self, start: int, stop: int) -> Tensor:
        """Outputs of the model's kept layers for tokens, float32 [stop - start, F, hidden]."""
        found = torch.empty((stop - start, *self._feature_shape))
        library.call("cache_features", self.handle, start, stop - start, found.data_ptr())
        return found


@dataclass(frozen=True, slots=True)
class Continuation:
    """One or more tokens to append to a conversation; the last `logit_rows` of them get logits."""

    cache: NativeCache
    token_ids: Sequence[int]
    logit_rows: int


class NativeLlama:
    """A Llama whose forward is one call of the native library."""

    device = torch.device("cpu")
    dtype = torch.float32  # of activations; products with quantised weights read them in 8 bits

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],  # as their file stores them
        pool: Pool,
        *,
        feature_layers: Sequence[int] = (),  # whose outputs a cache keeps, for a draft to read
        embedding_of: NativeLlama | None = None,  # lends it to a draft that has none
        matrix_format: int | None = None,  # see `stored_matrix`
        instruction_set: str | None = None,  # None: that of the environment, or the best
    ) -> None:
        self.config = config
        self.vocab_size = config.head_vocab_size  # `V`, or fewer for a draft with a trimmed head
        self.context_window = config.context_window
        self.prompt_rows = FIRST_PROMPT_ROWS  # no result depends on it: a row's bits are the same
        self._kept_alive = pool, embedding_of
        conditioned = bool(config.feature_layers)
        self.kept_layers = (config.num_layers - 1,) if conditioned else tuple(feature_layers)
        stored = matrices.model_matrices(config, weights, matrix_format)
        half_cache = matrices.cache_is_half(stored)
        shape = matrices.shape_struct(config, self.kept_layers, half_cache=half_cache)
        name = instruction_set or library.forced_instruction_set()
        instructions = name.encode() if name else None
        lender = embedding_of.handle if embedding_of else None
        self.handle: int = library.made(
            "model", self, byref(shape), pool.handle, instructions, lender
        )
        matrices.fill_matrices(self.handle, stored)
        matrices.fill_vectors(self.handle, config, weights)

    @property
    def weight_bytes(self) -> int:
        return int(library.load_library().sequoia_model_bytes(self.handle))

    def new_cache(self, target_cache: KVCache | None = None) -> NativeCache:
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
        rows, length = len(token_ids), cache.length
        ids, positions = token_ids.contiguous(), position_ids.contiguous()
        assert ids.dtype == positions.dtype == torch.int64
        assert len(positions) == rows
        segment = self._segment(cache, rows, rows)
        if mask is not None:
            assert mask.dtype == torch.bool
            prefix = length + rows - mask.shape[1]
            mask = functional.pad(mask, (prefix, 0), value=True)  # alive until the call has ended
            assert mask.shape == (rows, length + rows), (mask.shape, rows, length)
            segment.mask = mask.data_ptr()
        logits = torch.empty((rows, self.vocab_size))
        self._call([segment], ids.data_ptr(), logits, positions.data_ptr())
        return logits

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """See `LanguageModel.extend`; sets `prompt_rows` to what takes `PROMPT_SECONDS`."""
        check_room(cache.length + len(token_ids), self.context_window)
        assert token_ids.dtype == torch.int64
        for chunk in torch.split(token_ids.contiguous(), PREFILL_ROWS):
            began = perf_counter()
            self._call([self._segment(cache, len(chunk), 0)], chunk.data_ptr(), None)
            if len(chunk) >= FEWEST_PROMPT_ROWS:
                seconds = max(perf_counter() - began, 1e-6)
                rows = int(len(chunk) * PROMPT_SECONDS / seconds)
                self.prompt_rows = min(max(rows, FEWEST_PROMPT_ROWS), 2 * PREFILL_ROWS)

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        count = len(rows.token_ids)
        logits = torch.empty((count, self.vocab_size))
        found = (c_double * (4 * count))()
        inverse, address = 1.0 / temperature, parents.buffer_info()[0]
        reading = ReadingStruct(
            inverse_temperature=inverse, parents=address, summaries=addressof(found)
        )
        self._read(rows, cache, logits, reading)
        return logits, Summary(list(map(int, found[::4])), *(found[at::4] for at in (1, 2, 3)))

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        nodes = len(rows.token_ids) if rows.paths else 1
        logits = torch.empty((nodes, self.vocab_size))
        probs = torch.empty((nodes, self.vocab_size))
        columns = (c_int32 * (nodes * count))()
        picked, stated = (c_float * len(columns))(), (c_float * len(columns))()
        peaks, uniforms = (c_float * nodes)(), None
        if draw.generator is not None:
            uniforms = torch.rand(nodes * count, generator=draw.generator, dtype=torch.float64)
        reading = ReadingStruct(
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
        count = len(rows.token_ids)
        segment = self._segment(cache, count, len(logits))
        if (paths := rows.paths) is not None:
            segment.prefix = rows.prefix
            segment.path_lengths, _ = paths.lengths.buffer_info()
            segment.path_slots, segment.slot_count = paths.rows.buffer_info()
        self._call([segment], (c_int64 * count)(*rows.token_ids), logits, reading=reading)

    def continue_texts(self, texts: Sequence[Continuation]) -> Tensor:
        """Append tokens to different conversations: float32 [sum of `logit_rows`, V].

        A row has the bits that it has when its conversation is computed alone. Raises
        ContextFullError if one exceeds the context window; no cache is changed.
        """
        segments = [
            self._segment(each.cache, len(each.token_ids), each.logit_rows) for each in texts
        ]
        ids = [token for each in texts for token in each.token_ids]
        logits = torch.empty((sum(each.logit_rows for each in texts), self.vocab_size))
        self._call(segments, (c_int64 * len(ids))(*ids), logits)
        return logits

    def _segment(self, cache: KVCache, rows: int, logit_rows: int) -> SegmentStruct:
        """Rows that continue a cache's text, the last `logit_rows` with logits."""
        assert isinstance(cache, NativeCache)
        check_room(cache.length + rows, self.context_window)
        return SegmentStruct(
            rows=rows,
            logit_rows=logit_rows,
            cache=cache.handle,
            target_cache=cache.target.handle if cache.target else None,
        )

    def _call(
        self,
        segments: Sequence[SegmentStruct],
        ids: Any,
        logits: Tensor | None,
        positions: int | None = None,
        reading: ReadingStruct | None = None,
    ) -> None:
        library.call(
            "forward",
            self.handle,
            (SegmentStruct * len(segments))(*segments),
            len(segments),
            ids,
            positions,
            None if logits is None else logits.data_ptr(),
            None if reading is None else byref(reading),
        )
