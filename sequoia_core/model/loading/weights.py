"""A model's tensors by Hugging Face name, read from disk one at a time when asked for.

The file formats of weights are safetensors and PyTorch's pickled archive, whole or in shards.
Tensors are views of the mapped file where the format allows it, so that a model on its way to
another dtype or device is never held twice.
"""

import re
import zipfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.reading import first_line, read_json
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS, EMBEDDING, HEAD, expected_shapes

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Number formats that can be computed in, by their names in safetensors files."""

COPIED_BYTES = 1 << 20
"""Tensors up to this size are copied out of the mapped file: with one page touched the kernel maps
up to 2 MiB around it, so that 61 norms of 1 kB held 100 MB."""

ROTARY_BUFFER = re.compile(r".*\brotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Stored by old versions of transformers and ignored by all later ones: made from the config."""

_FOREIGN_CLASS = re.compile(r"Unsupported (?:global|class): GLOBAL (?P<name>[\w.]+)")
"""PyTorch's message about a pickle that names anything but its own tensors."""


class Weights(Mapping[str, Tensor]):
    """Tensors by name, from `files` at `origin`; the kind of `entries` is the subclass's."""

    def __init__(self, entries: Mapping[str, Any], origin: str, files: Sequence[Path] = ()) -> None:
        self._entries = entries
        self.origin, self.files = origin, files

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""

    def is_floating(self, name: str) -> bool:  # noqa: ARG002
        """Whether a tensor holds floating-point numbers, without reading it."""
        return True

    def dtype(self, name: str) -> torch.dtype | None:  # noqa: ARG002
        """Number format that a tensor is stored in; None where it is none of PyTorch's."""
        return None

    def matrices(self) -> Iterator[str]:
        """Names of the tensors with two dimensions."""
        return (name for name in self if len(self.shape(name)) == 2)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:  # a mapping's own would read the tensor
        return name in self._entries


class SafetensorsWeights(Weights):
    """One or several safetensors files.

    Raises:
        ModelLoadError: a file is missing, truncated or not in this format.
    """

    def __init__(self, paths: list[Path]) -> None:
        files: dict[str, tuple[Path, Any]] = {}  # by tensor: where it is, opened
        for path in paths:
            # mapped for torch, the whole file would count as this process's data; this handle is
            # only asked for names and shapes
            file = _open_safetensors(path, "numpy")
            for name in file.keys():  # noqa: SIM118  # no mapping
                if name in files:
                    raise ModelLoadError(
                        f"{path}: tensor {name!r:.80} is also in {files[name][0].name}"
                    )
                files[name] = (path, file)
        super().__init__(files, _origin(paths), paths)

    def __getitem__(self, name: str) -> Tensor:
        # opened for each tensor, since its pages stay in memory as long as the mapping
        tensor: Tensor = _open_safetensors(self.path(name)).get_tensor(name)
        return tensor.clone() if tensor.nbytes <= COPIED_BYTES else tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return tuple(self._slice(name).get_shape())

    def is_floating(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers, without reading it."""
        return str(self._slice(name).get_dtype()).startswith(("F", "BF"))

    def dtype(self, name: str) -> torch.dtype | None:
        """Number format that a tensor is stored in; None where it cannot be computed in."""
        return STORED_DTYPES.get(self._slice(name).get_dtype())

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        path: Path = self._entries[name][0]
        return path

    def _slice(self, name: str) -> Any:
        return self._entries[name][1].get_slice(name)


class LoadedWeights(Weights):
    """Tensors that are in memory, or mapped into it."""

    @classmethod
    def from_pickles(cls, paths: list[Path]) -> "LoadedWeights":
        """Read `pytorch_model.bin` files; nothing but tensors is unpickled.

        Raises:
            ModelLoadError: a file is missing, truncated, or holds more than tensors.
        """
        tensors: dict[str, Tensor] = {}
        for path in paths:
            for name, tensor in _unpickle(path).items():
                if name in tensors:
                    raise ModelLoadError(f"{path}: tensor {name!r:.80} is also in another part")
                tensors[name] = tensor
        return cls(tensors, _origin(paths), paths)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._entries[name]
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self[name].shape)

    def is_floating(self, name: str) -> bool:
        """Whether a tensor holds floating-point numbers."""
        return self[name].is_floating_point()

    def dtype(self, name: str) -> torch.dtype | None:
        """Number format of a tensor."""
        return self[name].dtype


def _origin(paths: Sequence[Path]) -> str:
    return str(paths[0] if len(paths) == 1 else paths[0].parent)


def open_weights(directory: Path) -> Weights:
    """The weights of a Hugging Face directory; safetensors are preferred.

    Raises:
        ModelLoadError: no weights, or a file of them is missing or damaged.
    """
    for name, kind in (
        ("model.safetensors", SafetensorsWeights),
        ("pytorch_model.bin", LoadedWeights.from_pickles),
    ):
        whole, index = directory / name, directory / f"{name}.index.json"
        if whole.exists() or index.exists():
            return kind([whole] if whole.exists() else shards(index))
    raise ModelLoadError(
        f"{directory}: no model.safetensors or pytorch_model.bin, whole or in shards with an index"
    )


def check_weights(config: ModelConfig, weights: Weights) -> None:
    """Compare what is stored with what the forward pass reads.

    Raises:
        ModelLoadError: a tensor is missing, has another shape, holds no floating-point numbers, or
            is stored and not read.
    """
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    if config.num_layers > max(len(layers), 1):  # before shapes are made for each of them
        raise ModelLoadError(
            f"{weights.origin}: its config.json states {config.num_layers} layers, "
            f"but {len(layers)} are stored"
        )
    expected = expected_shapes(config)
    for name, wanted in expected.items():
        if name not in weights:
            raise ModelLoadError(f"{weights.origin}: tensor {name} is missing")
        if (shape := weights.shape(name)) != wanted:
            raise ModelLoadError(
                f"{weights.origin}: {name} has shape {list(shape)}, but its config.json "
                f"means {list(wanted)}"
            )
        if name != DRAFT_VOCAB_IDS and not weights.is_floating(name):
            raise ModelLoadError(f"{weights.origin}: {name} is stored as whole numbers")
    unread = [name for name in weights if name not in expected and not _is_redundant(name, config)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise ModelLoadError(
            f"{weights.origin}: tensor {unread[0]!r:.80}{more} stored, but a Llama of this "
            "config.json computes nothing with it; the model is of another kind"
        )


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Whether it is a rotary buffer, or a second copy of the embedding."""
    return bool(ROTARY_BUFFER.fullmatch(name)) or (name == HEAD and config.tie_word_embeddings)


def head_is_stored(config: ModelConfig, weights: Weights) -> bool:
    """Whether the head is said to be tied but differs from the embedding; transformers reads it."""
    stored = config.tie_word_embeddings and HEAD in weights and EMBEDDING in weights
    return stored and (
        weights.shape(HEAD) != weights.shape(EMBEDDING)
        or not torch.equal(weights[HEAD], weights[EMBEDDING])
    )


def shards(index: Path) -> list[Path]:
    """The files that an index names.

    Raises:
        ModelLoadError: it is damaged, or names what is no file of its folder.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelLoadError(f"{index}: entry 'weight_map' is missing or empty")
    if not all(isinstance(name, str) for name in names.values()):
        raise ModelLoadError(f"{index}: entry 'weight_map' names something that is no file")
    files = set(names.values())
    if any(Path(file).name != file or "\0" in file for file in files):
        raise ModelLoadError(f"{index}: a shard lies outside the model's folder")
    return [index.parent / file for file in sorted(files)]


def _open_safetensors(path: Path, framework: str = "pt") -> Any:
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: this part of the model is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{path}: truncated or no safetensors file ({first_line(error)}); fetch it again"
        ) from None


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        found = _torch_load(path)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: this part of the model is missing") from None
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
        if not isinstance(name, str) or not _is_plain(tensor):
            raise ModelLoadError(f"{path}: entry {name!r:.80} is no plain tensor")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.itemsize:
            raise ModelLoadError(f"{path}: {name!r:.80} is larger than what is stored of it")
    return found


def _is_plain(tensor: object) -> bool:
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


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
