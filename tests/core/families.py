"""Tiny random models of each family, as transformers makes and writes them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.core.checkpoints import TINY

WINDOW = 8  # tokens; shorter than the texts of the tests
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}
CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
TOKENS = {"pad_token_id": 0, "bos_token_id": 1}  # theirs by default are not in this vocabulary

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": WINDOW, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
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
