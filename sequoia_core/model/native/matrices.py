"""A model's matrices for the native library: as their files store them, or in another format.

Values are quantised only if Q8_0 is asked for: otherwise a GGUF file's blocks and a checkpoint's
numbers are passed on as they are.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.device import dtype_name
from sequoia_core.model.loading.blocks import BlockWeights
from sequoia_core.model.loading.gguf import GgufWeights
from sequoia_core.model.loading.int8_rows import Int8RowWeights
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.weight_shapes import EMBEDDING, HEAD, OWN_INPUT, TARGET_INPUT, layer_name

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

LAYER_PARTS = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)  # fmt: skip
"""Matrices of a layer in the order of `Part` in model.hpp."""

EMBEDDING_PART, HEAD_PART, TARGET_INPUT_PART, OWN_INPUT_PART = 7, 8, 9, 10
PADDED_PARTS = range(3)
"""Queries, keys and values: rows of each head are padded to whole blocks."""

GROUP = 32
"""Columns of a group in the library's layout, and of a block of Q8_0."""

F32, F16, Q8_0, I8, BF16 = 0, 1, 8, 24, 30
"""Numbers of `ggml_type` in GGUF files."""

READABLE_FORMATS = {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30}
"""F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K and BF16."""

DTYPE_FORMATS = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}
FORMAT_DTYPES = {kind: dtype for dtype, kind in DTYPE_FORMATS.items()}

GROUP_BYTES = {
    0: 128.0, 1: 64.0, 30: 64.0, 2: 18.0, 3: 20.0, 12: 18.5, 6: 34.0, 7: 36.0, 8: 34.0, 13: 34.5,
    14: 34.25, 24: 34.0,
}  # fmt: skip
"""Bytes of 32 columns of a row in the library's layout, by `ggml_type`; see matrix.hpp."""

ROWS_TOGETHER = 16
"""Rows of a block in the library's layout."""

QUANTISED_AT_ONCE = 1024
"""Rows; bounds the working memory."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix in a file.

    Attributes:
        file_format: its `ggml_type`.
        shape: rows and columns.
        data: reads it, uint8 [rows, bytes of a row].
        interleaved_rotary: rows of each head are rotary pairs side by side, as llama.cpp has them.
        row_scales: float32 [rows] that products are multiplied with, or None.
    """

    file_format: int
    shape: tuple[int, int]
    data: Callable[[], Bytes]
    interleaved_rotary: bool = False
    row_scales: np.ndarray[Any, np.dtype[np.float32]] | None = None

    def nbytes(self, rows: int) -> int:
        """Memory that it takes in the library once it is padded to so many rows."""
        groups = round_up(rows, ROWS_TOGETHER) * round_up(self.shape[1], GROUP) // GROUP
        return int(groups * GROUP_BYTES[self.file_format])


@dataclass(frozen=True, slots=True)
class PlacedMatrix:
    """A matrix and its place in the library's model: a layer and a part."""

    layer: int
    part: int
    matrix: StoredMatrix


def model_matrices(
    config: ModelConfig, weights: Mapping[str, Tensor], wanted: int | None = None
) -> list[PlacedMatrix]:
    """All matrices of a model; see `stored_matrix`."""
    places = {
        layer_name(layer, f"{name}.weight"): (layer, part)
        for layer in range(config.num_layers)
        for part, name in enumerate(LAYER_PARTS)
    }
    if not config.embeddings_from_target:
        places[EMBEDDING] = (0, EMBEDDING_PART)
    if not config.tie_word_embeddings:
        places[HEAD] = (0, HEAD_PART)
    if config.feature_layers:
        places |= {TARGET_INPUT: (0, TARGET_INPUT_PART), OWN_INPUT: (0, OWN_INPUT_PART)}
    return [
        PlacedMatrix(*place, stored_matrix(weights, name, wanted)) for name, place in places.items()
    ]


def stored_matrix(
    weights: Mapping[str, Tensor], name: str, wanted: int | None = None
) -> StoredMatrix:
    """The matrix called `name`, held in the `ggml_type` `wanted`.

    To a floating-point format every matrix is converted; to Q8_0 those of floating-point numbers
    whose columns fill its blocks. None leaves all as they are stored.

    Raises:
        ModelLoadError: it is stored in a format that the library does not read.
    """
    if isinstance(weights, ChainMap):
        weights = next(each for each in weights.maps if name in each)
    if wanted in FORMAT_DTYPES:
        rows, columns = weights.shape(name) if isinstance(weights, Weights) else weights[name].shape
        dtype = FORMAT_DTYPES[wanted]
        return StoredMatrix(wanted, (rows, columns), lambda: _bytes_of(weights[name].to(dtype)))
    stored = _as_stored(weights, name)
    if wanted != Q8_0 or stored.file_format not in FORMAT_DTYPES or stored.shape[1] % GROUP:
        return stored
    return StoredMatrix(Q8_0, stored.shape, lambda: _quantised(weights[name]))


def draft_format(stored: torch.dtype | None, dtype: torch.dtype | None) -> int | None:
    """The `ggml_type` that a draft's matrices are held in; None is their own.

    16 bits are quantised to 8 unless a dtype is asked for: that halves the bytes read per token,
    and a draft may have any distribution, as long as it is the one drawn from.
    """
    if dtype is not None:
        return DTYPE_FORMATS[dtype]
    return Q8_0 if stored in (torch.float16, torch.bfloat16) else None


def unread_format(weights: Weights) -> str:
    """Which matrix is stored in a format that the library does not read; "" where there is none."""
    for name in weights.matrices():
        try:
            _as_stored(weights, name)
        except ModelLoadError as error:
            return str(error)
    return ""


def quantized_already(weights: Weights) -> bool:
    """Whether no matrix is of floating-point numbers."""
    formats = (_as_stored(weights, name).file_format for name in weights.matrices())
    return all(each not in FORMAT_DTYPES for each in formats)


def cache_is_half(matrices: Sequence[PlacedMatrix]) -> bool:
    """Whether keys and values are float16: no matrix has finer numbers, so little is lost."""
    return all(each.matrix.file_format != F32 for each in matrices)


def planned_bytes(config: ModelConfig, matrices: Sequence[PlacedMatrix]) -> int:
    """Memory that the matrices will take; see `NativeLlama.weight_bytes`."""
    padded = round_up(config.head_dim, ROWS_TOGETHER)
    total = 0
    for each in matrices:
        rows = each.matrix.shape[0]
        rows = rows // config.head_dim * padded if each.part in PADDED_PARTS else rows
        total += each.matrix.nbytes(rows)
    return total


def planned_token_bytes(config: ModelConfig, half: bool, feature_slots: int = 0) -> int:
    """Memory of one token in a native cache, whose pages hold 256 tokens."""
    head = config.head_dim + round_up(config.head_dim, ROWS_TOGETHER)
    values = config.num_layers * config.num_kv_heads * head
    return (2 if half else 4) * values + 4 * feature_slots * config.hidden_size


def round_up(count: int, multiple: int) -> int:
    """The next multiple from `count` on."""
    return -(-count // multiple) * multiple


def _quantised(matrix: Tensor) -> Bytes:
    """A matrix as blocks of Q8_0."""
    parts = torch.split(matrix, QUANTISED_AT_ONCE)
    blocks = [gguf.quantize(part.float().numpy(), GGMLQuantizationType.Q8_0) for part in parts]
    return np.concatenate(blocks)


def _bytes_of(matrix: Tensor) -> Bytes:
    return matrix.contiguous().view(torch.uint8).reshape(len(matrix), -1).numpy()


def _as_stored(weights: Mapping[str, Tensor], name: str) -> StoredMatrix:
    if isinstance(weights, GgufWeights):
        return _from_gguf(weights, name)
    if isinstance(weights, Int8RowWeights):
        codes, scales = weights.packed(name)
        flat = np.ascontiguousarray(scales.numpy().reshape(-1), dtype=np.float32)
        rows, columns = codes.shape
        return StoredMatrix(I8, (rows, columns), lambda: _bytes_of(codes), row_scales=flat)
    if isinstance(weights, BlockWeights) and (blocks := weights.in_blocks(name)) is not None:
        stored, (rows, columns) = blocks.numpy(), weights.shape(name)
        return StoredMatrix(int(weights.format), (rows, columns), lambda: stored)
    tensor = weights[name]
    if tensor.dtype not in DTYPE_FORMATS:
        kind = dtype_name(tensor.dtype)
        raise ModelLoadError(f"{name} is stored as {kind}, which the native forward does not read")
    rows, columns = tensor.shape
    return StoredMatrix(DTYPE_FORMATS[tensor.dtype], (rows, columns), lambda: _bytes_of(tensor))


def _from_gguf(weights: GgufWeights, name: str) -> StoredMatrix:
    stored = weights.stored(name)
    kind = int(stored.tensor_type)
    if kind not in READABLE_FORMATS:
        raise ModelLoadError(
            f"{name} is stored as {stored.tensor_type.name}, which the native forward does not read"
        )
    rows, columns = weights.shape(name)

    def data() -> Bytes:
        return np.ascontiguousarray(stored.data).view(np.uint8).reshape(rows, -1)

    interleaved = name.endswith(("q_proj.weight", "k_proj.weight"))
    return StoredMatrix(kind, (rows, columns), data, interleaved)
