"""A GGUF file as llama.cpp's converter writes one of each family is read as transformers would."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.loading.gguf_metadata import ARCHITECTURES
from tests.core.checkpoints import reference_logits
from tests.core.families import YARN, save_family_gguf, tiny_model
from tests.core.models import fresh_logits

IDS = (torch.arange(40) * 31 + 3) % 96
GEMMA = {"query_pre_attn_scalar": 16}  # a GGUF file has none: llama.cpp takes the head's width
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, Mistral's": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, yarn": ("qwen2 with yarn", {}),
    "llama, yarn": ("llama with yarn", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", {"attention_bias": False, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", GEMMA),
    "gemma2, 27B by its layers": (
        "gemma2",
        {"num_hidden_layers": 46, "query_pre_attn_scalar": 8, "initializer_range": 0.05},
    ),
    "gemma3": (
        "gemma3",
        {
            **GEMMA,
            "num_hidden_layers": 7,
            "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "phi3": ("phi3", {}),
    "phi3, partial rotary": ("phi3 with partial rotary", {}),
    "phi3, longrope": ("phi3 with longrope", {}),
    "smollm3": ("smollm3", {"no_rope_layer_interval": 4, "num_hidden_layers": 5}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
}


def test_each_architecture_is_written() -> None:
    assert {name.partition(",")[0] for name in WRITTEN} == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", WRITTEN)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    variant, changes = WRITTEN[name]
    theirs = tiny_model(variant, **changes)
    save_family_gguf(tmp_path / "model.gguf", theirs)
    model = open_gguf(tmp_path / "model.gguf")
    llama = Llama(model.config, model.weights, torch.device("cpu"), torch.float32)
    found, expected = fresh_logits(llama, IDS), reference_logits(theirs, IDS)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=2e-4)


@pytest.mark.parametrize(
    ("variant", "entries", "message"),
    [
        ("qwen2", {"attn_logit_softcapping": 50.0}, "qwen2.attn_logit_softcapping is 50.0"),
        ("qwen3", {"embedding_scale": 12.0}, "qwen3.embedding_scale is 12.0"),
        ("qwen3", {"expert_count": 8}, "only dense ones of these are supported: llama, qwen2"),
        ("gemma2", {"a_new_entry": 1}, "gemma2.a_new_entry is 1, which is not supported"),
        ("olmo2", {"attention__clamp_kqv": 8.0}, "olmo2.attention.clamp_kqv is 8.0"),
        ("gemma3", {"attention__sliding_window": 0}, "sliding_window is missing"),
        ("phi3", {"rope__scaling__type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ("gemma3", {"rope__scaling__type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ("phi3", {"rope__scaling__type": "longrope"}, "rope scaling 'longrope' is not supported"),
        ("phi3", {"rope__scaling__attn_factor": 1.2}, "attn_factor is 1.2.* without rope_factors"),
        ("phi3 with longrope", {"rope__scaling__factor": 2.0}, "by 2.0 and rope_factors_long"),
        *(
            ("qwen2 with yarn", {f"rope__scaling__yarn_{name}": value}, f"yarn_{name} is {value}")
            for name, value in (
                ("beta_fast", 16.0),
                ("beta_slow", 2.0),
                ("ext_factor", 0.0),
                ("attn_factor", 1.0),
                ("log_multiplier", 1.0),
            )
        ),
        ("smollm3", {"rope__dimension_count": 4}, "a part of each head is not supported"),
    ],
)
def test_what_is_not_computed_is_refused(
    variant: str, entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_family_gguf(tmp_path / "model.gguf", tiny_model(variant), **entries)
    with pytest.raises(ModelLoadError, match=message) as caught:
        open_gguf(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)


def test_a_context_longer_than_the_original_window_takes_the_long_factors(tmp_path: Path) -> None:
    """Which llama.cpp's converter stores next to the short ones."""
    theirs, ids = tiny_model("phi3 with longrope"), (torch.arange(60) * 31 + 3) % 96
    save_family_gguf(tmp_path / "model.gguf", theirs)
    model = open_gguf(tmp_path / "model.gguf")
    config = model.config.limited(60, "it")
    llama = Llama(config, model.weights, torch.device("cpu"), torch.float32)
    found, expected = fresh_logits(llama, ids), reference_logits(theirs, ids)
    torch.testing.assert_close(found, expected, atol=5e-4, rtol=2e-4)


def test_a_factor_of_yarn_that_is_stated_comes_on_top(tmp_path: Path) -> None:
    """llama.cpp multiplies its own with it; the converter states the product under another name."""
    own = 0.1 * math.log(4.0) + 1.0
    stated = {"attn_factor": 1.5, "yarn_attn_factor": own, "yarn_beta_fast": 32.0}
    entries = {f"rope__scaling__{name}": value for name, value in stated.items()}
    save_family_gguf(tmp_path / "model.gguf", tiny_model("qwen2 with yarn"), **entries)
    config = open_gguf(tmp_path / "model.gguf").config
    assert config.rope_magnitude == pytest.approx(1.5 * own)
    assert config.context_window == 128


def test_yarn_without_an_original_window_starts_from_the_context(tmp_path: Path) -> None:
    """And without a factor it changes nothing."""
    model = tiny_model("qwen2")
    save_family_gguf(tmp_path / "model.gguf", model, rope__scaling__type="yarn")
    config = open_gguf(tmp_path / "model.gguf").config
    assert set(config.rope_divisors) == {1.0}
    assert (config.rope_magnitude, config.context_window) == (1.0, 64)
    entries = {"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0}
    save_family_gguf(tmp_path / "model.gguf", model, **entries)
    assert open_gguf(tmp_path / "model.gguf").config.context_window == 128


def test_a_gemma_2_that_states_no_window_has_the_published_one(tmp_path: Path) -> None:
    """As early files; llama.cpp knows it."""
    theirs = tiny_model("gemma2", sliding_window=None, max_position_embeddings=8192)
    save_family_gguf(tmp_path / "model.gguf", theirs)
    config = open_gguf(tmp_path / "model.gguf").config
    assert (config.sliding_window, config.sliding_layers) == (4096, (0, 2))
