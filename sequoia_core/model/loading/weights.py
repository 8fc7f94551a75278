"""A model's tensors by Hugging Face name, read from disk one at a time when asked for.

They are views of the mapped file where the format allows it, so that no model is held twice.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import dtype_name
from sequoia_core.model.loading.model_files import first_line, read_json
from sequoia_core.model.packed import PackedMatrix
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, EMBEDDING, HEAD, expected_shapes

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

STORED_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64,
    "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64,
}  # fmt: skip
"""By their names in safetensors files."""

DTYPE_FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 30}  # `ggml_type`

COPIED_BYTES = 1 << 20
"""Tensors up to this size are copied out of the mapped file: with one page touched the kernel maps
up to 2 MiB around it."""

ROTARY_BUFFER = re.compile(r".*\brotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Stored by old versions of transformers and ignored by all later ones: made from the config."""

_FOREIGN_CLASS = re.compile(r"Unsupported (?:global|class): GLOBAL (?P<name>[\w.]+)")
"""PyTorch's message about a pickle that names anything but its own tensors."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    file_format: int  # its `ggml_type`
    shape: tuple[int, ...]
    data: Callable[[], Bytes]  # reads it: uint8 [rows, bytes of a row]
    interleaved_rotary: bool = False  # a head's rotary pairs lie side by side, as in llama.cpp


class Weights(Mapping[str, Tensor]):
    """Tensors by name: in memory, or of a subclass, of which only `[name]` reads one."""

    def __init__(
        self, entries: Mapping[str, Any], origin: str = "", files: Sequence[Path] = ()
    ) -> None:
        self._entries = entries
        self.origin, self.files = origin, files

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._entries[name]
        return tensor

    def narrowed(self, name: str, axis: int, first: int, size: int) -> Tensor:
        """Entries `first` to `first + size - 1` of an axis, in memory of their own.

        Of a mapped file no other rows are read.
        """
        return self[name].narrow(axis, first, size).clone(memory_format=torch.contiguous_format)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)

    def dtype(self, name: str) -> torch.dtype | None:
        """Number format that a tensor is stored in; None where PyTorch has none such."""
        return self[name].dtype

    def is_floating(self, name: str) -> bool:
        return (dtype := self.dtype(name)) is None or dtype.is_floating_point

    def stored(self, name: str) -> StoredMatrix:
        """A matrix without converting it. Raises ModelLoadError if GGUF has no such format."""
        dtype = self.dtype(name) or self[name].dtype
        if dtype not in DTYPE_FORMATS:
            raise unread_format(name, dtype_name(dtype))
        return StoredMatrix(DTYPE_FORMATS[dtype], self.shape(name), lambda: bytes_of(self[name]))

    def packed(self, name: str) -> PackedMatrix | None:  # noqa: ARG002
        """A matrix of few bits as PyTorch computes with it; None for any other tensor."""
        return None

    def packed_bytes(self, name: str) -> int | None:  # noqa: ARG002
        """What `packed(name)` takes in memory."""
        return None

    @property
    def packed_format(self) -> str:
        """The name of the packed matrices' format; "" without any."""
        return ""

    def matrices(self) -> Iterator[str]:
        return (name for name in self if len(self.shape(name)) == 2)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # a mapping's own would read the tensor
        return name in self._entries


class SafetensorsWeights(Weights):
    """Raises ModelLoadError if a file is missing, truncated or of another kind."""

    def __init__(self, paths: Sequence[Path]) -> None:
        files: dict[str, tuple[Path, Any]] = {}  # by tensor: where it is, opened
        for path in paths:
            # mapped for torch, the whole file would count as this process's data; this handle is
            # only asked for names and shapes
            file = _open_safetensors(path, "numpy")
            for name in file.keys():  # noqa: SIM118  # no mapping
                if name in files:
                    other = files[name][0].name
                    raise ModelLoadError(f"{path}: tensor {name!r:.80} is also in {other}")
                files[name] = (path, file)
        super().__init__(files, _origin(paths), paths)

    def __getitem__(self, name: str) -> Tensor:
        # opened for each tensor, since its pages stay in memory as long as the mapping
        tensor: Tensor = _open_safetensors(self._entries[name][0]).get_tensor(name)
        return tensor.clone() if tensor.nbytes <= COPIED_BYTES else tensor

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | None:
        return STORED_DTYPES.get(self._slice(name).get_dtype())

    def _slice(self, name: str) -> Any:
        return self._entries[name][1].get_slice(name)


def read_pickles(paths: Sequence[Path]) -> Weights:
    """The tensors of `pytorch_model.bin` files; nothing else is unpickled."""
    tensors: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in _unpickle(path).items():
            if name in tensors:
                raise ModelLoadError(f"{path}: tensor {name!r:.80} is also in another part")
            tensors[name] = tensor
    return Weights(tensors, _origin(paths), paths)


def unread_format(name: str, kind: str) -> ModelLoadError:
    return ModelLoadError(f"{name} is stored as {kind}, which the native forward does not read")


def bytes_of(matrix: Tensor) -> Bytes:
    """The memory of a matrix, uint8 [rows, bytes of a row]."""
    return matrix.contiguous().view(torch.uint8).reshape(len(matrix), -1).numpy()


def _origin(paths: Sequence[Path]) -> str:
    return str(paths[0] if len(paths) == 1 else paths[0].parent)


def open_weights(directory: Path) -> Weights:
    """The weights of a Hugging Face directory; safetensors are preferred."""
    for name, kind in (
        ("model.safetensors", SafetensorsWeights),
        ("pytorch_model.bin", read_pickles),
    ):
        whole, index = directory / name, directory / f"{name}.index.json"
        if whole.exists() or index.exists():
            paths = [whole] if whole.exists() else shards(index)
            for path in paths:
                if not path.exists():
                    raise ModelLoadError(f"{path}: this part of the model is missing")
            return kind(paths)
    raise ModelLoadError(
        f"{directory}: no model.safetensors or pytorch_model.bin, whole or in shards with an index"
    )


def check_weights(config: ModelConfig, weights: Weights) -> None:
    """Refuse weights that are not exactly what the forward pass reads."""
    origin = weights.origin
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    if config.num_layers > max(len(layers), 1):  # before shapes are made for each of them
        raise ModelLoadError(
            f"{origin}: its config.json states {config.num_layers} layers, "
            f"but {len(layers)} are stored"
        )
    expected = expected_shapes(config)
    for name, wanted in expected.items():
        if name not in weights:
            raise ModelLoadError(f"{origin}: tensor {name} is missing")
        if (shape := weights.shape(name)) != wanted:
            raise ModelLoadError(
                f"{origin}: {name} has shape {list(shape)}, but its config.json "
                f"means {list(wanted)}"
            )
        if name != DRAFT_VOCAB_IDS and not weights.is_floating(name):
            raise ModelLoadError(f"{origin}: {name} is stored as whole numbers")
    redundant = {HEAD} if config.tie_word_embeddings else set()
    unread = [
        name
        for name in weights
        if name not in expected and name not in redundant and not ROTARY_BUFFER.fullmatch(name)
    ]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise ModelLoadError(
            f"{origin}: tensor {unread[0]!r:.80}{more} stored, but a {config.family} model of this "
            "config.json computes nothing with it; the model is of another kind"
        )


def head_is_stored(config: ModelConfig, weights: Weights) -> bool:
    """Whether the head is said to be tied but differs from the embedding; transformers reads it."""
    stored = config.tie_word_embeddings and HEAD in weights and EMBEDDING in weights
    return stored and (
        weights.shape(HEAD) != weights.shape(EMBEDDING)
        or not torch.equal(weights[HEAD], weights[EMBEDDING])
    )


def shards(index: Path) -> list[Path]:
    """The files that an index names, all in its folder."""
    names = read_json(index).get("weight_map")
    files = list(names.values()) if isinstance(names, dict) else []
    if not files or not all(isinstance(file, str) for file in files):
        raise ModelLoadError(f"{index}: entry 'weight_map' is missing, empty or names no files")
    if any(Path(file).name != file or "\0" in file for file in files):
        raise ModelLoadError(f"{index}: a shard lies outside the model's folder")
    return [index.parent / file for file in sorted(set(files))]


def _open_safetensors(path: Path, framework: str = "pt") -> Any:
    try:
        return safe_open(path, framework=framework)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{path}: truncated or no safetensors file ({first_line(error)}); fetch it again"
        ) from None


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        found = _torch_load(path)
    except Exception as error:  # a damaged pickle may raise anything
        if (other := _FOREIGN_CLASS.search(str(error))) is not None:
            raise ModelLoadError(
                f"{path}: it holds more than tensors ({other[1]}), which is not loaded since it "
                "could run code; save the tensors alone, best as safetensors"
            ) from None
        raise ModelLoadError(
            f"{path}: truncated or no plain PyTorch weights ({first_line(error)}); fetch it again"
        ) from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: a dict of tensors was expected")
    for name, tensor in found.items():
        plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided
        if not isinstance(name, str) or not plain or tensor.is_quantized or tensor.is_meta:
            raise ModelLoadError(f"{path}: entry {name!r:.80} is no plain tensor")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise ModelLoadError(f"{path}: {name!r:.80} is larger than what is stored of it")
    return found


def _torch_load(path: Path) -> object:
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive:
        with zipfile.ZipFile(path) as entries:
            # a compressed entry would be mapped as if it were not
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.infolist()):
                raise ValueError("its entries are compressed")
    # the format before PyTorch 1.6 is no archive and cannot be mapped
    return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
