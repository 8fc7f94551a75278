"""A configuration is read as transformers reads it, or refused with one clear line."""

from dataclasses import replace
from typing import Any

import pytest

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig, RopeScaling

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_absent_entries_take_llamas_defaults() -> None:
    config = ModelConfig.from_hf(PLAIN)
    assert config.num_kv_heads == 4
    assert config.head_dim == 12
    assert config.head_vocab_size == 100
    assert (config.rope_theta, config.rope_factor, config.rope_scaling) == (10000.0, 1.0, None)
    assert not config.tie_word_embeddings
    assert not config.embeddings_from_target


def test_stated_entries_win_over_defaults() -> None:
    config = ModelConfig.from_hf(
        {
            **PLAIN,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "draft_vocab_size": 30,
            "embeddings_from": "target",
            "rope_theta": 5e5,
        }
    )
    assert (config.num_kv_heads, config.head_dim, config.head_vocab_size) == (2, 16, 30)
    assert config.embeddings_from_target
    assert config.rope_theta == 5e5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **LLAMA3}},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": None},
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        ),
    ],
)
def test_both_spellings_of_rope_mean_the_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert ModelConfig.from_hf({**PLAIN, **old}) == ModelConfig.from_hf({**PLAIN, **new})


def test_llama3_scaling_is_read() -> None:
    config = ModelConfig.from_hf({**PLAIN, "rope_scaling": {"rope_type": "llama3", **LLAMA3}})
    assert config.rope_scaling == RopeScaling(8.0, 1.0, 4.0, 64)


@pytest.mark.parametrize("entry", sorted(set(PLAIN) - {"model_type"}))
def test_a_missing_entry_is_named(entry: str) -> None:
    with pytest.raises(ModelLoadError, match=f"'{entry}' is missing"):
        ModelConfig.from_hf({name: value for name, value in PLAIN.items() if name != entry})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"model_type": None}, "None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 KV heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_hidden_layers": -1}, "num_layers is -1"),
        ({"num_attention_heads": 0}, "wrong kind"),
        ({"vocab_size": "many"}, "wrong kind"),
        ({"hidden_size": None}, "wrong kind"),
        ({"rope_scaling": "linear"}, "wrong kind"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"tie_word_embeddings": True, "draft_vocab_size": 30}, "tied to the embedding"),
    ],
)
def test_what_the_forward_pass_cannot_compute_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        ModelConfig.from_hf({**PLAIN, **change})
    assert "\n" not in str(caught.value)


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(ModelLoadError, match="vocab_size is 0"):
        replace(ModelConfig.from_hf(PLAIN), vocab_size=0)
