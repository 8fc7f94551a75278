"""A model's matrices as their files store them, for the native library.

Values are never quantised anew: a GGUF file's blocks and a checkpoint's numbers are passed on as
they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.gguf import GgufWeights
from sequoia_core.model.int8_rows import UnpackedWeights

if TYPE_CHECKING:
    from sequoia_core.model.weights import Weights

GROUP = 32
"""Columns of a block of Q8_0."""

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
"""Numbers of `ggml_type` in GGUF files."""

READABLE_FORMATS = {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30}
"""F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K and BF16."""

DTYPE_FORMATS = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}


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
    data: Callable[[], np.ndarray[Any, np.dtype[np.uint8]]]
    interleaved_rotary: bool = False
    row_scales: np.ndarray[Any, np.dtype[np.float32]] | None = None

    @property
    def half_precision(self) -> bool:
        """Whether its numbers are no finer than float16's, so that a float16 cache loses little."""
        return self.file_format != F32


def stored_matrix(weights: Mapping[str, Tensor] | Weights, name: str) -> StoredMatrix:
    """The matrix called `name`.

    Raises:
        ModelLoadError: it is stored in a format that the library does not read.
    """
    if isinstance(weights, GgufWeights):
        return _from_gguf(weights, name)
    if isinstance(weights, UnpackedWeights):
        return _from_int8_rows(weights, name)
    tensor = weights[name]
    if tensor.dtype not in DTYPE_FORMATS:
        raise ModelLoadError(f"{name}: {tensor.dtype} is not read by the native forward")
    rows, columns = tensor.shape

    def data() -> np.ndarray[Any, np.dtype[np.uint8]]:
        return tensor.contiguous().view(torch.uint8).reshape(rows, -1).numpy()

    return StoredMatrix(DTYPE_FORMATS[tensor.dtype], (rows, columns), data)


def _from_int8_rows(weights: UnpackedWeights, name: str) -> StoredMatrix:
    """Rows of int8 as blocks of Q8_0 with a scale of 1, their own scale applied to the products."""
    codes, scales = weights.packed(name)
    rows, columns = codes.shape
    if columns % GROUP:
        raise ModelLoadError(
            f"{weights.origin}: {name} has {columns} columns, no multiple of {GROUP}"
        )

    def data() -> np.ndarray[Any, np.dtype[np.uint8]]:
        one = np.float16(1).tobytes()
        blocks = np.empty((rows, columns // GROUP, 2 + GROUP), dtype=np.uint8)
        blocks[:, :, :2] = np.frombuffer(one, dtype=np.uint8)
        blocks[:, :, 2:] = codes.view(torch.uint8).numpy().reshape(rows, -1, GROUP)
        return blocks.reshape(rows, -1)

    flat = np.ascontiguousarray(scales.numpy().reshape(-1), dtype=np.float32)
    return StoredMatrix(Q8_0, (rows, columns), data, row_scales=flat)


def _from_gguf(weights: GgufWeights, name: str) -> StoredMatrix:
    stored = weights.stored(name)
    kind = int(stored.tensor_type)
    if kind not in READABLE_FORMATS:
        raise ModelLoadError(
            f"{weights.origin}: {name} is stored as {stored.tensor_type.name}, which the native "
            "forward does not read"
        )
    rows, columns = weights.shape(name)

    def data() -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.ascontiguousarray(stored.data).view(np.uint8).reshape(rows, -1)

    interleaved = name.endswith(("q_proj.weight", "k_proj.weight"))
    return StoredMatrix(kind, (rows, columns), data, interleaved)
