"""A Llama in a GGUF file, seen as a Hugging Face configuration and weights.

Owns the translation of names, metadata and row order, and dequantisation through the `gguf`
package. It knows nothing of caches or of the forward pass. Every tensor and every entry about the
model is translated, can change nothing, or is refused by its name.

llama.cpp rotates neighbouring elements of a head where Hugging Face rotates its two halves, so for
architecture `llama` its converters reorder the rows of q_proj and k_proj. Every such file has that
order (also those made from weights that had it from the start), hence it is always undone here.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.gguf_file import StrictReader, check_entries
from sequoia_core.model.loading.weights import EMBEDDING, HEAD, Weights, first_line

OUTER_NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
    "output.weight": HEAD,
}
OUTSIDE_FORWARD = ("rope_freqs.weight",)
"""Tensors that become a part of the configuration."""

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

Those of them that have none get zeros.
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
        tensors: by Hugging Face name; a number where there is none in the file, and so many zeros
            take its place.
        heads: by the last part of a module's name, of those whose rows are reordered.
        path: of the file.
    """

    def __init__(self, tensors: dict[str, Any], heads: dict[str, int], path: Path) -> None:
        self._tensors = tensors
        self._heads = heads
        self.origin, self.files = str(path), (path,)

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[name]
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
        return self._tensors[name]

    def main_format(self) -> str:
        """The `ggml_type` that most values of matrices are stored in."""
        values: Counter[str] = Counter()
        for stored in self._tensors.values():
            if not isinstance(stored, int) and len(stored.shape) > 1:
                values[stored.tensor_type.name] += math.prod(map(int, stored.shape))
        return values.most_common(1)[0][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        stored = self._tensors[name]
        if isinstance(stored, int):
            return (stored,)
        return tuple(int(size) for size in reversed(stored.shape))


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a GGUF file holds.

    Attributes:
        settings: what a Hugging Face `config.json` would say; `eos_token_id` is a list.
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
    try:
        _check_tensors(reader)
        settings = _settings(reader, stored)
        renamed = _renamed(stored, settings)
        tokenizer = {
            name: _Entries(reader).entry(name)
            for name in reader.fields
            if name.startswith("tokenizer.")
        }
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
    weights = GgufWeights(renamed, heads, path)
    return GgufModel(settings, weights, tokenizer)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of rotary pairs (0, 1), (2, 3), ... of each head -> rows of two rotary halves.

    Args:
        weight: [heads D, hidden], or a bias [heads D].
        heads: how many.
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
        """An entry that may be stated for each layer, where all layers have the same."""
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


def _settings(reader: Any, stored: dict[str, Any]) -> dict[str, Any]:
    entries = _Entries(reader)
    entry, optional = entries.entry, entries.optional
    if optional("split.count", 1) > 1:
        raise ModelLoadError("split into parts; join them: llama-gguf-split --merge FIRST OUT")
    architecture = entry("general.architecture")
    if architecture != "llama" or optional("llama.expert_count", 0):
        raise ModelLoadError(f"architecture is {architecture!r}; only dense 'llama' is supported")
    check_entries(reader)
    heads, hidden = (
        entries.number_per_layer("llama.attention.head_count"),
        entry("llama.embedding_length"),
    )
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
    optional: Any, stored: dict[str, Any], theta: float, head_dim: int
) -> dict[str, Any]:
    """As llama.cpp reads it: a factor without a type is linear, and type none has no factor."""
    kind = optional("llama.rope.scaling.type", "linear")
    factor = optional("llama.rope.scaling.factor", 0.0)
    factor = factor or optional("llama.rope.scale_linear", 0.0) or 1.0
    if kind not in ("none", "linear"):
        raise ModelLoadError(f"rope scaling {kind!r} is not supported (linear, llama3 are)")
    linear = kind == "linear" and factor != 1.0
    if "rope_freqs.weight" not in stored:
        return {"rope_type": "linear", "factor": factor} if linear else {"rope_type": "default"}
    if linear:
        raise ModelLoadError(
            f"rope scaling by {factor} and rope_freqs.weight; only one of them is supported"
        )
    # llama.cpp keeps the divisors of Llama 3's frequencies, not the numbers they were made from
    divisors = np.asarray(stored["rope_freqs.weight"].data, dtype=np.float64)
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


def _renamed(stored: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Tensors under Hugging Face names, and the length of each bias that is none in the file.

    Raises:
        ModelLoadError: a tensor has no such name.
    """
    layers = {name.split(".")[1] for name in stored if name.startswith("blk.")}
    if (stated := settings["num_hidden_layers"]) != len(layers):
        raise ModelLoadError(
            f"llama.block_count is {stated!r:.80}, but {len(layers)} layers are stored"
        )
    found: dict[str, Any] = {}
    for name, tensor in stored.items():
        match name.split("."):
            case _ if name in OUTER_NAMES:
                found[OUTER_NAMES[name]] = tensor
            case ["blk", index, part, "weight"] if part in LAYER_NAMES:
                found[f"model.layers.{index}.{LAYER_NAMES[part]}.weight"] = tensor
            case ["blk", index, part, "bias"] if any(part in parts for parts in BIASED.values()):
                found[f"model.layers.{index}.{LAYER_NAMES[part]}.bias"] = tensor
            case ["blk", _, part, "weight"] if part == ROTARY_BUFFER:
                pass
            case _ if name not in OUTSIDE_FORWARD:
                raise ModelLoadError(
                    f"tensor {name!r:.80} is stored, but a Llama computes nothing with it; "
                    "the model is of another kind"
                )
    biased = [part for name, parts in BIASED.items() if settings[name] for part in parts]
    for module in (
        f"model.layers.{index}.{LAYER_NAMES[part]}" for index in sorted(layers) for part in biased
    ):
        if f"{module}.bias" not in found and f"{module}.weight" in found:
            found[f"{module}.bias"] = int(found[f"{module}.weight"].shape[-1])
    return found
