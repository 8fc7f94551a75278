"""The shape of a Llama-family model, read from its `config.json`.

Every entry is in `READ`, `NO_EFFECT` or `ONLY_VALUES`, or is refused by its name.
"""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sequoia_core.errors import ModelLoadError

READ = frozenset({
    "attention_bias", "draft_vocab_size", "embeddings_from", "feature_layers", "head_dim",
    "hidden_size", "intermediate_size", "max_position_embeddings", "mlp_bias", "model_type",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
    "original_max_position_embeddings", "quantization", "rms_norm_eps", "rope_parameters",
    "rope_scaling", "rope_theta", "sequoia", "sliding_window", "tie_word_embeddings",
    "use_sliding_window", "vocab_size",
    # with the tokenizer
    "eos_token_id",
})  # fmt: skip
"""Entries that are computed."""

NO_EFFECT = frozenset({
    # names, dates, versions and code that is never run
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "_commit_hash", "_flash_attn_2_enabled", "_from_model_config", "_name_or_path", "architectures",
    "attn_implementation", "auto_map", "base_model", "finetuning_task", "flash_attn", "id2label",
    "is_llama_config", "label2id", "license", "model_name", "problem_type", "task_specific_params",
    "tokenizer_class", "transformers.js_config", "transformers_version", "unsloth_fixed",
    "unsloth_version", "use_flash_attention", "use_flash_attn",
    # how weights are stored or sliced, and caches
    "dtype", "pretraining_tp", "tf_legacy_loss", "torch_dtype", "torchscript", "use_bfloat16",
    "use_cache",
    # special tokens, which the tokenizer states
    "additional_special_tokens", "bos_token", "bos_token_id", "cls_token_id",
    "decoder_start_token_id", "eos_token", "mask_token_id", "pad_token", "pad_token_id",
    "sep_token_id", "unk_token_id",
    # training, and lengths of its sequences
    "attention_dropout", "attn_pdrop", "dropout", "embd_pdrop", "gradient_checkpointing",
    "hidden_dropout", "hidden_dropout_prob", "initializer_range", "max_seq_len", "max_seq_length",
    "max_sequence_length", "model_max_length", "neftune_noise_alpha", "num_labels", "resid_pdrop",
    "seq_length",
    # what the library returns and how it generates
    "bad_words_ids", "begin_suppress_tokens", "chunk_size_feed_forward",
    "cross_attention_hidden_size", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "is_decoder", "length_penalty", "max_length", "max_new_tokens",
    "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences",
    "output_attentions", "output_hidden_states", "output_scores", "prefix", "remove_invalid_values",
    "repetition_penalty", "return_dict", "return_dict_in_generate", "suppress_tokens",
    "temperature", "tie_encoder_decoder", "top_k", "top_p", "typical_p",
})  # fmt: skip
"""Entries of published files that cannot change what a Llama computes."""

ONLY_VALUES: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "pruned_heads": ({},),
    **dict.fromkeys(("num_experts", "num_local_experts"), (0,)),
    **dict.fromkeys((
        "embedding_multiplier", "logit_scale", "logits_scaling", "partial_rotary_factor",
        "residual_multiplier", "rotary_pct",
    ), (1.0,)),
    **dict.fromkeys((
        "add_cross_attention", "bias", "is_encoder_decoder", "qk_layernorm", "qkv_bias",
        "rope_interleaved", "rope_traditional", "use_qk_norm",
    ), (False,)),
    # null alone
    **dict.fromkeys((
        "attention_multiplier", "attn_logit_softcapping", "final_logit_softcapping",
    ), ()),
}  # fmt: skip
"""Entries of other forward passes, with the values that a Llama computes."""

ROPE_ENTRIES: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
"""Entries read for each rope type, besides its type, base and original window."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's frequency-dependent stretch of the rotary embedding (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_window: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    vocab_size: int  # `V`, rows of the embedding
    head_vocab_size: int  # rows of the output head; fewer than `V` for a trimmed draft
    hidden_size: int
    intermediate_size: int
    num_layers: int  # `L`
    num_heads: int  # `H`
    num_kv_heads: int  # `K`
    head_dim: int  # `D`
    rms_norm_eps: float
    rope_theta: float
    context_window: int  # most positions the model was made for
    tie_word_embeddings: bool  # the output head is the embedding
    rope_scaling: RopeScaling | None = None
    rope_factor: float = 1.0  # linear scaling: positions are divided by it
    embeddings_from_target: bool = False  # the draft has no embedding and reads the target's
    feature_layers: tuple[int, ...] = ()  # the target's, whose outputs a conditioned draft reads
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        for name, kind in ModelConfig.__annotations__.items():
            value = getattr(self, name)
            if kind is int and value < 1:
                raise ModelLoadError(f"config: {name} is {value}; it must be positive")
            if kind is float and not 0.0 < value < math.inf:
                raise ModelLoadError(f"config: {name} is {value}; it must be positive and finite")
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"config: {self.num_heads} heads cannot share {self.num_kv_heads} KV heads evenly"
            )
        if self.tie_word_embeddings and self.head_vocab_size != self.vocab_size:
            raise ModelLoadError("config: a head tied to the embedding cannot have fewer rows")
        if self.head_dim % 2:
            raise ModelLoadError(f"config: head_dim is {self.head_dim}; rotary needs an even one")

    def has_bias(self, module: str) -> bool:
        return (self.attention_bias and "self_attn." in module) or (
            self.mlp_bias and "mlp." in module
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Raises ModelLoadError for entries that are missing or are not computed here."""
        if (kind := config.get("model_type")) != "llama":
            raise ModelLoadError(f"config: model_type is {kind!r}; only 'llama' is supported")
        _check_entries(config)
        try:
            heads = _whole(config, "num_attention_heads")
            scaling, factor, theta = _rope(config)
            vocab_size, hidden_size = _whole(config, "vocab_size"), _whole(config, "hidden_size")
            return cls(
                vocab_size=vocab_size,
                head_vocab_size=_whole(config, "draft_vocab_size", vocab_size),
                hidden_size=hidden_size,
                intermediate_size=_whole(config, "intermediate_size"),
                num_layers=_whole(config, "num_hidden_layers"),
                num_heads=heads,
                num_kv_heads=_whole(config, "num_key_value_heads", heads),
                head_dim=_whole(config, "head_dim", hidden_size // heads),
                rms_norm_eps=float(config["rms_norm_eps"]),
                rope_theta=theta,
                context_window=_whole(config, "max_position_embeddings"),
                tie_word_embeddings=_flag(config, "tie_word_embeddings"),
                rope_scaling=scaling,
                rope_factor=factor,
                embeddings_from_target=config.get("embeddings_from") is not None,
                feature_layers=tuple(map(int, config.get("feature_layers") or ())),
                attention_bias=_flag(config, "attention_bias"),
                mlp_bias=_flag(config, "mlp_bias"),
            )
        except KeyError as error:
            raise ModelLoadError(f"config: entry {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ModelLoadError(f"config: an entry is of the wrong kind ({error})") from None


def _check_entries(config: Mapping[str, Any]) -> None:
    """Refuse every entry that could change the forward pass and is not computed."""
    for name, value in config.items():
        if value is None or name in READ or name in NO_EFFECT:
            continue  # null has no meaning
        stated = f"config: {shown(name)} is {reprlib.repr(value)}"
        if name == "layer_types":
            if not isinstance(value, list) or any(kind != "full_attention" for kind in value):
                raise ModelLoadError(f"{stated}; only 'full_attention' layers are supported")
        elif name not in ONLY_VALUES:
            raise ModelLoadError(
                f"{stated}; this entry is unknown here and could change what the model computes "
                "(if it does not, take it out of config.json)"
            )
        elif value not in ONLY_VALUES[name]:
            allowed = " or ".join(map(repr, ONLY_VALUES[name])) or "null"
            raise ModelLoadError(f"{stated}; only {allowed} is supported")
    if config.get("embeddings_from") not in (None, "target"):
        raise ModelLoadError(
            f"config: embeddings_from is {config['embeddings_from']!r}; only 'target' is supported"
        )
    window, longest = config.get("sliding_window"), config.get("max_position_embeddings")
    whole = isinstance(window, int) and isinstance(longest, int) and window >= longest
    if window is not None and config.get("use_sliding_window", True) and not whole:
        raise ModelLoadError(
            f"config: sliding_window is {reprlib.repr(window)}, less than the context window; "
            "only attention over the whole context is supported"
        )


def shown(name: str) -> str:
    """A name from an untrusted file, short and without control characters."""
    return name if name.isprintable() and len(name) < 80 else reprlib.repr(name)


def _whole(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config[name] if default is None else config.get(name)
    if value is None and default is not None:
        return default
    if type(value) is not int:  # True is an int, but no size
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return value


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name)
    if value not in (None, True, False):
        raise TypeError(f"{name} is {reprlib.repr(value)}")
    return bool(value)


def _rope(config: Mapping[str, Any]) -> tuple[RopeScaling | None, float, float]:
    """llama3 scaling, linear factor and theta, as transformers reads them.

    `rope_scaling`, the older spelling, overrides `rope_parameters` as a whole.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(name) or {}
    theta = rope["rope_theta"] if "rope_theta" in rope else config.get("rope_theta")
    theta = 10000.0 if theta is None else float(theta)
    kind = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    if kind not in ROPE_ENTRIES:
        raise ModelLoadError(
            f"config: rope type {reprlib.repr(kind)} is not supported "
            f"({', '.join(ROPE_ENTRIES)} are)"
        )
    read = {"rope_type", "type", "rope_theta", "original_max_position_embeddings", "finetuned"}
    for entry in rope.keys() - read - set(ROPE_ENTRIES[kind]):
        neutral = 1.0 if entry in ("factor", "attention_factor", "partial_rotary_factor") else None
        if rope[entry] not in (None, neutral):
            raise ModelLoadError(
                f"config: {name} states {shown(entry)} {reprlib.repr(rope[entry])}, "
                f"which is not supported for rope type {kind!r}"
            )
    if kind == "linear":
        return None, float(rope["factor"]), theta
    return _llama3(config, rope) if kind == "llama3" else None, 1.0, theta


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling:
    name = "original_max_position_embeddings"
    window = config.get(name)
    if window is None:
        window = rope.get(name, config["max_position_embeddings"])
    scaling = RopeScaling(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_context_window=_whole({name: window}, name),
    )
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if not (0 < scaling.factor < math.inf and 0 < low < high < math.inf):
        raise ModelLoadError(
            f"config: rope factor {scaling.factor}, low {low}, high {high} scale nothing; "
            "all must be positive, and low less than high"
        )
    return scaling
