"""A model's tensors by Hugging Face name, read from disk one at a time when asked for.

Owns the file formats of weights (safetensors, PyTorch's pickled archive; whole or in shards) and
the check of names and shapes against a configuration. It knows nothing of tokenizers or of the
forward pass. Tensors are views of the mapped file where the format allows it, so that a model on
its way to another dtype or device is never held twice.
"""

import json
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

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
DRAFT_VOCAB_IDS = "draft_vocab_ids"
TARGET_INPUT = "conditioning.target.weight"
"""Of a conditioned draft: embedding and the target's hidden states -> its own hidden state."""
OWN_INPUT = "conditioning.own.weight"
"""Likewise below a tree's first level: embedding and the draft's own output -> hidden state."""
INPUT_SHIFT = "conditioning.shift"
"""Taken from the embedding and from each hidden state of the target before they are read ..."""
INPUT_SCALE = "conditioning.scale"
"""... and multiplied with what is left; float32, one after the other."""

STORED_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Number formats that can be computed in, by their names in safetensors files."""

COPIED_BYTES = 1 << 20
"""Tensors up to this size are copied out of the mapped file: with one page touched the kernel maps
up to 2 MiB around it, so that 61 norms of 1 kB held 100 MB."""


ROTARY_BUFFER = re.compile(r".*\brotary_emb\.(inv_freq|cos_cached|sin_cached)")
"""Stored by old versions of transformers and ignored by all later ones: made from the config."""

_FOREIGN_CLASS = re.compile(r"Unsupported (?:global|class): GLOBAL (?P<name>[\w.]+)")
"""What torch says of a pickle that names anything but its own tensors."""

MOST_JSON_BYTES = 64 << 20
"""An index of a thousand shards takes a few megabytes."""


class Weights(Mapping[str, Tensor]):
    """Tensors by name.

    Attributes:
        origin: where they come from, for messages.
        files: those that hold them.
    """

    origin: str
    files: Sequence[Path] = ()

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""

    def __contains__(self, name: object) -> bool:
        # a mapping's own would read the tensor
        if not isinstance(name, str):
            return False
        try:
            self.shape(name)
        except KeyError:
            return False
        return True

    def is_floating(self, name: str) -> bool:  # noqa: ARG002
        """Whether a tensor holds floating numbers, without reading it."""
        return True

    def dtype(self, name: str) -> torch.dtype | None:  # noqa: ARG002
        """Number format of a tensor as it is stored; None where it is none of PyTorch's."""
        return None


class SafetensorsWeights(Weights):
    """One or several safetensors files.

    Raises:
        ModelLoadError: a file is missing, truncated or not in this format.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.origin = str(paths[0] if len(paths) == 1 else paths[0].parent)
        self.files = paths
        self._files: dict[str, tuple[Path, Any]] = {}  # tensor name -> where, opened
        for path in paths:
            # only names and shapes are asked of it, and mapped for torch the whole file would count
            # as this process's data
            file = _open_safetensors(path, "numpy")
            for name in file.keys():  # noqa: SIM118  # no mapping
                if name in self._files:
                    raise ModelLoadError(
                        f"{path}: tensor {name!r:.80} is also in {self._files[name][0].name}"
                    )
                self._files[name] = (path, file)

    def __getitem__(self, name: str) -> Tensor:
        # opened anew, since what was read stays in memory for as long as the mapping it came from
        tensor: Tensor = _open_safetensors(self._files[name][0]).get_tensor(name)
        return tensor.clone() if tensor.nbytes <= COPIED_BYTES else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return tuple(self._files[name][1].get_slice(name).get_shape())

    def is_floating(self, name: str) -> bool:
        """Whether a tensor holds floating numbers, without reading it."""
        return str(self._files[name][1].get_slice(name).get_dtype()).startswith(("F", "BF"))

    def dtype(self, name: str) -> torch.dtype | None:
        """Number format of a tensor without reading it."""
        return STORED_DTYPES.get(self._files[name][1].get_slice(name).get_dtype())

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._files[name][0]


class LoadedWeights(Weights):
    """Tensors that are in memory, or mapped into it, already."""

    def __init__(
        self, tensors: Mapping[str, Tensor], origin: str, files: Sequence[Path] = ()
    ) -> None:
        self._tensors = tensors
        self.origin = origin
        self.files = files

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
        return cls(tensors, str(paths[0] if len(paths) == 1 else paths[0].parent), paths)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._tensors[name].shape)

    def is_floating(self, name: str) -> bool:
        """Whether a tensor holds floating numbers."""
        return self._tensors[name].is_floating_point()

    def dtype(self, name: str) -> torch.dtype | None:
        """Number format of a tensor."""
        return self._tensors[name].dtype


def open_weights(directory: Path) -> Weights:
    """The weights of a Hugging Face directory, whichever of the known files it has.

    Raises:
        ModelLoadError: no weights, or a file of them is missing or damaged.
    """
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        whole = directory / f"{stem}{suffix}"
        index = directory / f"{stem}{suffix}.index.json"
        paths = [whole] if whole.exists() else shards(index) if index.exists() else []
        if paths:
            return (
                SafetensorsWeights(paths) if stem == "model" else LoadedWeights.from_pickles(paths)
            )
    raise ModelLoadError(
        f"{directory}: no model.safetensors or pytorch_model.bin, whole or in shards with an index"
    )


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the forward pass reads from a file."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_heads * config.head_dim
    keys = config.num_kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.norm.weight": (hidden,)}
    if not config.embeddings_from_target:
        shapes[EMBEDDING] = (config.vocab_size, hidden)
    if not config.tie_word_embeddings:
        shapes[HEAD] = (config.head_vocab_size, hidden)
    if config.head_vocab_size != config.vocab_size:
        shapes[DRAFT_VOCAB_IDS] = (config.head_vocab_size,)
    if slots := len(config.feature_layers):
        shapes[TARGET_INPUT] = (hidden, (slots + 1) * hidden)
        shapes[OWN_INPUT] = (hidden, 2 * hidden)
        shapes[INPUT_SHIFT] = shapes[INPUT_SCALE] = ((slots + 1) * hidden,)
    for index in range(config.num_layers):
        layer = f"model.layers.{index}"
        if config.attention_bias:
            shapes |= {
                f"{layer}.self_attn.q_proj.bias": (queries,),
                f"{layer}.self_attn.k_proj.bias": (keys,),
                f"{layer}.self_attn.v_proj.bias": (keys,),
                f"{layer}.self_attn.o_proj.bias": (hidden,),
            }
        if config.mlp_bias:
            shapes |= {
                f"{layer}.mlp.gate_proj.bias": (inner,),
                f"{layer}.mlp.up_proj.bias": (inner,),
                f"{layer}.mlp.down_proj.bias": (hidden,),
            }
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (queries, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, queries),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    return shapes


def check_weights(config: ModelConfig, weights: Weights) -> None:
    """Compare what is stored with what the forward pass reads.

    Raises:
        ModelLoadError: a tensor is missing, has another shape, holds no floating numbers, or is
            stored and not read.
    """
    layers = {name.split(".")[2] for name in weights if name.startswith("model.layers.")}
    if config.num_layers > max(len(layers), 1):  # before anything is made for each of them
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
    unread = [name for name in weights if name not in expected and not _needless(name, config)]
    if unread:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise ModelLoadError(
            f"{weights.origin}: tensor {unread[0]!r:.80}{more} stored, but a Llama of this "
            "config.json computes nothing with it; the model is of another kind"
        )


def head_is_stored(config: ModelConfig, weights: Weights) -> bool:
    """Whether an output head is stored that differs from the embedding it is said to be.

    transformers takes the stored one then.
    """
    stored = config.tie_word_embeddings and HEAD in weights and EMBEDDING in weights
    return stored and (
        weights.shape(HEAD) != weights.shape(EMBEDDING)
        or not torch.equal(weights[HEAD], weights[EMBEDDING])
    )


def _needless(name: str, config: ModelConfig) -> bool:
    """A rotary buffer, or a second copy of the embedding."""
    return bool(ROTARY_BUFFER.fullmatch(name)) or (name == HEAD and config.tie_word_embeddings)


def first_line(error: Exception) -> str:
    """What a library said, cut to one line without control characters."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return "".join(character if character.isprintable() else "?" for character in line)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ModelLoadError: the file is missing, unreadable, or holds something else.
    """
    try:
        if path.stat().st_size > MOST_JSON_BYTES:
            raise ModelLoadError(f"{path}: larger than {MOST_JSON_BYTES >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path}: no readable JSON ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise ModelLoadError(f"{path}: a JSON object was expected")
    return found


def _open_safetensors(path: Path, framework: str = "pt") -> Any:
    try:
        return safe_open(path, framework=framework)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: this part of the model is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{path}: truncated or no safetensors file ({first_line(error)}); fetch it again"
        ) from None


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
    """Whether it is a tensor of numbers that are all there."""
    if not isinstance(tensor, Tensor):
        return False
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def _torch_load(path: Path) -> object:
    with path.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if archive:
        with zipfile.ZipFile(path) as entries:
            # mapped, a compressed entry would be read as if it were not
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.infolist()):
                raise ValueError("its entries are compressed")
    # the format before PyTorch 1.6 is no archive and cannot be mapped
    return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
