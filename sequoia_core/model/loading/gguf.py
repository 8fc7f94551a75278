"""A Llama in a GGUF file, seen as a Hugging Face configuration and weights.

llama.cpp rotates neighbouring elements of a head where Hugging Face rotates its two halves. Every
file has the rows of q_proj and k_proj in that order, which is undone here.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.gguf_metadata import (
    BIASED,
    ROPE_DIVISORS,
    StrictReader,
    hf_settings,
)
from sequoia_core.model.loading.model_files import first_line
from sequoia_core.model.loading.weights import Bytes, StoredMatrix, Weights
from sequoia_core.model.weight_shapes import EMBEDDING, FINAL_NORM, HEAD, layer_name

OUTER_NAMES = {
    "token_embd.weight": EMBEDDING, "output_norm.weight": FINAL_NORM, "output.weight": HEAD,
}  # fmt: skip
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
ROTARY_BUFFER = "attn_rot_embd"  # in old files, made from the metadata; llama.cpp ignores it

_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError
)  # fmt: skip
"""What the `gguf` package and the reading of its fields raise over a damaged file."""


class GgufWeights(Weights):
    """Tensors of a GGUF file under Hugging Face names, dequantised to float32 when asked for.

    A number n in place of a tensor stands for n zeros. `heads` has the number of heads of modules
    whose rows are reordered, by the last part of the name.
    """

    def __init__(self, tensors: Mapping[str, Any], heads: Mapping[str, int], path: Path) -> None:
        super().__init__(tensors, str(path), (path,))
        self._heads = heads

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


class GgufModel(NamedTuple):
    settings: dict[str, Any]  # see `hf_settings`
    weights: GgufWeights
    tokenizer: dict[str, Any]  # entries with names in `tokenizer.`


def open_gguf(path: Path) -> GgufModel:
    """Read a GGUF file's head. Raises ModelLoadError if it is damaged, or is no Llama."""
    try:
        reader = StrictReader(path)
    except _DAMAGE as error:
        raise ModelLoadError(
            f"{path}: truncated or no GGUF file ({first_line(error)}); fetch it again"
        ) from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
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
    query_heads, key_heads = settings["num_attention_heads"], settings["num_key_value_heads"]
    weights = GgufWeights(renamed, {"q_proj": query_heads, "k_proj": key_heads}, path)
    return GgufModel(settings, weights, tokenizer)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """[heads D, hidden] with rows of pairs (0, 1), (2, 3), ... of each head -> of rotary halves."""
    pairs = weight.view(heads, -1, 2, *weight.shape[1:])  # [heads, D / 2, 2, hidden]
    return pairs.transpose(1, 2).reshape(weight.shape)


def _renamed(stored: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors under Hugging Face names, and the length of each bias that the file lacks."""
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
            case ["blk", layer, part, "weight" | "bias" as kind] if part in (
                LAYER_NAMES if kind == "weight" else with_bias
            ):
                found[layer_name(layer, f"{LAYER_NAMES[part]}.{kind}")] = tensor
            case ["blk", _, part, "weight"] if part == ROTARY_BUFFER:
                pass
            case _ if name != ROPE_DIVISORS:
                raise ModelLoadError(
                    f"tensor {name!r:.80} is stored, but a Llama computes nothing with it; "
                    "the model is of another kind"
                )
    biased = [part for name, parts in BIASED.items() if settings[name] for part in parts]
    for layer, part in product(sorted(layers), biased):
        module = layer_name(layer, LAYER_NAMES[part])
        if f"{module}.bias" not in found and f"{module}.weight" in found:
            found[f"{module}.bias"] = int(found[f"{module}.weight"].shape[-1])
    return found
