"""A configuration is read as transformers reads it, or refused with one clear line."""

import contextlib
import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.config_entries import known_entries
from sequoia_core.model.layers import RotaryEmbedding
from sequoia_core.model.rope import RopeScaling

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


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


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
        ({"attention_bias": "yes"}, "wrong kind"),
        ({"mlp_bias": 2}, "wrong kind"),
        ({"tie_word_embeddings": "true"}, "wrong kind"),
        ({"hidden_size": True}, "wrong kind"),
        ({"hidden_size": 48.5}, "wrong kind"),
        ({"max_position_embeddings": float("inf")}, "wrong kind"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; it must be positive"),
        ({"rope_theta": 0.0}, "rope_theta is 0.0; it must be positive"),
        ({"rope_theta": float("inf")}, "rope_theta is inf; it must be positive"),
        ({"embeddings_from": "elsewhere"}, "embeddings_from is 'elsewhere'; only 'target'"),
        ({"sliding_window": 64}, "sliding_window is 64, less than the context window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is .*; only 'full"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5; only 1.0 is supported"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0; only 1.0"),
        ({"attention_multiplier": 0.1}, "attention_multiplier is 0.1; only null"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; only null"),
        ({"use_qk_norm": True}, "use_qk_norm is True; only False"),
        ({"rope_interleaved": True}, "rope_interleaved is True; only False"),
        ({"rope_condense_ratio": 8}, "rope_condense_ratio is 8; this entry is unknown"),
        ({"x\x1b[31m\n": 1}, r"'x\\x1b\[31m\\n' is 1; this entry is unknown"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 KV heads"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"num_hidden_layers": -1}, "num_layers is -1"),
        ({"num_attention_heads": 0}, "wrong kind"),
        ({"vocab_size": "many"}, "wrong kind"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"rope_scaling": "linear"}, "wrong kind"),
        ({"rope_scaling": {"rope_type": "proportional"}}, "rope type 'proportional'"),
        ({"rope_scaling": {**YARN, "attn_factor": 0.5}}, "states attn_factor 0.5, which"),
        ({"rope_scaling": {**YARN, "extrapolation_factor": 1.0}}, "states extrapolation_factor"),
        ({"rope_scaling": {**YARN, "low_freq_factor": 1.0}}, "states low_freq_factor 1.0"),
        ({"rope_scaling": {**YARN, "truncate": None}}, "wrong kind"),
        ({"rope_scaling": {**YARN, "factor": 0.0}}, "factor 0.0, .* scale nothing"),
        ({"rope_scaling": {**YARN, "beta_fast": 0.5}}, "slow not more than fast"),
        ({"rope_scaling": {**YARN, "attention_factor": 0.0}}, "rope_magnitude is 0.0"),
        ({"rope_scaling": {**YARN, "original_max_position_embeddings": 0}}, "wrong kind"),
        ({"rope_scaling": {"type": "dynamic", "alpha": 1e3}}, "states alpha 1000.0"),
        ({"rope_scaling": {"type": "dynamic", "factor": "x"}}, "wrong kind"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1.0}}, "rope_factor is -1.0"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_parameters states partial_rotary_factor 0.5",
        ),
        ({"rope_parameters": {"factor": 4.0}}, "rope_parameters states factor 4.0"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "rope_parameters states full_attention",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
            "all must be positive, and low less than high",
        ),
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


ODD = [None, True, -1, 0, 10**400, 1e308, float("nan"), "x", "", [], [1], {}, {"a": [None]}]


CHECKED = {*known_entries()["read"], *known_entries()["only_values"], "unknown"}


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_entries_of_any_kind_give_a_config_or_one_line(name: str) -> None:
    for value in ODD:
        for stated in ({name: value}, {"rope_scaling": {"rope_type": "llama3", name: value}}):
            with contextlib.suppress(ModelLoadError):  # anything else would be a traceback
                ModelConfig.from_hf({**PLAIN, **stated})


@pytest.mark.parametrize("name", [*known_entries()["rope_types"]["yarn"], *YARN])
def test_entries_of_yarn_of_any_kind_give_a_config_or_one_line(name: str) -> None:
    for value in ODD:
        with contextlib.suppress(ModelLoadError):
            ModelConfig.from_hf({**PLAIN, "rope_scaling": {**YARN, name: value}})


TRANSFORMERS = {"_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "use_cache": True}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama 2": {
        "bos_token_id": 1, "eos_token_id": 2, "pretraining_tp": 2, "rope_scaling": None,
        "torch_dtype": "float16", "initializer_range": 0.02, "attention_bias": False,
    },
    "Vicuna": {"max_sequence_length": 2048, "pad_token_id": 0, "transformers_version": "4.28.1"},
    "SmolLM2": {
        "is_llama_config": True, "rope_interleaved": False, "mlp_bias": False,
        "attention_dropout": 0.0, "tie_word_embeddings": True,
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    },
    "fine-tuned with unsloth": {"unsloth_fixed": True, "unsloth_version": "2025.1", "head_dim": 12},
    "LLaMA-2-7B-32K": {
        "auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM"},
        "rope_scaling": {"factor": 8.0, "type": "linear"},
    },
    "Mistral's window, as wide as the context": {"sliding_window": 128},
    "Mistral's window, switched off": {"sliding_window": 64, "use_sliding_window": False},
    "of transformers 5": {
        "dtype": "bfloat16", "layer_types": ["full_attention"] * 2,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "with all that older versions wrote": {
        "is_decoder": False, "is_encoder_decoder": False, "add_cross_attention": False,
        "pruned_heads": {}, "id2label": {"0": "LABEL_0"}, "output_attentions": False,
        "temperature": 0.9, "num_beams": 1, "tie_encoder_decoder": False, "torchscript": False,
        "hidden_act": "swish", "an_entry_that_states": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_entries_of_published_files_that_change_nothing_are_accepted(name: str) -> None:
    stated = {**PLAIN, **TRANSFORMERS, **PUBLISHED[name]}
    config = ModelConfig.from_hf(stated)
    known = ("tie_word_embeddings", "rope_scaling")
    plain = {**PLAIN, **{each: stated[each] for each in known if each in stated}}
    assert config == ModelConfig.from_hf(plain)


ROPES: list[dict[str, Any]] = [
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 7e4}},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 3e3},
    {"rope_scaling": {"rope_theta": 5e4, "rope_type": "default"}, "rope_theta": 3e3},
    {"rope_scaling": None, "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "llama3", **LLAMA3}, "original_max_position_embeddings": 32},
    {"rope_parameters": {key: LLAMA3[key] for key in list(LLAMA3)[:3]} | {"rope_type": "llama3"}},
    {"rope_scaling": {"type": "linear", "rope_type": "default", "factor": 1.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_scaling": YARN, "rope_theta": 100.0},
    {"rope_parameters": {**YARN, "rope_theta": 100.0}, "original_max_position_embeddings": 32},
    {"rope_scaling": {**YARN, "beta_fast": 8, "beta_slow": 0.5}, "rope_theta": 50.0},
    {"rope_scaling": {**YARN, "truncate": False}, "rope_theta": 50.0},
    {"rope_scaling": {**YARN, "attention_factor": 0.8}, "rope_theta": 50.0},
    {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2}, "rope_theta": 50.0},
    {"rope_scaling": {**YARN, "mscale": 0.7, "beta_fast": 0, "beta_slow": None}},
    {"rope_scaling": {**YARN, "factor": None}, "rope_theta": 50.0},
    {"rope_scaling": {**YARN, "factor": 0.5}, "rope_theta": 50.0},
    {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
]


@pytest.mark.parametrize("stated", ROPES, ids=str)
def test_frequencies_are_those_that_transformers_makes_of_both_spellings(
    stated: dict[str, Any],
) -> None:
    settings = {**PLAIN, **stated}
    theirs = LlamaRotaryEmbedding(LlamaConfig.from_dict(copy.deepcopy(settings)))
    position = torch.tensor([1])
    cos, sin = RotaryEmbedding(ModelConfig.from_hf(settings), torch.device("cpu"), torch.float32)(
        position
    )
    their_cos, their_sin = theirs(torch.zeros(1), position[None])
    torch.testing.assert_close(cos[0], their_cos[0])
    torch.testing.assert_close(sin[0, :, 6:], their_sin[0, :, 6:])


def test_the_window_of_yarn_is_that_of_the_longer_text() -> None:
    """Qwen2.5's card adds the entry to a file that states the original window, Qwen3's to more."""

    def window(stated: int, **entry: Any) -> int:
        settings = {**PLAIN, "max_position_embeddings": stated, "rope_scaling": {**YARN, **entry}}
        return ModelConfig.from_hf(settings).context_window

    original = {"original_max_position_embeddings": 32768}
    assert window(32768, **original) == 131072
    assert window(40960, **original) == 131072
    assert window(40960, factor=1.0, **original) == 40960
    assert window(131072, factor=None, **original) == 131072
    assert window(163840, original_max_position_embeddings=4096, factor=40.0) == 163840


def test_a_window_that_slides_is_compared_with_the_longer_one() -> None:
    """What is as wide as the original window is narrower than the one that yarn makes of it."""
    settings = {**PLAIN, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 128}
    settings |= {"max_window_layers": 1, "num_key_value_heads": 4}
    assert ModelConfig.from_hf(settings).sliding_layers == ()
    with_yarn = ModelConfig.from_hf({**settings, "rope_scaling": YARN})
    assert (with_yarn.context_window, with_yarn.sliding_layers) == (256, (1,))


def test_dynamic_changes_nothing_in_its_window() -> None:
    dynamic = {"rope_scaling": {"type": "dynamic", "factor": 4.0}}
    assert ModelConfig.from_hf({**PLAIN, **dynamic}) == ModelConfig.from_hf(PLAIN)
