"""A Llama computed by the native library; see `protocols.LanguageModel`.

A row's logits have the same bits whatever rows are computed with it and however its context was
read, so decoding with a tree at temperature 0 gives the text of plain decoding.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from ctypes import addressof, byref, c_double, c_float, c_int32, c_int64
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sequoia_core.errors import NumberError
from sequoia_core.model.interface import Draws, Summary
from sequoia_core.model.kv_cache import check_room
from sequoia_core.model.loading.weights import (
    EMBEDDING,
    HEAD,
    INPUT_SCALE,
    INPUT_SHIFT,
    OWN_INPUT,
    TARGET_INPUT,
)
from sequoia_core.model.malloc_trim import release_file_pages
from sequoia_core.model.native.library import (
    ModelShapeStruct,
    ReadingStruct,
    SegmentStruct,
    check,
    forced_instruction_set,
    load_library,
    made,
)
from sequoia_core.model.native.matrices import (
    ROWS_TOGETHER,
    StoredMatrix,
    round_up,
    stored_matrix,
)
from sequoia_core.model.rope import inverse_frequencies

if TYPE_CHECKING:
    from array import array

    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.interface import KVCache, LevelDraw, TreeRows
    from sequoia_core.model.loading.weights import Weights
    from sequoia_core.model.offload.layer_stream import LayerRing

PREFILL_ROWS = 128
"""Rows read at once by `extend`: bounds the working memory of a long prompt."""

PROMPT_SECONDS = 0.15
"""That `prompt_rows` are to take; an answer can be stopped after them."""

FIRST_PROMPT_ROWS, FEWEST_PROMPT_ROWS = 32, 8
"""`prompt_rows` before there is a time, and where rows are slow: fewer would be slower still."""

FILL_ROWS = 4096
"""Rows of a file that lie in memory at once while they are copied."""

LAYER_PARTS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""Matrices of a layer in the order of `Part` in model.hpp."""

_READING_SIZE, _SEGMENT_SIZE = ctypes.sizeof(ReadingStruct), ctypes.sizeof(SegmentStruct)

HEAD_PARTS = range(3)
"""Those whose rows are filled up to whole blocks, head by head."""
EMBEDDING_PART, HEAD_PART, TARGET_INPUT_PART, OWN_INPUT_PART = 7, 8, 9, 10
ATTENTION_NORM, MLP_NORM, FINAL_NORM, SHIFT, SCALE = range(5)


class Pool:
    """Threads that all models of a process share.

    Args:
        threads: how many compute, the caller's among them.
    """

    def __init__(self, threads: int) -> None:
        library = load_library()
        self.handle: int = made(library.sequoia_pool_new(threads))
        self.threads = threads
        _freed_with(self, library.sequoia_pool_free)


class NativeCache:
    """Keys and values of one conversation; see `protocols.KVCache`.

    Args:
        model: whose rows it keeps.
        target: of a conditioned draft, the target's cache; None reads zeros.
    """

    def __init__(self, model: NativeLlama, target: NativeCache | None = None) -> None:
        self._library = load_library()
        self.handle: int = made(self._library.sequoia_cache_new(model.handle))
        self.target = target
        self._first_row_only = model.config.feature_layers != ()
        self._feature_shape = (len(model.kept_layers), model.config.hidden_size)
        _freed_with(self, self._library.sequoia_cache_free)

    @property
    def length(self) -> int:
        """Tokens held, `S`."""
        return int(self._library.sequoia_cache_length(self.handle))

    @property
    def nbytes(self) -> int:
        """Memory of its pages."""
        return int(self._library.sequoia_cache_bytes(self.handle))

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """Keep the first `committed` tokens and, after them, the given later rows in order.

        A conditioned draft keeps only the first: the rows below a tree's root were made from its
        own outputs, and are read again with the target's hidden states.
        """
        kept = list(rows[:1] if self._first_row_only else rows)
        array = (c_int32 * len(kept))(*kept)
        check(self._library.sequoia_cache_keep(self.handle, committed, array, len(kept)))

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on; pages that are not needed are freed."""
        check(self._library.sequoia_cache_truncate(self.handle, length))

    def release(self) -> None:
        """Return memory that the tokens held do not need."""
        self.truncate(self.length)

    def features(self, first: int, stop: int) -> Tensor:
        """Outputs of the layers that the model keeps, of the tokens from `first` to before `stop`.

        Returns:
            float32 [stop - first, F, hidden].
        """
        found = torch.empty((stop - first, *self._feature_shape))
        check(
            self._library.sequoia_cache_features(self.handle, first, stop - first, found.data_ptr())
        )
        return found


@dataclass(frozen=True, slots=True)
class Continued:
    """Tokens that a conversation goes on with.

    Attributes:
        cache: of the conversation.
        token_ids: n of them, one or more.
        logit_rows: the last rows whose logits are wanted, 0 to n.
    """

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
        matrix_format: what matrices are held in; see `stored_matrix`.
        instruction_set: a name out of `library.instruction_sets`; None is the one that the
            environment names, or the best.

    Attributes:
        kept_layers: layers whose outputs are kept, in slot order; () keeps none.

    Raises:
        ModelLoadError: the library is missing, or a tensor is of a format it does not read.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    """Of what the layers pass on; products with quantised weights read it in 8 bits."""
    ring: LayerRing | None = None
    """As of `Llama`; layers are always resident."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor] | Weights,
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
        kept = (config.num_layers - 1,) if conditioned else tuple(feature_layers)
        self.kept_layers = kept
        matrices = model_matrices(config, weights, matrix_format)
        frequencies = inverse_frequencies(config) / config.rope_factor
        shape = ModelShapeStruct(
            size=ctypes.sizeof(ModelShapeStruct),
            layers=config.num_layers,
            hidden=config.hidden_size,
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            vocab=config.vocab_size,
            head_rows=config.head_vocab_size,
            norm_epsilon=config.rms_norm_eps,
            half_cache=int(cache_is_half(matrices)),
            feature_count=len(kept),
            feature_layers=(c_int32 * len(kept))(*kept),
            target_features=len(config.feature_layers),
            inverse_frequencies=(c_float * len(frequencies))(*frequencies.tolist()),
        )
        name = instruction_set or forced_instruction_set()
        lender = embedding_of.handle if embedding_of else None
        self.handle: int = made(
            self._library.sequoia_model_new(
                byref(shape), pool.handle, name.encode() if name else None, lender
            )
        )
        _freed_with(self, self._library.sequoia_model_free)
        self._fill(matrices, weights)

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

        Time decides here, which no result depends on: a row has the same bits in any chunk.
        """
        return self._prompt_rows

    @property
    def weight_bytes(self) -> int:
        """Memory of its matrices."""
        return int(self._library.sequoia_model_bytes(self.handle))

    def new_cache(self, beside: KVCache | None = None) -> NativeCache:
        """An empty cache; `beside` is the target's, for a conditioned draft."""
        reads_target = bool(self.config.feature_layers)
        assert beside is None or isinstance(beside, NativeCache)
        return NativeCache(self, beside if reads_target else None)

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Logits of n new rows; see `protocols.LanguageModel.forward`.

        Raises:
            ContextFullError: S + n exceeds the context window.
        """
        assert isinstance(cache, NativeCache)
        logits = torch.empty((len(token_ids), self.vocab_size))
        self._run(token_ids, position_ids, mask, cache, logits)
        return logits

    def read_tree(
        self, rows: TreeRows, parents: array[int], temperature: float, cache: KVCache
    ) -> tuple[Tensor, Summary]:
        """See `protocols.TreeReader.read_tree`.

        Raises:
            ContextFullError: S + T exceeds the context window.
        """
        count = len(rows.token_ids)
        logits = torch.empty((count, self.vocab_size))
        found = (c_double * (4 * count))()
        reading = ReadingStruct(
            size=_READING_SIZE,
            inverse_temperature=1.0 / temperature,
            parents=parents.buffer_info()[0],
            summaries=addressof(found),
        )
        self._read(rows, cache, logits, reading)
        return logits, Summary(list(map(int, found[::4])), *(found[at::4] for at in (1, 2, 3)))

    def read_level(self, rows: TreeRows, count: int, cache: KVCache, draw: LevelDraw) -> Draws:
        """See `protocols.TreeReader.read_level`.

        Raises:
            ContextFullError: S + n exceeds the context window.
            NumberError: a logit is not a number.
        """
        nodes = len(rows.token_ids) if rows.paths else 1
        logits = torch.empty((nodes, self.vocab_size))
        probs = torch.empty((nodes, self.vocab_size))
        columns = (c_int32 * (nodes * count))()
        picked, stated = (c_float * len(columns))(), (c_float * len(columns))()
        peaks, uniforms = (c_float * nodes)(), None
        if draw.generator is not None:
            uniforms = torch.rand(nodes * count, generator=draw.generator, dtype=torch.float64)
        reading = ReadingStruct(
            size=_READING_SIZE,
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

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        """Append n tokens after the S cached ones without computing logits.

        Raises:
            ContextFullError: S + n exceeds the context window; the cache is unchanged.
        """
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
        ids, places = token_ids.contiguous(), position_ids.contiguous()
        assert ids.dtype == places.dtype == torch.int64
        assert len(places) == rows
        segment = _segment(cache, rows, 0 if logits is None else rows)
        if mask is not None:
            assert mask.dtype == torch.bool
            assert mask.shape == (rows, length + rows), (mask.shape, rows, length)
            mask = mask.contiguous()  # alive until the call has ended
            segment.mask = mask.data_ptr()
        check(
            self._library.sequoia_forward(
                self.handle,
                byref(segment),
                1,
                ids.data_ptr(),
                places.data_ptr(),
                None if logits is None else logits.data_ptr(),
                None,
            )
        )

    def continue_texts(self, texts: Sequence[Continued]) -> Tensor:
        """Append tokens to several conversations in one forward.

        A row has the bits that it has when its conversation is computed alone.

        Args:
            texts: of different conversations of this model.

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
        given = (c_int64 * len(ids))(*ids)
        check(
            self._library.sequoia_forward(
                self.handle, segments, len(segments), given, None, logits.data_ptr(), None
            )
        )
        return logits

    def _fill(
        self,
        matrices: Sequence[tuple[int, int, StoredMatrix]],
        weights: Mapping[str, Tensor] | Weights,
    ) -> None:
        library, handle = self._library, self.handle
        for layer, part, matrix in matrices:
            rows, columns = matrix.shape
            check(
                library.sequoia_model_declare(
                    handle, layer, part, matrix.file_format, rows, columns
                )
            )
        check(library.sequoia_model_allocate(handle))
        for layer, part, matrix in matrices:
            rotary = int(matrix.interleaved_rotary)
            data = matrix.data()
            assert len(data) == matrix.shape[0]
            for first in range(0, len(data), FILL_ROWS):
                block = data[first : first + FILL_ROWS]
                pointer, width = block.ctypes.data, block.shape[1]
                check(
                    library.sequoia_model_fill(
                        handle, layer, part, first, len(block), pointer, width, rotary
                    )
                )
                release_file_pages(data)
            if matrix.row_scales is not None:
                scales = matrix.row_scales
                check(
                    library.sequoia_model_set_scale(
                        handle, layer, part, scales.ctypes.data, len(scales)
                    )
                )
        for layer in range(self.config.num_layers):
            prefix = f"model.layers.{layer}"
            for part, name in enumerate(LAYER_PARTS):
                if self.config.has_bias(module := f"{prefix}.{name}"):
                    self._bias(layer, part, weights[f"{module}.bias"])
            self._vector(layer, ATTENTION_NORM, weights[f"{prefix}.input_layernorm.weight"])
            self._vector(layer, MLP_NORM, weights[f"{prefix}.post_attention_layernorm.weight"])
        self._vector(0, FINAL_NORM, weights["model.norm.weight"])
        if self.config.feature_layers:
            self._vector(0, SHIFT, weights[INPUT_SHIFT])
            self._vector(0, SCALE, weights[INPUT_SCALE])

    def _bias(self, layer: int, part: int, values: Tensor) -> None:
        # in the order of Hugging Face's files, whatever order the matrix has
        flat = values.float().contiguous()
        check(
            self._library.sequoia_model_set_bias(
                self.handle, layer, part, flat.data_ptr(), flat.numel(), 0
            )
        )

    def _vector(self, layer: int, vector: int, values: Tensor) -> None:
        flat = values.float().contiguous()
        check(
            self._library.sequoia_model_set_vector(
                self.handle, layer, vector, flat.data_ptr(), flat.numel()
            )
        )


def _segment(cache: NativeCache, rows: int, logit_rows: int) -> SegmentStruct:
    """Rows that continue a cache's text, the last `logit_rows` with logits."""
    return SegmentStruct(
        size=_SEGMENT_SIZE,
        rows=rows,
        logit_rows=logit_rows,
        cache=cache.handle,
        target_cache=cache.target.handle if cache.target else None,
    )


def _freed_with(owner: Pool | NativeCache | NativeLlama, free: Callable[[int], None]) -> None:
    """Free the library's object with its owner, but not when the interpreter ends.

    A daemon thread may still compute with it then.
    """
    weakref.finalize(owner, free, owner.handle).atexit = False


def model_matrices(
    config: ModelConfig, weights: Mapping[str, Tensor] | Weights, matrix_format: int | None = None
) -> list[tuple[int, int, StoredMatrix]]:
    """Layer, part and content of each matrix.

    Raises:
        ModelLoadError: a matrix is stored in a format that the library does not read.
    """
    named = [
        (layer, part, f"model.layers.{layer}.{name}.weight")
        for layer in range(config.num_layers)
        for part, name in enumerate(LAYER_PARTS)
    ]
    if not config.embeddings_from_target:
        named.append((0, EMBEDDING_PART, EMBEDDING))
    if not config.tie_word_embeddings:
        named.append((0, HEAD_PART, HEAD))
    if config.feature_layers:
        named += [(0, TARGET_INPUT_PART, TARGET_INPUT), (0, OWN_INPUT_PART, OWN_INPUT)]
    return [
        (layer, part, stored_matrix(weights, name, matrix_format)) for layer, part, name in named
    ]


def cache_is_half(matrices: Sequence[tuple[int, int, StoredMatrix]]) -> bool:
    """Whether keys and values are float16: no matrix has finer numbers."""
    return all(each.half_precision for _, _, each in matrices)


def planned_bytes(config: ModelConfig, matrices: Sequence[tuple[int, int, StoredMatrix]]) -> int:
    """Memory that the matrices will take; see `NativeLlama.weight_bytes`."""
    padded = round_up(config.head_dim, ROWS_TOGETHER)
    total = 0
    for _, part, matrix in matrices:
        rows = matrix.shape[0]
        total += matrix.nbytes(rows // config.head_dim * padded if part in HEAD_PARTS else rows)
    return total


def planned_token_bytes(config: ModelConfig, half: bool, feature_slots: int = 0) -> int:
    """Memory of one token in a cache; its pages hold 256 tokens.

    Args:
        config: shape of the model.
        half: see `cache_is_half`.
        feature_slots: hidden states held per token.
    """
    head = config.head_dim + round_up(config.head_dim, ROWS_TOGETHER)
    values = config.num_layers * config.num_kv_heads * head
    return (2 if half else 4) * values + 4 * feature_slots * config.hidden_size
