"""What a file of a family states is computed, or refused with one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.config_entries import families
from tests.core.families import VARIANTS, save_family

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}  # fmt: skip


def read(kind: str, **entries: Any) -> ModelConfig:
    return ModelConfig.from_hf({"model_type": kind, **SIZES, **entries})


PUBLISHED: dict[str, dict[str, Any]] = {
    # entries beside the sizes, as in the files of the models named here
    "mistral": {  # Mistral-7B-Instruct-v0.3
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
        "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True,
    },
    "qwen2": {  # Qwen2.5-7B-Instruct
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu",
        "max_window_layers": 28, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "use_cache": True, "use_sliding_window": False,
    },
    "qwen3": {  # Qwen3-8B
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128,
        "hidden_act": "silu", "max_window_layers": 36, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
        "use_sliding_window": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_files_are_read(kind: str) -> None:
    config = read(kind, **PUBLISHED[kind])
    assert config.family == kind
    assert config.sliding_window is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_family_does_not_know_is_refused(variant: str, tmp_path: Path) -> None:
    save_family(tmp_path, variant)
    stated = json.loads((tmp_path / "config.json").read_text())
    ModelConfig.from_hf(stated)
    for entry, value in (("a_new_entry", 1), ("hidden_act", "relu"), ("qk_layernorm", True)):
        with pytest.raises(ModelLoadError, match=f"{entry} is {value!r}") as caught:
            ModelConfig.from_hf({**stated, entry: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", families())
def test_an_entry_of_another_family_is_refused(kind: str) -> None:
    table = families()[kind]
    own = {*table.read, *table.no_effect, *table.numbers.values()}
    foreign = {
        "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 64, "attention_multiplier": 0.5,
        "residual_multiplier": 0.5, "no_rope_layers": [1, 0, 1, 0], "sliding_window_pattern": 3,
        "max_window_layers": 2, "rope_local_base_freq": 100.0, "partial_rotary_factor": 0.5,
    }  # fmt: skip
    for entry in foreign.keys() - own:
        with pytest.raises(ModelLoadError, match=f"{entry} is "):
            read(kind, **{entry: foreign[entry]})


@pytest.mark.parametrize(
    ("kind", "entries", "message"),
    [
        ("mistral", {"attention_bias": True}, "attention_bias is True; only False"),
        ("mistral", {"use_sliding_window": False}, "use_sliding_window is False; only True"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0; it must be positive"),
        (
            "mistral",
            {"sliding_window": 8, "layer_types": ["full_attention"] * 4},
            "only 'sliding_attention' layers are supported with sliding_window 8",
        ),
        ("qwen2", {"attention_bias": True}, "attention_bias is True; only null"),
        ("qwen2", {"layer_types": ["full_attention"] * 3}, "3 entries for 4 layers"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types is .* are supported"),
        (
            "qwen2",
            {"layer_types": ["sliding_attention"] * 4},
            "only 'full_attention' layers are supported with sliding_window None",
        ),
        ("qwen3", {"mlp_bias": True}, "mlp_bias is True; only False"),
        ("qwen3", {"use_sliding_window": "no"}, "wrong kind"),
        ("mixtral", {}, "model_type is 'mixtral'; only these are supported: llama, mistral"),
        ("qwen3_moe", {}, "model_type is 'qwen3_moe'; only these"),
    ],
)
def test_what_is_not_computed_is_refused(kind: str, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        read(kind, **entries)
    assert "\n" not in str(caught.value)


def test_layers_slide_as_the_file_says() -> None:
    window = {"sliding_window": 16}
    assert read("mistral", **window).sliding_layers == (0, 1, 2, 3)
    assert read("mistral").sliding_layers == ()  # 4096 by default, more than the context
    on = {"use_sliding_window": True, **window}
    assert read("qwen3", **on, max_window_layers=3).sliding_layers == (3,)
    assert read("qwen3", **window, max_window_layers=3).sliding_layers == ()
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    assert read("qwen2", **on, layer_types=kinds).sliding_layers == (0, 3)
