"""The shape of a Llama-family model, read from its `config.json`."""

import functools
import math
import reprlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError


@functools.cache
def known_entries() -> dict[str, Any]:
    """The tables of `config_entries.toml`."""
    return tomllib.loads((Path(__file__).parent / "config_entries.toml").read_text("utf-8"))


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

    @property
    def is_draft(self) -> bool:
        """Whether it can only be a draft: it reads a target, or lacks some of its tokens."""
        trimmed = self.head_vocab_size != self.vocab_size
        return trimmed or self.embeddings_from_target or bool(self.feature_layers)

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
    known = known_entries()
    for name, value in config.items():
        if value is None or name in known["read"] or name in known["no_effect"]:
            continue
        stated = f"config: {shown(name)} is {reprlib.repr(value)}"
        if name == "layer_types":
            if not isinstance(value, list) or any(kind != "full_attention" for kind in value):
                raise ModelLoadError(f"{stated}; only 'full_attention' layers are supported")
        elif name not in known["only_values"]:
            raise ModelLoadError(
                f"{stated}; this entry is unknown here and could change what the model computes "
                "(if it does not, take it out of config.json)"
            )
        elif value not in (values := known["only_values"][name]):
            allowed = " or ".join(map(repr, values)) or "null"
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
    """llama3 scaling, linear factor and theta, as transformers reads them."""
    # the older spelling overrides the other as a whole
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(name) or {}
    theta = rope["rope_theta"] if "rope_theta" in rope else config.get("rope_theta")
    theta = 10000.0 if theta is None else float(theta)
    kind = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    known = known_entries()
    kinds = known["rope_types"]
    if kind not in kinds:
        raise ModelLoadError(
            f"config: rope type {reprlib.repr(kind)} is not supported ({', '.join(kinds)} are)"
        )
    for entry in rope.keys() - {*known["rope"], *kinds[kind]}:
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
    factor, low, high = (
        float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if not (0 < factor < math.inf and 0 < low < high < math.inf):
        raise ModelLoadError(
            f"config: rope factor {factor}, low {low}, high {high} scale nothing; "
            "all must be positive, and low less than high"
        )
    name, longest = "original_max_position_embeddings", config["max_position_embeddings"]
    stating = {name: longest, **rope} if config.get(name) is None else config
    return RopeScaling(factor, low, high, original_context_window=_whole(stating, name))
