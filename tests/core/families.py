"""Tiny random models of each family, as transformers makes and writes them."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.core.checkpoints import TINY, add_entry, pairs_from_halves

WINDOW = 8  # tokens; shorter than the texts of the tests
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1}  # theirs by default are not in this vocabulary

YARN = {  # as the cards of Qwen2.5 and Qwen3 tell people to add it
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 100.0,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with yarn": (
        "llama",
        {
            "rope_parameters": {
                **YARN,
                "beta_fast": 6,
                "beta_slow": 0.5,
                "mscale": 2.0,
                "mscale_all_dim": 0.5,
                "truncate": False,
            },
        },
    ),
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": WINDOW, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 with yarn": ("qwen2", {"rope_parameters": YARN}),
    "qwen2 with a window": ("qwen2", {**SLIDING, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3 with a window": ("qwen3", {**SLIDING, "max_window_layers": 2, "head_dim": 12}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}),
    "gemma2 with low caps": (
        "gemma2",
        {**dict.fromkeys(CAPS, 2.0), "sliding_window": WINDOW, "head_dim": 8},
    ),
    "gemma3": (
        "gemma3_text",
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 24,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
    "phi3": ("phi3", {**TOKENS, "sliding_window": WINDOW}),
    "phi3 with partial rotary": ("phi3", {**TOKENS, "partial_rotary_factor": 0.5}),
    "phi3 with longrope": (
        "phi3",
        {
            **TOKENS,
            "original_max_position_embeddings": 48,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 100.0,
                "short_factor": [1.0, 1.5, 2.0, 2.5],
                "long_factor": [1.0, 2.0, 4.0, 8.0],
            },
        },
    ),
    "smollm3": ("smollm3", {**TOKENS, "no_rope_layer_interval": 2}),
    "smollm3 with a window": (
        "smollm3",
        {**TOKENS, **SLIDING, "no_rope_layers": [1, 0, 1], "attention_bias": True},
    ),
    "olmo2": ("olmo2", {**TOKENS}),
    "granite": (
        "granite",
        {
            "embedding_multiplier": 3.3,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 0.7,
        },
    ),
}
"""By name: `model_type`, and what its configuration has other than `TINY`."""


def tiny_model(variant: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model whose norms and biases do something, for one text at a time."""
    kind, own = VARIANTS[variant]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**TINY, "num_hidden_layers": 3, **own, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, float("norm" in name), 0.3)
    return model


def save_family(directory: Path, variant: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    model = tiny_model(variant, seed, **changes)
    model.save_pretrained(directory)
    return model


GGUF_ENTRIES: dict[str, dict[str, str]] = {
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
        "sliding_window": "attention.sliding_window",
    },
    "gemma3": {"sliding_window": "attention.sliding_window"},
    "phi3": {"sliding_window": "attention.sliding_window"},
    "granite": {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    },
}
"""Of llama.cpp's converter, beside what it writes of every model; by architecture."""


def _rope_entries(config: Any, rope: dict[str, Any]) -> dict[str, Any]:
    match rope["rope_type"]:
        case "linear":
            return {"type": "linear", "factor": rope["factor"]}
        case "yarn":
            original = rope["original_max_position_embeddings"]
            factor = rope["factor"]
            return {"type": "yarn", "factor": factor, "original_context_length": original}
        case "longrope":
            original = config.original_max_position_embeddings
            factor = config.max_position_embeddings / original
            magnitude = math.sqrt(1 + math.log(factor) / math.log(original))
            return {"original_context_length": original, "attn_factor": magnitude}
    return {}


def save_family_gguf(file: Path, model: PreTrainedModel, **entries: Any) -> None:
    """Write a model as llama.cpp's converter would; `entries` are further metadata."""
    config = model.config
    name = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    stated = GGUF_ENTRIES.get(name, {}).items()
    metadata: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": dim,
        "attention.value_length": dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.dimension_count": int(dim * rope.get("partial_rotary_factor", 1.0)),
        "rope.freq_base": float(rope["rope_theta"]),
        **{key: getattr(config, entry) for entry, key in stated},
        **{f"rope.scaling.{key}": value for key, value in _rope_entries(config, rope).items()},
        **{key.replace("__", "."): value for key, value in entries.items()},
    }
    tensors = {each: tensor.clone() for each, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    writer = gguf.GGUFWriter(file, name)
    for key, value in metadata.items():
        add_entry(writer, f"{name}.{key}", value)
    if rope["rope_type"] == "longrope":
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.float32(rope[f"{kind}_factor"]))
    kinds = {each: kind for kind, each in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[name], config.num_hidden_layers)
    for each, tensor in tensors.items():
        if name in ("llama", "granite", "smollm3"):
            tensor = pairs_from_halves(each, tensor, config)
        if name.startswith("gemma") and each.endswith("norm.weight"):
            tensor = tensor + 1.0
        stored = names.get_name(each, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(str(stored), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
