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
from sequoia_core.model.loading.gguf_file import StrictReader, check_entries
from sequoia_core.model.loading.reading import first_line
from sequoia_core.model.loading.weights import Weights
from sequoia_core.model.weight_shapes import EMBEDDING, FINAL_NORM, HEAD

OUTER_NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": FINAL_NORM,
    "output.weight": HEAD,
}
ROPE_DIVISORS = "rope_freqs.weight"
"""Becomes a part of the configuration."""

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
BIASED = {
    "attention_bias": ("attn_q", "attn_k", "attn_v", "attn_output"),
    "mlp_bias": ("ffn_gate", "ffn_up", "ffn_down"),
}
"""Products that may have a bias, by the entry of `config.json` that stands for all of them.

If some of them have a bias, the others get zeros.
"""

ROTARY_BUFFER = "attn_rot_embd"
"""Of each layer in old files: made from the metadata, ignored by llama.cpp."""

END_OF_TURN_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
LLAMA3_BANDS = (1.0, 4.0, 8192)
"""Low and high frequency factor and original window that Llama 3.1 and later are published with."""

_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError
)  # fmt: skip
"""What the `gguf` package and the reading of its fields raise over a damaged file."""


class GgufWeights(Weights):
    """Tensors of a GGUF file under Hugging Face names, dequantised to float32 when asked for.

    Args:
        tensors: by name; a number n stands for n zeros that are not in the file.
        heads: how many, by the last part of a module's name, where rows are reordered.
        path: of the file.
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
    """Content of a GGUF file.

    Attributes:
        settings: as in a Hugging Face `config.json`; `eos_token_id` is a list.
        weights: read and dequantised when asked for.
        tokenizer: the entries whose names begin with `tokenizer.`.
    """

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
    entries = _Entries(reader)
    try:
        _check_tensors(reader)
        settings = _settings(reader, stored)
        renamed = _renamed(stored, settings)
        names = (name for name in reader.fields if name.startswith("tokenizer."))
        tokenizer = {name: entries.entry(name) for name in names}
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


class _Entries:
    """Metadata of an open file."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def entry(self, key: str) -> Any:
        return self._fields[key].contents()

    def optional(self, key: str, default: Any = None) -> Any:
        return self.entry(key) if key in self._fields else default

    def number_per_layer(self, key: str, *default: Any) -> Any:
        """An entry that may be stated for each layer, if all layers have the same."""
        value = self.optional(key, *default) if default else self.entry(key)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelLoadError(f"{key} differs from layer to layer, which is not supported")
            return value[0]
        return value


def _check_tensors(reader: Any) -> None:
    """Refuse sizes that overflow, and a byte order in which quantised blocks are not read."""
    if reader.byte_order != "I":
        raise ModelLoadError("the file is of the other byte order; convert it again")
    for tensor in reader.tensors:
        if math.prod(map(int, tensor.shape)) != tensor.n_elements:
            raise ModelLoadError(f"{tensor.name!r:.80} has a shape that cannot be")
    version = _Entries(reader).optional("general.quantization_version", 2)
    if version != 2:
        raise ModelLoadError(f"general.quantization_version is {version!r}; only 2 is supported")


def _settings(reader: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    entries = _Entries(reader)
    entry, optional = entries.entry, entries.optional
    if optional("split.count", 1) > 1:
        raise ModelLoadError("split into parts; join them: llama-gguf-split --merge FIRST OUT")
    architecture = entry("general.architecture")
    if architecture != "llama" or optional("llama.expert_count", 0):
        raise ModelLoadError(f"architecture is {architecture!r}; only dense 'llama' is supported")
    check_entries(reader)
    heads = entries.number_per_layer("llama.attention.head_count")
    hidden = entry("llama.embedding_length")
    head_dim = optional("llama.attention.key_length", hidden // heads)
    _check_attention(optional, head_dim)
    vocab_size = int(stored["token_embd.weight"].shape[-1])
    if (stated := optional("llama.vocab_size", vocab_size)) != vocab_size:
        raise ModelLoadError(
            f"llama.vocab_size is {stated}, but token_embd.weight has {vocab_size} rows"
        )
    rope_theta = optional("llama.rope.freq_base", 10000.0)
    stops = [optional(f"tokenizer.ggml.{key}") for key in END_OF_TURN_KEYS]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": entries.number_per_layer("llama.feed_forward_length"),
        "num_hidden_layers": entry("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": entries.number_per_layer("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": entry("llama.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": entry("llama.context_length"),
        "sliding_window": optional("llama.attention.sliding_window") or None,
        "tie_word_embeddings": "output.weight" not in stored,
        **{
            name: any(_bias_of(tensor) in parts for tensor in stored)
            for name, parts in BIASED.items()
        },
        "rope_parameters": {
            "rope_theta": rope_theta,
            **_rope_scaling(optional, stored, rope_theta, head_dim),
        },
        "bos_token_id": optional("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted({stop for stop in stops if stop is not None}),
    }


def _check_attention(optional: Any, head_dim: int) -> None:
    if optional("llama.rope.dimension_count", head_dim) != head_dim:
        raise ModelLoadError("rotary embedding of a part of each head is not supported")
    if (width := optional("llama.attention.value_length", head_dim)) != head_dim:
        raise ModelLoadError(
            f"llama.attention.value_length is {width}, but keys have {head_dim}; "
            "only equal ones are supported"
        )
    scale = optional("llama.attention.scale", 0.0)
    if scale and not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise ModelLoadError(
            f"llama.attention.scale is {scale}; only 1 / sqrt({head_dim}) is supported"
        )


def _bias_of(name: str) -> str | None:
    """The product that a tensor of this name is the bias of."""
    match name.split("."):
        case ["blk", _, part, "bias"]:
            return part
    return None


def _rope_scaling(
    optional: Any, stored: Mapping[str, Any], theta: float, head_dim: int
) -> dict[str, Any]:
    """As in llama.cpp, a factor without a type is linear, and type none has no factor."""
    kind = optional("llama.rope.scaling.type", "linear")
    factor = optional("llama.rope.scaling.factor", 0.0)
    factor = factor or optional("llama.rope.scale_linear", 0.0) or 1.0
    if kind not in ("none", "linear"):
        raise ModelLoadError(f"rope scaling {kind!r} is not supported (linear, llama3 are)")
    linear = kind == "linear" and factor != 1.0
    if ROPE_DIVISORS not in stored:
        return {"rope_type": "linear", "factor": factor} if linear else {"rope_type": "default"}
    if linear:
        raise ModelLoadError(
            f"rope scaling by {factor} and rope_freqs.weight; only one of them is supported"
        )
    # the file has the divisors of Llama 3's frequencies, not the numbers they were made from
    divisors = np.asarray(stored[ROPE_DIVISORS].data, dtype=np.float64)
    low, high, window = LLAMA3_BANDS
    factor = float(divisors.max())
    turns = window / (2 * math.pi) * theta ** -(np.arange(0, head_dim, 2) / head_dim)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    if divisors.shape != keep.shape or not np.allclose(
        divisors, 1.0 / (keep + (1.0 - keep) / factor), rtol=1e-3
    ):
        raise ModelLoadError("rope_freqs.weight is not Llama 3's; this rope scaling is unknown")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": window,
    }


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
