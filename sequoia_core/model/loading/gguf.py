"""A model in a GGUF file, opened as one of a Hugging Face directory is.

llama.cpp rotates neighbouring elements of a head where Hugging Face rotates its two halves. Every
file has the rows of q_proj and k_proj in that order, which is undone here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.gguf_metadata import (
    ARCHITECTURES,
    LONG_FACTORS,
    ROPE_DIVISORS,
    SHORT_FACTORS,
    StrictReader,
    hf_settings,
)
from sequoia_core.model.loading.gguf_tokenizer import gguf_tokenizer
from sequoia_core.model.loading.loader import Checkpoint
from sequoia_core.model.loading.model_files import first_line
from sequoia_core.model.loading.tokenizer import stated_eos_ids
from sequoia_core.model.loading.weights import Bytes, StoredMatrix, Weights, check_weights
from sequoia_core.model.tensor_names import expected_shapes

ROTARY_BUFFER = ".attn_rot_embd.weight"  # in old files; llama.cpp makes it from the metadata

_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError
)  # fmt: skip
"""What the `gguf` package and the reading of its fields raise over a damaged file."""


class GgufWeights(Weights):
    """Tensors of a GGUF file under Hugging Face names, dequantised to float32 when asked for.

    A number n in place of a tensor stands for n zeros. `heads` has the number of heads of modules
    whose rows are reordered, by the last part of the name. To norms 1 may be added, as to Gemma's.
    """

    def __init__(
        self,
        tensors: Mapping[str, Any],
        heads: Mapping[str, int],
        path: Path,
        norms_have_one: bool = False,
    ) -> None:
        super().__init__(tensors, str(path), (path,))
        self._heads, self._norms_have_one = heads, norms_have_one

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._entries[name]
        if isinstance(tensor, int):
            return torch.zeros(tensor)
        try:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise ModelLoadError(
                f"{self.origin}: {name} is stored as {tensor.tensor_type.name}, "
                f"which cannot be read ({first_line(error)})"
            ) from None
        found = torch.from_numpy(np.array(values, dtype=np.float32)).reshape(self.shape(name))
        if self._norms_have_one and name.endswith("norm.weight"):
            return found - 1.0
        heads = self._heads.get(name.split(".")[-2])
        return found if heads is None else halves_from_pairs(found, heads)

    def shape(self, name: str) -> tuple[int, ...]:
        tensor = self._entries[name]
        return (tensor,) if isinstance(tensor, int) else tuple(map(int, reversed(tensor.shape)))

    def dtype(self, name: str) -> None:  # noqa: ARG002
        return None

    def stored(self, name: str) -> StoredMatrix:
        tensor, shape = self._entries[name], self.shape(name)

        def data() -> Bytes:
            return np.ascontiguousarray(tensor.data).view(np.uint8).reshape(shape[0], -1)

        interleaved = name.split(".")[-2] in self._heads
        return StoredMatrix(int(tensor.tensor_type), shape, data, interleaved)


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file. Raises ModelLoadError if it is damaged, or of no known family."""
    try:
        reader = StrictReader(path)
    except _DAMAGE as error:
        raise ModelLoadError(
            f"{path}: truncated or no GGUF file ({first_line(error)}); fetch it again"
        ) from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        settings = hf_settings(reader, stored)
        config = ModelConfig.from_hf(settings)
        tensors = _renamed(stored, config, reader.architecture)
        known = ARCHITECTURES[reader.architecture]
        names = (name for name in reader.fields if name.startswith("tokenizer."))
        tokenizer = {name: reader.entry(name) for name in names}
    except KeyError as error:
        raise ModelLoadError(f"{path}: {error.args[0]} is missing") from None
    except _DAMAGE as error:
        raise ModelLoadError(f"{path}: an entry is damaged ({first_line(error)})") from None
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from None
    reordered = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    heads = reordered if known.get("permuted") else {}
    weights = GgufWeights(tensors, heads, path, bool(known.get("norms_have_one")))
    check_weights(config, weights)
    return Checkpoint(
        # SmolLM2-135M-Instruct.Q4_1.gguf -> SmolLM2-135M-Instruct
        name=re.sub(r"[.-](I?Q\d\w*|B?F(16|32)|fp(16|32))$", "", path.stem, flags=re.IGNORECASE),
        config=config,
        settings=settings,
        weights=weights,
        tokenizer=lambda: gguf_tokenizer(tokenizer, str(path)),
        eos_token_ids=stated_eos_ids(settings),
    )


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """[heads D, hidden] with rows of pairs (0, 1), (2, 3), ... of each head -> of rotary halves."""
    pairs = weight.view(heads, -1, 2, *weight.shape[1:])  # [heads, D / 2, 2, hidden]
    return pairs.transpose(1, 2).reshape(weight.shape)


def _renamed(stored: Mapping[str, Any], config: ModelConfig, architecture: str) -> dict[str, Any]:
    """Tensors under Hugging Face names, and the length of each bias that the file lacks."""
    layers = len({name.split(".")[1] for name in stored if name.startswith("blk.")})
    if config.num_layers != layers:
        raise ModelLoadError(
            f"{architecture}.block_count is {config.num_layers}, but {layers} layers are stored"
        )
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    stored_names = gguf.get_tensor_name_map(kinds[architecture], layers)
    shapes = expected_shapes(config)
    names = {stored_names.get_name(name, (".weight", ".bias")): name for name in shapes}
    found: dict[str, Any] = {
        name: shape[0] for name, shape in shapes.items() if name.endswith(".bias")
    }
    rope = {LONG_FACTORS, SHORT_FACTORS} if architecture == "phi3" else {ROPE_DIVISORS}
    for name, tensor in stored.items():
        if name in names:
            found[names[name]] = tensor
        elif name not in rope and not name.endswith(ROTARY_BUFFER):
            raise ModelLoadError(
                f"tensor {name!r:.80} is stored, but a {config.family} model computes nothing "
                "with it; the model is of another kind"
            )
    return found
