"""A model's weights in the native library: as their files store them, or in another format."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from ctypes import c_float, c_int32
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.config import Quantize
from sequoia_core.model import tensor_names as names
from sequoia_core.model.kv_cache import round_up
from sequoia_core.model.layers import inverse_frequencies
from sequoia_core.model.loading.weights import (
    DTYPE_FORMATS,
    Bytes,
    StoredMatrix,
    Weights,
    bytes_of,
    unread_format,
)
from sequoia_core.model.malloc_trim import release_file_pages
from sequoia_core.model.native.library import ModelShapeStruct, call

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig

# in the order of `Part` in model.hpp
LAYER_PARTS = tuple(chain.from_iterable(names.PRODUCTS.values()))
EMBEDDING_PART, HEAD_PART, TARGET_INPUT_PART, OWN_INPUT_PART = 7, 8, 9, 10
PADDED_PARTS = range(3)  # queries, keys and values: rows of each head are padded to whole blocks

FEATURES = frozenset({
    "qkv_bias", "qk_norm", "norm_inputs", "norm_outputs", "unrotated_layers", "attention_scale",
    "embedding_multiplier", "residual_multiplier", "logits_divisor", "sliding_window",
    "sliding_layers", "norms_add_one", "activation", "scaled_embedding", "local_rope_theta",
    "attention_softcap", "logit_softcap", "fused", "rotary_dim", "long_rope",
})  # fmt: skip
"""Of `ModelConfig.beyond_llama`, those that the library computes."""

LAYER_VECTORS = ("attention", "mlp", "query", "key", "attention_out", "mlp_out")
"""Norms of a layer, as named by `layer_norms`, in the order of `Vector` in model.hpp."""
MODEL_VECTORS = (names.FINAL_NORM, names.INPUT_SHIFT, names.INPUT_SCALE)
"""Those that follow there."""

GROUP = 32  # columns of a group in the library's layout, and of a block of Q8_0
ROWS_TOGETHER = 16  # rows of a block in the library's layout

F32, Q8_0 = int(GGMLQuantizationType.F32), int(GGMLQuantizationType.Q8_0)
QUANTIZED = {Quantize.INT8: Q8_0, Quantize.INT4: int(GGMLQuantizationType.Q4_0)}
"""The `ggml_type` that floating-point matrices are rounded to."""
FORMAT_DTYPES = {kind: dtype for dtype, kind in DTYPE_FORMATS.items()}

GROUP_BYTES = {
    GGMLQuantizationType[name]: size
    for name, size in {
        "F32": 128.0, "F16": 64.0, "BF16": 64.0, "Q4_0": 18.0, "Q4_1": 20.0, "Q4_K": 18.5,
        "Q5_0": 34.0, "Q5_1": 36.0, "Q5_K": 34.5, "Q6_K": 34.25, "Q8_0": 34.0,
    }.items()
}  # fmt: skip
"""Bytes of 32 columns of a row in the library, by the formats that it reads; see matrix.hpp."""

FILL_ROWS = 4096  # rows of a file that lie in memory at once while they are copied
QUANTISED_AT_ONCE = 1024  # rows; bounds the working memory
Matrices = Mapping[tuple[int, int], StoredMatrix]  # by layer and part of the library's model


def model_matrices(
    config: ModelConfig, weights: Mapping[str, Tensor], wanted: int | None = None
) -> Matrices:
    places = {
        (layer, part): (names.layer_name(layer, f"{module}.weight"), rows)
        for layer in range(config.num_layers)
        for part, (module, rows) in enumerate(_layer_parts(config))
    }
    others = {EMBEDDING_PART: names.EMBEDDING, HEAD_PART: names.HEAD}
    if config.embeddings_from_target:
        del others[EMBEDDING_PART]
    if config.tie_word_embeddings:
        del others[HEAD_PART]
    if config.feature_layers:
        others |= {TARGET_INPUT_PART: names.TARGET_INPUT, OWN_INPUT_PART: names.OWN_INPUT}
    places |= {(0, part): (name, slice(None)) for part, name in others.items()}
    return {
        place: stored_matrix(weights, name, _format_at(place[1], wanted), rows)
        for place, (name, rows) in places.items()
    }


def _layer_parts(config: ModelConfig) -> Iterator[tuple[str, slice]]:
    """Of `LAYER_PARTS`: the module whose matrix has each, and its rows there."""
    if not config.fused:
        yield from ((part, slice(None)) for part in LAYER_PARTS)
        return
    shapes = names.matrix_shapes(replace(config, fused=False))
    for kind, parts in names.PRODUCTS.items():
        (module,), first = names.FUSED_PRODUCTS[kind], 0
        for part in parts:
            stop = first + shapes[part][0]
            yield module, slice(first, stop)
            first = stop


def _format_at(part: int, wanted: int | None) -> int | None:
    """Embedding and head keep 8 bits where layers have 4: their errors are in every logit."""
    outside = part in (EMBEDDING_PART, HEAD_PART)
    return Q8_0 if outside and wanted == QUANTIZED[Quantize.INT4] else wanted


def stored_matrix(
    weights: Mapping[str, Tensor], name: str, wanted: int | None = None, rows: slice = slice(None)
) -> StoredMatrix:
    """Rows of the matrix called `name`, held in the `ggml_type` `wanted`.

    To a floating-point format every matrix is converted; to one of `QUANTIZED` those of
    floating-point numbers whose columns fill its blocks. None leaves all as they are stored.
    """
    if isinstance(weights, ChainMap):
        weights = next(each for each in weights.maps if name in each)
    source = weights if isinstance(weights, Weights) else Weights(weights)
    height, columns = source.shape(name)
    shape = (len(range(height)[rows]), columns)
    if wanted in FORMAT_DTYPES:
        dtype = FORMAT_DTYPES[wanted]
        return StoredMatrix(wanted, shape, lambda: bytes_of(source[name][rows].to(dtype)))
    stored = source.stored(name)
    if stored.file_format not in GROUP_BYTES:
        raise unread_format(name, GGMLQuantizationType(stored.file_format).name)
    if wanted is None or stored.file_format not in FORMAT_DTYPES or columns % GROUP:
        return replace(stored, shape=shape, data=lambda: stored.data()[rows])
    return StoredMatrix(wanted, shape, lambda: _quantised(source[name][rows], wanted))


def _quantised(matrix: Tensor, wanted: int) -> Bytes:
    kind, parts = GGMLQuantizationType(wanted), torch.split(matrix, QUANTISED_AT_ONCE)
    return np.concatenate([gguf.quantize(part.float().numpy(), kind) for part in parts])


def value_bytes(matrix_format: int | None) -> int:
    """Bytes of 32 numbers in a format; of 16 bits each where it is not known."""
    kind = GGMLQuantizationType.F16 if matrix_format is None else matrix_format
    return int(GROUP_BYTES[GGMLQuantizationType(kind)])


def draft_format(stored: torch.dtype | None, dtype: torch.dtype | None) -> int | None:
    """The `ggml_type` that a draft's matrices are held in; None is their own.

    16 bits are quantised to 8 unless a dtype is asked for: that halves the bytes read per token,
    and a draft may have any distribution, as long as it is the one drawn from.
    """
    if dtype is not None:
        return DTYPE_FORMATS[dtype]
    return Q8_0 if stored in (torch.float16, torch.bfloat16) else None


def cache_is_half(matrices: Matrices) -> bool:
    """Whether keys and values are float16: no matrix has finer numbers, so little is lost."""
    return all(each.file_format != F32 for each in matrices.values())


def planned_bytes(config: ModelConfig, matrices: Matrices) -> int:
    """Memory that the matrices will take; see `NativeLlama.weight_bytes`."""
    total = 0
    for (_, part), matrix in matrices.items():
        rows, columns = matrix.shape
        if part in PADDED_PARTS:
            rows = rows // config.head_dim * round_up(config.head_dim, ROWS_TOGETHER)
        groups = round_up(rows, ROWS_TOGETHER) * round_up(columns, GROUP) // GROUP
        total += int(groups * GROUP_BYTES[matrix.file_format])
    return total


def planned_token_bytes(config: ModelConfig, half: bool, feature_slots: int = 0) -> int:
    """Memory of one token in a native cache, whose pages hold 256 tokens."""
    head = config.head_dim + round_up(config.head_dim, ROWS_TOGETHER)
    values = config.num_layers * config.num_kv_heads * head
    return (2 if half else 4) * values + 4 * feature_slots * config.hidden_size


def shape_struct(
    config: ModelConfig, kept_layers: Sequence[int], *, half_cache: bool
) -> ModelShapeStruct:
    """A model's shape for the library; the outputs of `kept_layers` are kept in its caches."""
    window = min(config.sliding_window or 0, config.context_window)
    windows = [window * (layer in config.sliding_layers) for layer in range(config.num_layers)]
    scale = config.hidden_size**0.5 if config.scaled_embedding else 1.0
    return ModelShapeStruct(
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size,
        vocab=config.vocab_size,
        head_rows=config.head_vocab_size,
        norm_epsilon=config.rms_norm_eps,
        half_cache=int(half_cache),
        feature_count=len(kept_layers),
        feature_layers=(c_int32 * len(kept_layers))(*kept_layers),
        target_features=len(config.feature_layers),
        gelu=int(config.activation == "gelu_tanh"),
        **_rotations(config),
        layer_windows=(c_int32 * len(windows))(*windows),
        attention_scale=config.attention_scale or 0.0,
        embedding_multiplier=scale * config.embedding_multiplier,
        residual_multiplier=config.residual_multiplier,
        logits_divisor=config.logits_divisor,
        attention_softcap=config.attention_softcap or 0.0,
        logit_softcap=config.logit_softcap or 0.0,
    )


def _rotations(config: ModelConfig) -> dict[str, Any]:
    """Fields of a model's shape: a table of each kind of rotation, and which layer has which."""
    of_layers = [config.rotation(layer) for layer in range(config.num_layers)]
    kinds = sorted({*of_layers} - {""})
    rotating = [config.rotating(kind) for kind in kinds]
    tables = [inverse_frequencies(each) / each.rope_factor for each in rotating]
    frequencies = [value for table in tables for value in table.tolist()]
    indices = [kinds.index(kind) if kind else -1 for kind in of_layers]
    return {
        "rotary_dim": config.rotary_dim or config.head_dim,
        "rotations": len(kinds),
        "inverse_frequencies": (c_float * len(frequencies))(*frequencies),
        "rotary_magnitudes": (c_float * len(kinds))(*(each.rope_magnitude for each in rotating)),
        "layer_rotations": (c_int32 * len(indices))(*indices),
    }


def fill_matrices(model: int, matrices: Matrices) -> None:
    for place, matrix in matrices.items():
        call("model_declare", model, *place, matrix.file_format, *matrix.shape)
    call("model_allocate", model)
    for place, matrix in matrices.items():
        data, rotary = matrix.data(), int(matrix.interleaved_rotary)
        assert len(data) == matrix.shape[0]
        for first in range(0, len(data), FILL_ROWS):
            block = data[first : first + FILL_ROWS]
            rows = (first, len(block), block.ctypes.data, block.shape[1])
            call("model_fill", model, *place, *rows, rotary)
            release_file_pages(data)


def fill_vectors(model: int, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Copy biases and norms into a model; biases are in the order of Hugging Face's files."""

    def fill(kind: str, layer: int, number: int, name: str, *more: int) -> None:
        flat = weights[name].float().contiguous()
        if config.norms_add_one and name.endswith("norm.weight"):
            flat = flat + 1.0
        call(f"model_set_{kind}", model, layer, number, flat.data_ptr(), flat.numel(), *more)

    norms = names.layer_norms(config)
    for layer in range(config.num_layers):
        for part, module in enumerate(LAYER_PARTS):
            if config.has_bias(module):
                name = names.layer_name(layer, f"{module}.bias")
                fill("bias", layer, part, name, 0)
        for number, role in enumerate(LAYER_VECTORS):
            if role in norms:
                fill("vector", layer, number, names.layer_name(layer, norms[role][0]))
    for number, name in enumerate(MODEL_VECTORS, len(LAYER_VECTORS)):
        if name in weights:
            fill("vector", 0, number, name)
