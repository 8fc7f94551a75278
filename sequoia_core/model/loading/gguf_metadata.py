"""The metadata of a GGUF file as a Hugging Face configuration."""

import fnmatch
import math
import reprlib
import struct
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config_entries import families, shown

MOST_ENTRIES = 1 << 12  # of metadata and of tensors; the largest Llama has about 1,200
MOST_ITEMS = 1 << 21  # of arrays other than numbers; a vocabulary of 256k has under a million

_ENTRIES = tomllib.loads((Path(__file__).parent / "gguf_metadata.toml").read_text("utf-8"))
_READ, _ONLY_VALUES = {*_ENTRIES["read"], *_ENTRIES["no_effect"]}, _ENTRIES["only_values"]

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = _ENTRIES["architectures"]
"""By `general.architecture`."""

PREFIXES = {"rope", "attention", *gguf.MODEL_ARCH_NAMES.values()}
"""Of entries about a model of some architecture, or of none."""

# they become a part of the configuration
ROPE_DIVISORS = "rope_freqs.weight"
LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"

LLAMA3_BANDS = (1.0, 4.0, 8192)
"""Low and high frequency factor and original window that Llama 3.1 and later are published with."""

_YARN_VALUES = {
    "rope.scaling.yarn_ext_factor": [1.0, -1.0],
    "rope.scaling.yarn_beta_fast": [32.0],
    "rope.scaling.yarn_beta_slow": [1.0],
}
"""Entries of `yarn` that llama.cpp does not read in these architectures, with its own values."""


class StrictReader(gguf.GGUFReader):  # type: ignore[misc]  # the package ships no types
    """Refuses to read past the end of the file, and implausibly large counts.

    It makes a plain array of each string; the package's three mapped ones take seconds.
    """

    items = 0

    def entry(self, key: str) -> Any:
        return self.fields[key].contents()

    def optional(self, key: str, default: Any = None) -> Any:
        return self.entry(key) if key in self.fields else default

    @property
    def architecture(self) -> str:
        return str(self.entry("general.architecture"))

    def of_model(self, name: str, *default: Any) -> Any:
        """An entry below the architecture's name."""
        key = f"{self.architecture}.{name}"
        return self.optional(key, *default) if default else self.entry(key)

    def number_per_layer(self, key: str, *default: Any) -> Any:
        """An entry that may be stated for each layer, if all layers have the same."""
        value = self.optional(key, *default) if default else self.entry(key)
        if not isinstance(value, list):
            return value
        if len(set(value)) != 1:
            raise ModelLoadError(f"{key} differs from layer to layer, which is not supported")
        return value[0]

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        found = super()._get(offset, dtype, count, override_order)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        if kind[0] == gguf.GGUFValueType.ARRAY:
            raise ValueError("an array of arrays, which no model's file has")
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind[0])]
        if (number := self.gguf_scalar_to_np.get(kind[0])) is not None:
            values = self._get(orig_offs + 12, number, length[0])
            return 12 + values.nbytes, [kind, length, values], [2], types
        self.items += int(length[0])
        if self.items > MOST_ITEMS:
            raise ValueError(f"more than {MOST_ITEMS} strings, which no model's file has")
        strings, size = self._strings(orig_offs + 12, int(length[0]))
        return 12 + size, [kind, length, *strings], list(range(2, 2 + len(strings))), types

    def _strings(self, start: int, count: int) -> tuple[list[Any], int]:
        """Consecutive strings, uint8 each, and the bytes that they take in the file."""
        content = self.data.view(np.ndarray)
        length = struct.Struct("<Q" if self.byte_order == "I" else ">Q")
        strings, at = [], start
        for _ in range(count):
            size = length.unpack_from(content, at)[0] if at + 8 <= len(content) else 0
            at += 8 + size
            if at > len(content):
                raise ValueError("it ends too early")
            strings.append(content[at - size : at])
        return strings, at - start

    def _build_fields(self, offs: int, count: int) -> Any:
        most = max(count, self.entry("GGUF.tensor_count"))
        if most > MOST_ENTRIES:
            raise ValueError(f"{most} entries, where no model has more than {MOST_ENTRIES}")
        return super()._build_fields(offs, count)


def _check_tensors(reader: StrictReader) -> None:
    """Refuse sizes that overflow, and a byte order in which quantised blocks are not read."""
    if reader.byte_order != "I":
        raise ModelLoadError("the file is of the other byte order; convert it again")
    for tensor in reader.tensors:
        if math.prod(map(int, tensor.shape)) != tensor.n_elements:
            raise ModelLoadError(f"{tensor.name!r:.80} has a shape that cannot be")
    if (version := reader.optional("general.quantization_version", 2)) != 2:
        raise ModelLoadError(f"general.quantization_version is {version!r}; only 2 is supported")


def hf_settings(reader: StrictReader, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What a Hugging Face `config.json` would say; `eos_token_id` is a list.

    Raises ModelLoadError for what is not supported, KeyError for a missing entry.
    """
    _check_tensors(reader)
    entry, optional = reader.entry, reader.optional
    if optional("split.count", 1) > 1:
        raise ModelLoadError("split into parts; join them: llama-gguf-split --merge FIRST OUT")
    architecture = entry("general.architecture")
    if (known := ARCHITECTURES.get(architecture)) is None or reader.of_model("expert_count", 0):
        named = ", ".join(ARCHITECTURES)
        raise ModelLoadError(
            f"architecture is {architecture!r:.80}; only dense ones of these are supported: {named}"
        )
    _check_entries(reader, known)
    of_model = reader.of_model
    heads = reader.number_per_layer(f"{architecture}.attention.head_count")
    hidden = of_model("embedding_length")
    head_dim = of_model("attention.key_length", hidden // heads)
    rotated = of_model("rope.dimension_count", head_dim)
    _check_attention(reader, known, head_dim, rotated)
    vocab_size = int(stored["token_embd.weight"].shape[-1])
    if (stated := of_model("vocab_size", vocab_size)) != vocab_size:
        raise ModelLoadError(
            f"{architecture}.vocab_size is {stated}, but token_embd.weight has {vocab_size} rows"
        )
    rope_theta = of_model("rope.freq_base", 10000.0)
    ends = (optional(f"tokenizer.ggml.{each}_token_id") for each in ("eos", "eot", "eom"))
    found = {
        "model_type": known["model_type"],
        "architectures": [families()[known["model_type"]].architecture],
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": reader.number_per_layer(f"{architecture}.feed_forward_length"),
        "num_hidden_layers": of_model("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": reader.number_per_layer(
            f"{architecture}.attention.head_count_kv", heads
        ),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": of_model("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": of_model("context_length"),
        "sliding_window": of_model("attention.sliding_window", known.get("window", 0)) or None,
        "tie_word_embeddings": "output.weight" not in stored,
        # some products of a group may lack theirs
        "attention_bias": bool(fnmatch.filter(stored, "blk.*.attn_*.bias")),
        "mlp_bias": bool(fnmatch.filter(stored, "blk.*.ffn_*.bias")),
        "rope_parameters": {
            "rope_theta": rope_theta,
            **_rope_scaling(reader, stored, rope_theta, rotated),
        },
        "bos_token_id": optional("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted({end for end in ends if end is not None}),
        **known.get("settings", {}),
    }
    for name, key in known.get("entries", {}).items():
        if (value := of_model(key, None)) is not None:
            found[name] = value
    for name in known.get("without", ()):
        found.pop(name)
    family = families()[known["model_type"]]
    if "large" in known:  # no entry has the scale
        large = found["num_hidden_layers"] == known["large"]
        found["query_pre_attn_scalar"] = hidden // heads if large else head_dim
    if "partial_rotary_factor" in family.read:
        found["partial_rotary_factor"] = rotated / head_dim
    return found


def _check_attention(
    reader: StrictReader, known: Mapping[str, Any], head_dim: int, rotated: int
) -> None:
    of_model = reader.of_model
    if rotated != head_dim and "partial_rotary_factor" not in families()[known["model_type"]].read:
        raise ModelLoadError("rotary embedding of a part of each head is not supported")
    if (width := of_model("attention.value_length", head_dim)) != head_dim:
        raise ModelLoadError(
            f"{reader.architecture}.attention.value_length is {width}, but keys have {head_dim}; "
            "only equal ones are supported"
        )
    scale = of_model("attention.scale", 0.0)
    stated = "attention.scale" in known.get("entries", {}).values()
    if scale and not stated and not math.isclose(scale, head_dim**-0.5, rel_tol=1e-6):
        raise ModelLoadError(
            f"{reader.architecture}.attention.scale is {scale}; "
            f"only 1 / sqrt({head_dim}) is supported"
        )


def _rope_scaling(
    reader: StrictReader, stored: Mapping[str, Any], theta: float, rotated: int
) -> dict[str, Any]:
    """As in llama.cpp, a factor without a type is linear, and type none has no factor."""
    of_model = reader.of_model
    tables = {ROPE_DIVISORS, SHORT_FACTORS, LONG_FACTORS} & stored.keys()
    long = reader.architecture == "phi3" and bool(tables)
    kind = of_model("rope.scaling.type", "linear")
    supported = ["none", "linear", *(["longrope"] if long else [])]
    if reader.architecture not in ("phi3", "gemma3"):  # of sliding layers too, in llama.cpp
        supported.append("yarn")
    if kind not in supported:
        raise ModelLoadError(f"rope scaling {kind!r} is not supported ({', '.join(supported)} are)")
    factor = of_model("rope.scaling.factor", 0.0)
    factor = factor or of_model("rope.scale_linear", 0.0) or 1.0
    scaled = kind != "none" and factor != 1.0
    if (scaled or kind == "yarn") and tables:
        raise ModelLoadError(
            f"rope scaling by {factor} and {min(tables)}; only one of them is supported"
        )
    magnitude = of_model("rope.scaling.attn_factor", None)
    if kind == "yarn":
        return _yarn(reader, factor)
    if long:
        short_factors, long_factors = (
            stored[name].data.tolist() for name in (SHORT_FACTORS, LONG_FACTORS)
        )
        return {
            "rope_type": "longrope",
            "short_factor": short_factors,
            "long_factor": long_factors,
            "attention_factor": magnitude,
        }
    if magnitude not in (None, 1.0):
        raise ModelLoadError(f"rope.scaling.attn_factor is {magnitude} without {SHORT_FACTORS}")
    if ROPE_DIVISORS in stored:
        return _llama3(stored[ROPE_DIVISORS].data, theta, rotated)
    return {"rope_type": "linear", "factor": factor} if scaled else {"rope_type": "default"}


def _yarn(reader: StrictReader, factor: float) -> dict[str, Any]:
    """As llama.cpp computes it: its own magnitude for the factor, times the one that is stated.

    Where its converter writes what it does not read, only values that mean the same are taken.
    """
    of_model = reader.of_model
    own = 0.1 * math.log(factor) + 1.0 if factor > 1.0 else 1.0
    for name, same in {**_YARN_VALUES, "rope.scaling.yarn_attn_factor": [own]}.items():
        value = of_model(name, same[0])
        if not any(math.isclose(value, each, rel_tol=1e-6) for each in same):
            raise ModelLoadError(
                f"{reader.architecture}.{name} is {value}, which llama.cpp does not read, but the "
                f"model that was converted may have; with rope scaling 'yarn' only {same[0]:g} is "
                "supported"
            )
    return {
        "rope_type": "yarn",
        "factor": factor,
        "attention_factor": own * of_model("rope.scaling.attn_factor", 1.0),
        "original_max_position_embeddings": of_model("rope.scaling.original_context_length", 0)
        or of_model("context_length"),
    }


def _llama3(stored: Any, theta: float, rotated: int) -> dict[str, Any]:
    """A file has the divisors of Llama 3's frequencies, not the numbers they were made from."""
    divisors = np.asarray(stored, dtype=np.float64)
    low, high, window = LLAMA3_BANDS
    factor = float(divisors.max())
    turns = window / (2 * math.pi) * theta ** -(np.arange(0, rotated, 2) / rotated)
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


def _check_entries(reader: StrictReader, known: Mapping[str, Any]) -> None:
    """Refuse every entry about the model that is not read and could change it."""
    own, read = reader.architecture, {*_READ, *known.get("entries", {}).values()}
    yarn = reader.of_model("rope.scaling.type", "") == "yarn"
    if own == "phi3" or yarn:
        read.add("rope.scaling.attn_factor")
    if yarn:
        read |= {"rope.scaling.yarn_attn_factor", *_YARN_VALUES}
    for key, field in reader.fields.items():
        prefix, _, name = key.partition(".")
        if prefix in PREFIXES - {own}:
            raise ModelLoadError(f"{key!r:.80} is unknown; such entries begin with {own}.")
        if prefix == "adapter":
            raise ModelLoadError("a LoRA adapter; merge it into its base model")
        if prefix != own or name in read:
            continue
        value = field.contents()
        if value not in _ONLY_VALUES.get(name, ()):
            raise ModelLoadError(f"{shown(key)} is {reprlib.repr(value)}, which is not supported")
