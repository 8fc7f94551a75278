"""A model's matrices for the native library: as their files store them, or in a format asked for.

Values are quantised anew only where Q8_0 is asked for: else a GGUF file's blocks and a checkpoint's
numbers are passed on as they lie.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.device import dtype_name
from sequoia_core.model.loading.blocks import BlockWeights
from sequoia_core.model.loading.gguf import GgufWeights
from sequoia_core.model.loading.int8_rows import UnpackedWeights
from sequoia_core.model.loading.weights import Weights

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

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
"""What 32 columns of a row take in the library's layout, by `ggml_type`; see matrix.hpp."""

ROWS_TOGETHER = 16
"""Rows of a matrix fill blocks of so many."""

ROUNDED_AT_ONCE = 1024
"""Rows that are quantised at once: bounds the memory beside the matrix."""


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

    @property
    def half_precision(self) -> bool:
        """Whether its numbers are no finer than float16's, so that a float16 cache loses little."""
        return self.file_format != F32

    def nbytes(self, rows: int) -> int:
        """Memory that it takes in the library once it is filled up to so many rows."""
        groups = round_up(rows, ROWS_TOGETHER) * round_up(self.shape[1], GROUP) // GROUP
        return int(groups * GROUP_BYTES[self.file_format])


def stored_matrix(
    weights: Mapping[str, Tensor] | Weights, name: str, wanted: int | None = None
) -> StoredMatrix:
    """The matrix called `name`.

    Args:
        weights: of the model.
        name: of the tensor.
        wanted: the `ggml_type` to hold it in. Of floating numbers every matrix is converted to
            them; of Q8_0 those of floating numbers whose columns fill its blocks. None leaves all
            as they are stored.

    Raises:
        ModelLoadError: it is stored in a format that the library does not read.
    """
    if isinstance(weights, ChainMap):
        weights = next(each for each in weights.maps if name in each)
    if wanted in FORMAT_DTYPES:
        return _converted(weights, name, FORMAT_DTYPES[wanted])
    stored = _as_stored(weights, name)
    rounds = wanted == Q8_0 and stored.file_format in FORMAT_DTYPES
    if not rounds or stored.shape[1] % GROUP:
        return stored
    return StoredMatrix(Q8_0, stored.shape, lambda: _rounded(weights[name]))


def unread_format(weights: Weights) -> str:
    """Which matrix is stored in a format that the library does not read; "" where there is none."""
    for name in weights:
        if len(weights.shape(name)) == 2:
            try:
                _as_stored(weights, name)
            except ModelLoadError as error:
                return str(error)
    return ""


def quantized_already(weights: Weights) -> bool:
    """Whether no matrix is of floating numbers."""
    names = (name for name in weights if len(weights.shape(name)) == 2)
    return all(_as_stored(weights, name).file_format not in FORMAT_DTYPES for name in names)


def round_up(count: int, multiple: int) -> int:
    """The next multiple from `count` on."""
    return -(-count // multiple) * multiple


def _converted(
    weights: Mapping[str, Tensor] | Weights, name: str, dtype: torch.dtype
) -> StoredMatrix:
    shape = tuple(weights.shape(name) if isinstance(weights, Weights) else weights[name].shape)

    def data() -> Bytes:
        return _bytes_of(weights[name].to(dtype))

    return StoredMatrix(DTYPE_FORMATS[dtype], (shape[0], shape[1]), data)


def _rounded(matrix: Tensor) -> Bytes:
    """A matrix as blocks of Q8_0."""
    parts = torch.split(matrix, ROUNDED_AT_ONCE)
    blocks = [gguf.quantize(part.float().numpy(), GGMLQuantizationType.Q8_0) for part in parts]
    return np.concatenate(blocks)


def _bytes_of(matrix: Tensor) -> Bytes:
    return matrix.contiguous().view(torch.uint8).reshape(len(matrix), -1).numpy()


def _as_stored(weights: Mapping[str, Tensor] | Weights, name: str) -> StoredMatrix:
    if isinstance(weights, GgufWeights):
        return _from_gguf(weights, name)
    if isinstance(weights, UnpackedWeights):
        return _from_int8_rows(weights, name)
    if isinstance(weights, BlockWeights) and (blocks := weights.in_blocks(name)) is not None:
        stored, (rows, columns) = blocks.numpy(), weights.shape(name)
        return StoredMatrix(int(weights.format), (rows, columns), lambda: stored)
    tensor = weights[name]
    if tensor.dtype not in DTYPE_FORMATS:
        kind = dtype_name(tensor.dtype)
        raise ModelLoadError(f"{name} is stored as {kind}, which the native forward does not read")
    rows, columns = tensor.shape
    return StoredMatrix(DTYPE_FORMATS[tensor.dtype], (rows, columns), lambda: _bytes_of(tensor))


def _from_int8_rows(weights: UnpackedWeights, name: str) -> StoredMatrix:
    codes, scales = weights.packed(name)
    rows, columns = codes.shape

    def data() -> Bytes:
        return codes.contiguous().view(torch.uint8).numpy()

    flat = np.ascontiguousarray(scales.numpy().reshape(-1), dtype=np.float32)
    return StoredMatrix(I8, (rows, columns), data, row_scales=flat)


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
