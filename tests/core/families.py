"""Tiny random models of each family, as transformers makes and writes them."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.core.checkpoints import TINY

WINDOW = 8  # tokens; shorter than the texts of the tests
SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral with a window": ("mistral", {"sliding_window": WINDOW, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 with a window": ("qwen2", {**SLIDING, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3 with a window": ("qwen3", {**SLIDING, "max_window_layers": 2, "head_dim": 12}),
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
