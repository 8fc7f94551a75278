"""What a file of a family states is computed, or refused with one line."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.config import NULL_IS_STATED, ModelConfig
from sequoia_core.model.config_entries import families
from tests.core.families import VARIANTS, save_family

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}  # fmt: skip


LONG = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


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
    "gemma2": {  # gemma-2-9b-it
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False,
        "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 256,
        "rope_theta": 10000.0, "sliding_window": 4096,
    },
    "gemma3_text": {  # gemma-3-1b-it
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False,
        "attn_logit_softcapping": None, "cache_implementation": "hybrid",
        "final_logit_softcapping": None, "head_dim": 256, "query_pre_attn_scalar": 256,
        "hidden_activation": "gelu_pytorch_tanh", "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "phi3": {  # Phi-4-mini-instruct
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "embd_pdrop": 0.0,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "full_attn_mod": 1,
        "hidden_act": "silu", "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False,
        "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5, "resid_pdrop": 0.0,
        "rope_scaling": {"long_factor": [2, 4], "short_factor": [1, 1], "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
    },
    "smollm3": {  # SmolLM3-3B
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "hidden_act": "silu",
        "layer_types": ["full_attention"] * 4, "max_window_layers": 28, "mlp_bias": False,
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "pretraining_tp": 2,
        "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
        "use_sliding_window": False,
    },
    "olmo2": {  # OLMo-2-1124-7B-Instruct
        "architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "hidden_act": "silu",
        "rope_scaling": None, "rope_theta": 500000, "tie_word_embeddings": False,
    },
    "granite": {  # granite-3.3-8b-instruct
        "architectures": ["GraniteForCausalLM"], "attention_bias": False, "hidden_act": "silu",
        "attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "logits_scaling": 16.0,
        "mlp_bias": False, "residual_multiplier": 0.22, "rope_scaling": None,
        "rope_theta": 10000000.0, "tie_word_embeddings": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_files_are_read(kind: str) -> None:
    """As transformers reads them, by the numbers that both have."""
    config = read(kind, **PUBLISHED[kind])
    theirs = AutoConfig.for_model(kind, **{**SIZES, **copy.deepcopy(PUBLISHED[kind])})
    assert config.family == kind
    assert config.head_dim == (getattr(theirs, "head_dim", None) or 8)
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    kinds = getattr(theirs, "layer_types", None) or ["full_attention"] * 4
    if kind in ("gemma2", "gemma3_text"):  # the others' windows are as wide as the context
        sliding = [layer for layer, each in enumerate(kinds) if each == "sliding_attention"]
        wide = config.sliding_window is None
        assert wide or list(config.sliding_layers) == sliding
    rope = theirs.rope_parameters
    assert config.rope_theta == rope.get("full_attention", rope)["rope_theta"]


def test_a_family_covers_its_published_files() -> None:
    assert PUBLISHED.keys() | {"llama"} == families().keys()


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
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'; only 'gelu_pytor"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma2", {"query_pre_attn_scalar": -2}, "wrong kind"),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attention_softcap is 0.0; it must be"),
        ("gemma2", {"sliding_window": None}, "sliding_window is missing"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window is missing"),
        ("gemma2", {"sliding_window_pattern": 3}, "sliding_window_pattern is 3; only 2"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters states factor, unknown here",
        ),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": {"rope_type": "su", "factor": 2.0}}},
            "rope type 'su' is not supported",
        ),
        ("gemma3", {}, "model_type is 'gemma3'; only these"),
        ("phi3", {"partial_rotary_factor": 0.4}, "of which 3 rotate"),
        ("phi3", {"partial_rotary_factor": 1.5}, "of which 12 rotate"),
        ("phi3", {"rope_scaling": {**LONG, "long_factor": [1.0]}}, "as many"),
        ("phi3", {"rope_scaling": {**LONG, "short_factor": [1, 0, 1, 1]}}, "must be positive"),
        (
            "phi3",
            {"rope_scaling": {**LONG, "short_factor": [1.0], "long_factor": [2.0]}},
            "1 rope factors for 4 frequencies",
        ),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}, "states x 1"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "wrong kind"),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv is 8.0; only null"),
        ("granite", {"logits_scaling": 0.0}, "logits_divisor is 0.0; it must be positive"),
        ("granite", {"residual_multiplier": True}, "wrong kind"),
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
    assert read("gemma2", **window).sliding_layers == (0, 2)
    assert read("gemma3_text", **window, sliding_window_pattern=3).sliding_layers == (0, 1, 3)
    assert read("phi3", **window).sliding_layers == (0, 1, 2, 3)
    on = {"use_sliding_window": True, **window}
    assert read("qwen3", **on, max_window_layers=3).sliding_layers == (3,)
    assert read("qwen3", **window, max_window_layers=3).sliding_layers == ()
    kinds = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    assert read("qwen2", **on, layer_types=kinds).sliding_layers == (0, 3)
    assert read("smollm3", **on, no_rope_layers=[1, 1, 0, 1]).sliding_layers == (2,)


@pytest.mark.parametrize("kind", families())
def test_what_a_file_leaves_out_is_as_transformers_takes_it(kind: str) -> None:
    """A window counts only where it is shorter than the context."""
    stated: dict[str, Any] = {
        **SIZES, "hidden_size": 128, "num_attention_heads": 32, "max_position_embeddings": 1 << 18,
    }  # fmt: skip
    del stated["num_key_value_heads"]
    whole = AutoConfig.for_model(kind, **copy.deepcopy(stated)).to_dict()
    left_out = ModelConfig.from_hf({"model_type": kind, **stated})
    assert left_out == ModelConfig.from_hf({**whole, "model_type": kind})


@pytest.mark.parametrize("kind", families())
def test_null_states_nothing(kind: str) -> None:
    """Then a family's default holds, unless null has a meaning of its own."""
    table = families()[kind]
    plain = read(kind)
    for entry in (table.defaults.keys() | {"rope_theta"}) - {*SIZES, *NULL_IS_STATED}:
        assert read(kind, **{entry: None}) == plain, entry
    assert read(kind, rope_parameters={"rope_theta": None}) == plain


def test_a_null_that_has_a_meaning_is_read() -> None:
    assert read("mistral", sliding_window=None).sliding_layers == ()
    assert read("gemma2", attn_logit_softcapping=None).attention_softcap is None
    assert read("gemma2", final_logit_softcapping=None).logit_softcap is None
    assert read("qwen3", num_key_value_heads=None).num_kv_heads == SIZES["num_attention_heads"]
    full = {"sliding_window": None, "layer_types": ["full_attention"] * 4}
    assert read("gemma3_text", **full).sliding_layers == ()


def test_longrope_ends_where_its_factors_change() -> None:
    """Unless a longer context is asked for; both factors equal change nothing there."""
    stated = {"original_max_position_embeddings": 32, "rope_scaling": LONG}
    config = read("phi3", **stated)
    assert (config.context_window, config.rope_divisors) == (32, (1.0,) * 4)
    assert config.for_context(32) == config
    assert not config.takes_long_factors
    long = config.for_context(33)
    assert (long.context_window, long.rope_divisors) == (64, (2.0,) * 4)
    assert long.takes_long_factors
    assert long.for_context(64) == long
    assert config.limited(20, "it").context_window == 20
    assert config.limited(33, "it") == replace(long, context_window=33)
    for tokens in (0, 65):
        with pytest.raises(ParameterError, match=f"context_window is {tokens}, but it has 64 "):
            config.limited(tokens, "it")
    same = {**LONG, "long_factor": LONG["short_factor"]}
    assert read("phi3", **{**stated, "rope_scaling": same}).context_window == 64
    short = read("phi3", **{**stated, "original_max_position_embeddings": 64})
    assert (short.context_window, short.long_rope) == (64, None)
