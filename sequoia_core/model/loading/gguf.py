"""A Llama in a GGUF file, seen as a Hugging Face configuration and weights.

Every tensor and every metadata entry about the model is translated, can change nothing, or is
refused by its name. The `gguf` package dequantises.

llama.cpp rotates neighbouring elements of a head where Hugging Face rotates its two halves, so for
architecture `llama` its converters reorder the rows of q_proj and k_proj. Every such file has that
order (also those made from weights that had it from the start), hence it is always undone here.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.gguf_file import StrictReader
from sequoia_core.model.loading.gguf_settings import (
    BIASED,
    ROPE_DIVISORS,
    check_tensors,
    hf_settings,
)
from sequoia_core.model.loading.reading import first_line
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.weight_shapes import EMBEDDING, FINAL_NORM, HEAD

OUTER_NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": FINAL_NORM,
    "output.weight": HEAD,
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROTARY_BUFFER = "attn_rot_embd"
"""Of each layer in old files: made from the metadata, ignored by llama.cpp."""

_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError
)  # fmt: skip
"""What the `gguf` package and the reading of its fields raise over a damaged file."""


class GgufWeights(Weights):
    """Tensors of a GGUF file under Hugging Face names, dequantised to float32 when asked for.

    A number n in place of a tensor stands for n zeros that are not in the file. `heads` has the
    number of heads of modules whose rows are reordered, by the last part of the name.
    """

    def __init__(self, tensors: Mapping[str, Any], heads: Mapping[str, int], path: Path) -> None:
        super().__init__(tensors, str(path), (path,))
        self._heads = heads

    def __getitem__(self, name: str) -> Tensor:
        stored = self._entries[name]
        if isinstance(stored, int):
            return torch.zeros(stored)
        try:
            values = gguf.dequantize(stored.data, stored.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise ModelLoadError(
                f"{self.origin}: {name} is stored as {stored.tensor_type.name}, "
                f"which cannot be read ({first_line(error)})"
            ) from None
        tensor = torch.from_numpy(np.array(values, dtype=np.float32)).reshape(self.shape(name))
        heads = self._heads.get(name.split(".")[-2])
        return tensor if heads is None else halves_from_pairs(tensor, heads)

    def stored(self, name: str) -> Any:
        """The `gguf` package's view of a tensor, its blocks as they lie in the file."""
        return self._entries[name]

    def main_format(self) -> str:
        """The `ggml_type` that most values of matrices are stored in."""
        values: Counter[str] = Counter()
        for name in self.matrices():
            values[self.stored(name).tensor_type.name] += math.prod(self.shape(name))
        return values.most_common(1)[0][0]

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        stored = self._entries[name]
        if isinstance(stored, int):
            return (stored,)
        return tuple(int(size) for size in reversed(stored.shape))


@dataclass(frozen=True, slots=True)
class GgufModel:
    """Content of a GGUF file: `hf_settings`, weights, and entries with names in `tokenizer.`."""

    settings: dict[str, Any]
    weights: GgufWeights
    tokenizer: dict[str, Any]


def open_gguf(path: Path) -> GgufModel:
    """Read a GGUF file's head; tensors are dequantised later.

    Raises:
        ModelLoadError: the file is damaged, or is no Llama.
    """
    try:
        reader = StrictReader(path)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file") from None
    except _DAMAGE as error:
        raise ModelLoadError(
            f"{path}: truncated or no GGUF file ({first_line(error)}); fetch it again"
        ) from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        check_tensors(reader)
        settings = hf_settings(reader, stored)
        renamed = _renamed(stored, settings)
        names = (name for name in reader.fields if name.startswith("tokenizer."))
        tokenizer = {name: reader.entry(name) for name in names}
    except KeyError as error:
        raise ModelLoadError(f"{path}: {error.args[0]} is missing") from None
    except _DAMAGE as error:
        raise ModelLoadError(f"{path}: an entry is damaged ({first_line(error)})") from None
    except ModelLoadError as error:
        raise ModelLoadError(f"{path}: {error}") from None
    heads = {
        "q_proj": settings["num_attention_heads"],
        "k_proj": settings["num_key_value_heads"],
    }
    return GgufModel(settings, GgufWeights(renamed, heads, path), tokenizer)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of rotary pairs (0, 1), (2, 3), ... of each head -> rows of two rotary halves.

    `weight` is [heads D, hidden], or a bias [heads D].
    """
    pairs = weight.view(heads, -1, 2, *weight.shape[1:])  # [heads, D / 2, 2, hidden]
    return pairs.transpose(1, 2).reshape(weight.shape)


def _renamed(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors under Hugging Face names, and the length of each bias that the file lacks.

    Raises:
        ModelLoadError: a tensor has no such name.
    """
    layers = {name.split(".")[1] for name in stored if name.startswith("blk.")}
    if (stated := settings["num_hidden_layers"]) != len(layers):
        raise ModelLoadError(
            f"llama.block_count is {stated!r:.80}, but {len(layers)} layers are stored"
        )
    with_bias = {part for parts in BIASED.values() for part in parts}
    found: dict[str, Any] = {}
    for name, tensor in stored.items():
        match name.split("."):
            case _ if name in OUTER_NAMES:
                found[OUTER_NAMES[name]] = tensor
            case ["blk", layer, part, "weight"] if part in LAYER_NAMES:
                found[f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"] = tensor
            case ["blk", layer, part, "bias"] if part in with_bias:
                found[f"model.layers.{layer}.{LAYER_NAMES[part]}.bias"] = tensor
            case ["blk", _, part, "weight"] if part == ROTARY_BUFFER:
                pass
            case _ if name != ROPE_DIVISORS:
                raise ModelLoadError(
                    f"tensor {name!r:.80} is stored, but a Llama computes nothing with it; "
                    "the model is of another kind"
                )
    biased = [part for name, parts in BIASED.items() if settings[name] for part in parts]
    for layer, part in product(sorted(layers), biased):
        module = f"model.layers.{layer}.{LAYER_NAMES[part]}"
        if f"{module}.bias" not in found and f"{module}.weight" in found:
            found[f"{module}.bias"] = int(found[f"{module}.weight"].shape[-1])
    return found
