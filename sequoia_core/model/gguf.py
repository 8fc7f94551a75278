"""A Llama in a GGUF file, seen as a Hugging Face configuration and weights.

Owns the translation of names, metadata and row order, and dequantisation through the `gguf`
package. It knows nothing of caches or of the forward pass.

llama.cpp rotates neighbouring elements of a head where Hugging Face rotates its two halves, so for
architecture `llama` its converters reorder the rows of q_proj and k_proj. Every such file has that
order (also those made from weights that had it from the start), hence it is always undone here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.weights import EMBEDDING, HEAD, Weights, first_line

OUTER_NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": "model.norm.weight",
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
END_OF_TURN_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
LLAMA3_BANDS = (1.0, 4.0, 8192)
"""Low and high frequency factor and original window that Llama 3.1 and later are published with."""

_DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError, OSError
)  # fmt: skip
"""What the `gguf` package and the reading of its fields raise over a damaged file."""


class _StrictReader(gguf.GGUFReader):  # type: ignore[misc]  # the package ships no types
    """Refuses to read past the end, where the package would go on with empty arrays."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        found = super()._get(offset, dtype, count, override_order)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found


class GgufWeights(Weights):
    """Tensors of a GGUF file under Hugging Face names, dequantised to float32 when asked for."""

    def __init__(self, tensors: dict[str, Any], heads: dict[str, int], origin: str) -> None:
        self._tensors = tensors
        self._heads = heads  # by name of the last part of a module whose rows are reordered
        self.origin = origin

    def __getitem__(self, name: str) -> Tensor:
        stored = self._tensors[name]
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

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))


@dataclass(frozen=True, slots=True)
class GgufModel:
    """What a GGUF file holds.

    Attributes:
        settings: what a Hugging Face `config.json` would say; `eos_token_id` is a list.
        weights: read and dequantised when asked for.
        pre_tokenizer: how the tokenizer splits text first, `tokenizer.ggml.pre`.
    """

    settings: dict[str, Any]
    weights: GgufWeights
    pre_tokenizer: str | None


def open_gguf(path: Path) -> GgufModel:
    """Read a GGUF file's head; tensors are dequantised later.

    Raises:
        ModelLoadError: the file is damaged, or is no Llama.
    """
    try:
        reader = _StrictReader(path)
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file") from None
    except _DAMAGE as error:
        raise ModelLoadError(
            f"{path}: truncated or no GGUF file ({first_line(error)}); fetch it again"
        ) from None
    stored = {tensor.name: tensor for tensor in reader.tensors}
    try:
        settings = _settings(reader, stored)
        pre_tokenizer = _Entries(reader).optional("tokenizer.ggml.pre")
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
    weights = GgufWeights(_renamed(stored), heads, str(path))
    return GgufModel(settings, weights, pre_tokenizer)


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of rotary pairs (0, 1), (2, 3), ... of each head -> rows of two rotary halves."""
    pairs = weight.view(heads, -1, 2, weight.shape[1])  # [heads, D / 2, 2, hidden]
    return pairs.transpose(1, 2).reshape(weight.shape)


class _Entries:
    """Metadata of an open file."""

    def __init__(self, reader: Any) -> None:
        self._fields = reader.fields

    def entry(self, key: str) -> Any:
        return self._fields[key].contents()

    def optional(self, key: str, default: Any = None) -> Any:
        return self.entry(key) if key in self._fields else default


def _settings(reader: Any, stored: dict[str, Any]) -> dict[str, Any]:
    entries = _Entries(reader)
    entry, optional = entries.entry, entries.optional
    if optional("split.count", 1) > 1:
        raise ModelLoadError("split into parts; join them: llama-gguf-split --merge FIRST OUT")
    architecture = entry("general.architecture")
    if architecture != "llama" or optional("llama.expert_count", 0):
        raise ModelLoadError(f"architecture is {architecture!r}; only dense 'llama' is supported")
    heads, hidden = entry("llama.attention.head_count"), entry("llama.embedding_length")
    head_dim = optional("llama.attention.key_length", hidden // heads)
    if optional("llama.rope.dimension_count", head_dim) != head_dim:
        raise ModelLoadError("rotary embedding of a part of each head is not supported")
    rope_theta = optional("llama.rope.freq_base", 10000.0)
    stops = [optional(f"tokenizer.ggml.{key}") for key in END_OF_TURN_KEYS]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": int(stored["token_embd.weight"].shape[-1]),
        "hidden_size": hidden,
        "intermediate_size": entry("llama.feed_forward_length"),
        "num_hidden_layers": entry("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": optional("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": entry("llama.attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": entry("llama.context_length"),
        "tie_word_embeddings": "output.weight" not in stored,
        "rope_parameters": {
            "rope_theta": rope_theta,
            **_rope_scaling(optional, stored, rope_theta, head_dim),
        },
        "bos_token_id": optional("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted({stop for stop in stops if stop is not None}),
    }


def _rope_scaling(
    optional: Any, stored: dict[str, Any], theta: float, head_dim: int
) -> dict[str, Any]:
    kind = optional("llama.rope.scaling.type", "none")
    if kind == "linear":
        return {"rope_type": "linear", "factor": optional("llama.rope.scaling.factor", 1.0)}
    if kind != "none":
        raise ModelLoadError(f"rope scaling {kind!r} is not supported (linear, llama3 are)")
    if "rope_freqs.weight" not in stored:
        return {"rope_type": "default"}
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


def _renamed(stored: dict[str, Any]) -> dict[str, Any]:
    """Tensors under Hugging Face names; those without one (rotary tables) are left out."""
    found = {OUTER_NAMES[name]: tensor for name, tensor in stored.items() if name in OUTER_NAMES}
    for name, tensor in stored.items():
        match name.split("."):
            case ["blk", index, part, "weight"] if part in LAYER_NAMES:
                found[f"model.layers.{index}.{LAYER_NAMES[part]}.weight"] = tensor
    return found
