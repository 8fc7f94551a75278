"""Checkpoints of AWQ, GPTQ and compressed-tensors: whole numbers of few bits, read as they lie.

Each packs its numbers into int32, the lowest bits first:
AWQ (AutoAWQ's "gemm"): 8 neighbouring outputs, in the order 0, 2, 4, 6, 1, 3, 5, 7;
GPTQ (AutoGPTQ): neighbouring inputs, and of zeros neighbouring outputs, one less than they are;
compressed-tensors ("pack-quantized"): neighbouring inputs, a zero of half the range left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.packed_format import PackedFormat
from sequoia_core.model.loading.weights import Bytes, StoredMatrix, Weights, unread_format
from sequoia_core.model.packed import PackedMatrix, repacked, unpacked

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output of each 4 bits of an int32
BLOCK = 32  # columns of a block of the native library that share a scale


@dataclass(frozen=True, slots=True)
class _Parts:
    """The tensors of a quantised matrix, by the ends of their names."""

    codes: str
    scales: str
    zeros: str
    groups: str
    read: Callable[["PackedWeights", str], PackedMatrix]


class PackedWeights(Weights):
    """A file's weights, of which some matrices are packed; dequantised to float32 when asked for.

    Raises ModelLoadError if a part of a matrix is missing or has another shape than its codes.
    """

    def __init__(self, file: Weights, stated: PackedFormat) -> None:
        self.format, self._file = stated, file
        self._parts = parts = PARTS[stated.method]
        modules = [
            name.removesuffix(parts.codes) for name in file if name.endswith(f".{parts.codes}")
        ]
        if not modules:
            raise ModelLoadError(
                f"{file.origin}: its config.json states matrices of {self.packed_format}, "
                "but none is stored so"
            )
        packed = {f"{module}weight": module for module in modules}
        ends = (parts.codes, parts.scales, parts.zeros, parts.groups, "weight_shape")
        read = {f"{module}{end}" for module in modules for end in ends}
        rest = [name for name in file if name not in read]
        if twice := next((name for name in rest if name in packed), None):
            raise ModelLoadError(f"{file.origin}: {twice} is stored twice, packed and as it is")
        self._modules: dict[str, str | None] = {**packed, **dict.fromkeys(rest)}
        super().__init__(self._modules, file.origin, file.files)
        self._shapes = {name: self._checked(module) for name, module in packed.items()}

    def __getitem__(self, name: str) -> Tensor:
        packed = self.packed(name)
        return self._file[name] if packed is None else packed.dense()

    def packed(self, name: str) -> PackedMatrix | None:
        module = self._modules[name]
        return None if module is None else self._parts.read(self, module)

    @property
    def packed_format(self) -> str:
        return f"{self.format.method.upper()} {self.format.bits} bits"

    def packed_bytes(self, name: str) -> int | None:
        if (module := self._modules[name]) is None:
            return None
        rows, columns = self._shapes[name]
        scales = f"{module}{self._parts.scales}"
        size = self._file.dtype(scales)
        assert size is not None
        shared = prod(self._file.shape(scales)) * (size.itemsize + 1)
        order = 8 * columns if self.format.reordered else 0
        return rows * columns * self.format.bits // 8 + shared + order

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name) or self._file.shape(name)

    def dtype(self, name: str) -> torch.dtype | None:
        return None if name in self._shapes else self._file.dtype(name)

    def stored(self, name: str) -> StoredMatrix:
        """As GGML's blocks where they mean the same to the last bit: zeros of half the range."""
        if name not in self._shapes:
            return self._file.stored(name)
        matrix = self.packed(name)
        assert matrix is not None
        if not _has_blocks(matrix):
            raise unread_format(name, self.packed_format)
        kind = GGMLQuantizationType.Q4_0 if matrix.bits == 4 else GGMLQuantizationType.Q8_0
        return StoredMatrix(int(kind), matrix.shape, lambda: _blocks(matrix))

    def leave_out_zero_biases(self, expected: Mapping[str, Any]) -> None:
        """Leave out the biases that AutoGPTQ adds to modules that have none; they are zeros."""
        added = [
            name
            for name in self
            if name.endswith(".bias")
            and name not in expected
            and f"{name.removesuffix('bias')}weight" in self._shapes
            and not self[name].any()
        ]
        for name in added:
            del self._modules[name]

    def _checked(self, module: str) -> tuple[int, int]:
        """The matrix's shape, if its parts fit together."""
        parts, form, per_int = self._parts, self.format, 32 // self.format.bits
        codes = self._part(f"{module}{parts.codes}", torch.int32)
        if form.method == "awq":
            columns, rows = codes[0], codes[1] * per_int
        elif form.method == "gptq":
            columns, rows = codes[0] * per_int, codes[1]
        else:
            rows, columns = codes[0], codes[1] * per_int
        size = columns if form.group_size == -1 else form.group_size
        groups = columns // size if size and columns % size == 0 else 0
        by_rows = form.method == "compressed-tensors"
        scales = self._part(f"{module}{parts.scales}", None)
        wanted: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
            parts.scales: ((rows, groups) if by_rows else (groups, rows), scales)
        }
        zeros = f"{module}{parts.zeros}"
        if form.stores_zeros or zeros in self._file:
            ints = -(-rows // per_int)
            wanted[parts.zeros] = (
                (ints, groups) if by_rows else (groups, ints),
                self._part(zeros, torch.int32),
            )
        if f"{module}{parts.groups}" in self._file or form.reordered:
            wanted[parts.groups] = ((columns,), self._part(f"{module}{parts.groups}", None))
        for end, (right, found) in wanted.items():
            if not groups or right != found:
                raise ModelLoadError(
                    f"{self.origin}: {module}{end} has shape {list(found)}, but {rows} rows and "
                    f"{columns} columns in groups of {size} mean {list(right)}"
                )
        shape = f"{module}weight_shape"
        if shape in self._file and self._file[shape].tolist() != [rows, columns]:
            raise ModelLoadError(f"{self.origin}: {shape} is not [{rows}, {columns}]")
        return rows, columns

    def _part(self, name: str, dtype: torch.dtype | None) -> tuple[int, ...]:
        if name not in self._file:
            raise ModelLoadError(f"{self.origin}: tensor {name} is missing")
        found, shape = self._file.dtype(name), self._file.shape(name)
        fits = found is dtype if dtype else name.endswith("g_idx") or self._file.is_floating(name)
        if not fits or len(shape) != (1 if name.endswith("g_idx") else 2):
            raise ModelLoadError(f"{self.origin}: {name} is stored as {found} {list(shape)}")
        return shape

    def part(self, module: str, end: str) -> Tensor:
        return self._file[f"{module}{end}"]

    def has(self, module: str, end: str) -> bool:
        return f"{module}{end}" in self._file

    def grouped(self, module: str, codes: Tensor, zeros: Tensor, scales: Tensor) -> PackedMatrix:
        """A matrix of its parts by rows, its columns sorted by the groups that they state."""
        bits, end = self.format.bits, self._parts.groups
        matrix = PackedMatrix(codes, zeros.contiguous(), scales.contiguous(), bits)
        if not self.has(module, end):
            return matrix
        stated, (_, columns) = self.part(module, end).long(), matrix.shape
        size = columns // scales.shape[1]
        order = stated.argsort(stable=True)
        if not torch.equal(stated[order], torch.arange(columns) // size):
            raise ModelLoadError(
                f"{self.origin}: {module}{end} does not divide the columns into groups of {size}"
            )
        if torch.equal(order, torch.arange(columns)):
            return matrix
        sorted_codes = repacked(unpacked(codes, bits)[:, order], bits)
        return PackedMatrix(sorted_codes, matrix.zeros, matrix.scales, bits, order)


def _bytes(packed: Tensor) -> Tensor:
    """int32 [n, m] -> uint8 [n, 4 m], the lowest bits first; processors here are little-endian."""
    return packed.contiguous().view(torch.uint8)


def _read_awq(weights: PackedWeights, module: str) -> PackedMatrix:
    places = torch.tensor(AWQ_ORDER).argsort()

    def outputs(end: str) -> Tensor:
        """[m, out], transposed."""
        stored = unpacked(_bytes(weights.part(module, end)), 4)
        return stored.view(len(stored), -1, len(places))[..., places].flatten(1).T

    codes, zeros = repacked(outputs("qweight").contiguous(), 4), outputs("qzeros")
    return weights.grouped(module, codes, zeros, weights.part(module, "scales").T)


def _read_gptq(weights: PackedWeights, module: str) -> PackedMatrix:
    form = weights.format
    codes = _bytes(weights.part(module, "qweight").T)
    stored = unpacked(_bytes(weights.part(module, "qzeros")), form.bits)
    # zeros are below 2^bits, so the largest number stands for 0 (AutoGPTQ)
    zeros = (stored + form.zero_offset) & (2**form.bits - 1)
    return weights.grouped(module, codes, zeros.T, weights.part(module, "scales").T)


def _read_compressed(weights: PackedWeights, module: str) -> PackedMatrix:
    bits, scales = weights.format.bits, weights.part(module, "weight_scale")
    codes = _bytes(weights.part(module, "weight_packed"))
    if weights.has(module, "weight_zero_point"):
        stored = unpacked(_bytes(weights.part(module, "weight_zero_point").T), bits)
        zeros = stored.T[: len(scales)]
    else:
        zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8)
    return weights.grouped(module, codes, zeros, scales)


_BY_INPUTS = ("qweight", "scales", "qzeros", "g_idx")
PARTS = {
    "awq": _Parts(*_BY_INPUTS, _read_awq),
    "gptq": _Parts(*_BY_INPUTS, _read_gptq),
    "compressed-tensors": _Parts(
        "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", _read_compressed
    ),
}
"""By `quant_method`."""


def _has_blocks(matrix: PackedMatrix) -> bool:
    size = matrix.shape[1] // matrix.scales.shape[1]
    middle = bool((matrix.zeros == 2 ** (matrix.bits - 1)).all())
    half = torch.equal(matrix.scales.half().float(), matrix.scales.float())
    return matrix.order is None and size % BLOCK == 0 and middle and half


def _blocks(matrix: PackedMatrix) -> Bytes:
    """In blocks of Q4_0 or Q8_0: a scale in float16, then the numbers."""
    rows, columns = matrix.shape
    per_group = columns // matrix.scales.shape[1] // BLOCK
    scales = matrix.scales.half().repeat_interleave(per_group, 1)[..., None]  # [rows, blocks, 1]
    numbers = unpacked(matrix.codes, matrix.bits).view(rows, -1, BLOCK)
    if matrix.bits == 4:
        numbers = numbers[..., : BLOCK // 2] | numbers[..., BLOCK // 2 :] << 4
    else:
        numbers = numbers ^ 128  # the zero becomes that of int8
    blocks = torch.cat((scales.contiguous().view(torch.uint8), numbers), -1)
    return np.ascontiguousarray(blocks.view(rows, -1).numpy())
