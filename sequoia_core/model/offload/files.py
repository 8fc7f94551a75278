"""Tensors of safetensors files, read by position, which is faster than mapping (decision 0020)."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import STORED_DTYPES, SafetensorsWeights, Weights

CONVERTED_AT_ONCE = 1 << 20  # values of another format; bounds the memory


@dataclass(frozen=True, slots=True)
class _Extent:
    path: Path
    file: int  # descriptor
    offset: int  # bytes
    dtype: torch.dtype
    shape: tuple[int, ...]


class TensorFiles(Weights):
    """The tensors of a model in safetensors files, none of them mapped."""

    def __init__(self, weights: Weights) -> None:
        if not isinstance(weights, SafetensorsWeights):
            raise ModelLoadError(
                f"{weights.origin}: layers are read from safetensors files while it decodes, and "
                "this model is not stored in them as it is used; save it as safetensors, or leave "
                "--offload out"
            )
        self._files = ExitStack()
        self._extents: dict[str, _Extent] = {}
        super().__init__(self._extents, weights.origin)
        try:
            for path in weights.files:
                self._read_header(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._files.close()

    def read(self, name: str, into: Tensor) -> None:
        """Fill a contiguous tensor of the CPU, of any number format, with a stored one."""
        extent = self._extents[name]
        flat = into.view(-1)
        assert flat.shape[0] == prod(extent.shape)
        if into.dtype is extent.dtype:
            _read(extent, 0, flat)
            return
        staging = torch.empty(min(CONVERTED_AT_ONCE, flat.shape[0]), dtype=extent.dtype)
        for first in range(0, flat.shape[0], CONVERTED_AT_ONCE):
            part = flat[first : first + CONVERTED_AT_ONCE]
            staged = staging[: part.shape[0]]
            _read(extent, first, staged)
            part.copy_(staged)

    def __getitem__(self, name: str) -> Tensor:
        extent = self._extents[name]
        tensor = torch.empty(extent.shape, dtype=extent.dtype)
        self.read(name, tensor)
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return self._extents[name].shape

    def dtype(self, name: str) -> torch.dtype:
        return self._extents[name].dtype

    def _read_header(self, path: Path) -> None:
        """The places of a file's tensors, which the safetensors library does not give."""
        try:
            file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            self._files.callback(os.close, file)
            # the length of a JSON object, that object, then the tensors
            length = int.from_bytes(os.pread(file, 8, 0), "little")
            header = json.loads(os.pread(file, length, 8))
        except (OSError, ValueError) as error:
            raise ModelLoadError(f"{path}: unreadable ({error})") from None
        header.pop("__metadata__", None)
        for name, entry in header.items():
            dtype = STORED_DTYPES.get(entry["dtype"])
            if dtype is None:
                raise ModelLoadError(
                    f"{path}: {name} is stored as {entry['dtype']}, which cannot be read while it "
                    "decodes; leave --offload out"
                )
            offset = 8 + length + entry["data_offsets"][0]
            self._extents[name] = _Extent(path, file, offset, dtype, tuple(entry["shape"]))


def _read(extent: _Extent, first: int, into: Tensor) -> None:
    """Fill a contiguous tensor with a stored one's values from `first` on."""
    left, offset = into.view(torch.uint8).numpy().data, extent.offset + first * into.itemsize
    try:
        while left:
            count = os.preadv(extent.file, [left], offset)
            if count == 0:
                raise ModelLoadError(
                    f"{extent.path}: it has become shorter since it was opened; "
                    "load the model again"
                )
            left, offset = left[count:], offset + count
    except OSError as error:
        raise ModelLoadError(f"{extent.path}: {error.strerror or error}") from None
