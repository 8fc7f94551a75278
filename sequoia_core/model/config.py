"""The shape of a model and what its family computes, read from its `config.json`."""

import math
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.config_entries import Family, families, family_names, flag, number, whole
from sequoia_core.model.rope import LAYER_KINDS, LongRope, RopeScaling, read_rope, unnested

NULL_IS_STATED = {
    "attn_logit_softcapping", "final_logit_softcapping", "head_dim", "num_key_value_heads",
    "sliding_window",
}  # fmt: skip
"""Entries whose null is not the family's default: none, or what the sizes give."""

EAGLE3_FEATURES = 3  # layers of the target that an EAGLE-3 draft reads unless it states others


@dataclass(frozen=True, slots=True)
class Eagle3:
    """What EAGLE-3 drafts (arXiv 2503.01840) differ in, by the names of their files."""

    target_hidden_size: int
    fc_bias: bool = False
    fc_norm: bool = False  # each of the target's states is normed before `fc`
    norm_before_fc: bool = False  # all of them together are
    norm_before_residual: bool = False  # the layer adds to the normed feature
    norm_output: bool = False  # the next feature is the normed output


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
    rope_divisors: tuple[float, ...] = ()  # of each frequency
    rope_magnitude: float = 1.0  # of rotated queries and keys
    embeddings_from_target: bool = False  # the draft has no embedding and reads the target's
    feature_layers: tuple[int, ...] = ()  # the target's, whose outputs a conditioned draft reads
    attention_bias: bool = False  # on all four products
    mlp_bias: bool = False
    eagle3: Eagle3 | None = None  # of such a draft
    family: str = "llama"  # `model_type`
    qkv_bias: bool = False  # on queries, keys and values alone
    qk_norm: Literal["", "head", "whole"] = ""  # norms of each query and key, or of all of a row's
    norm_inputs: bool = True  # of attention and MLP
    norm_outputs: bool = False  # of both, before they are added to what they read
    norms_add_one: bool = False  # to their weights
    fused: bool = False  # queries, keys and values are one matrix, gate and up another
    activation: Literal["silu", "gelu_tanh"] = "silu"
    scaled_embedding: bool = False  # by the root of `hidden_size`, in the weights' number format
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0  # of the outputs of attention and MLP
    attention_scale: float | None = None  # of scores; None is 1 / sqrt(D)
    attention_softcap: float | None = None  # scores are softcap * tanh(scores / softcap)
    logit_softcap: float | None = None
    logits_divisor: float = 1.0
    sliding_window: int | None = None  # positions that `sliding_layers` see, a token's own included
    sliding_layers: tuple[int, ...] = ()
    unrotated_layers: tuple[int, ...] = ()
    local_rope_theta: float | None = None  # of `sliding_layers`, without any scaling
    rotary_dim: int | None = None  # first dimensions of each head that rotate; None is all
    long_rope: LongRope | None = None  # what holds in a context longer than the original window

    def __post_init__(self) -> None:
        for name, kind in ModelConfig.__annotations__.items():
            value = getattr(self, name)
            if value is None:
                continue
            if kind in (int, int | None) and value < 1:
                raise ModelLoadError(f"config: {name} is {value}; it must be positive")
            if kind in (float, float | None) and not 0.0 < value < math.inf:
                raise ModelLoadError(f"config: {name} is {value}; it must be positive and finite")
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"config: {self.num_heads} heads cannot share {self.num_kv_heads} KV heads evenly"
            )
        if self.tie_word_embeddings and self.head_vocab_size != self.vocab_size:
            raise ModelLoadError("config: a head tied to the embedding cannot have fewer rows")
        if (rotated := self.rotary_dim or self.head_dim) % 2 or rotated > self.head_dim:
            raise ModelLoadError(
                f"config: head_dim is {self.head_dim}, of which {rotated} rotate; rotary needs an "
                "even number"
            )
        if self.rope_divisors and len(self.rope_divisors) != rotated // 2:
            raise ModelLoadError(
                f"config: {len(self.rope_divisors)} rope factors for {rotated // 2} frequencies"
            )

    @property
    def is_draft(self) -> bool:
        """Whether it can only be a draft: it reads a target, or lacks some of its tokens."""
        trimmed = self.head_vocab_size != self.vocab_size
        reads = self.embeddings_from_target or self.feature_count > 0
        return trimmed or reads

    @property
    def feature_count(self) -> int:
        """The target's hidden states that it reads; its `feature_layers` may not be known yet."""
        return len(self.feature_layers) or (EAGLE3_FEATURES if self.eagle3 else 0)

    @property
    def beyond_llama(self) -> tuple[str, ...]:
        """Names of the fields that say what a Llama does not compute."""
        features = list(ModelConfig.__dataclass_fields__.values())
        first = next(at for at, each in enumerate(features) if each.name == "family") + 1
        return tuple(
            each.name for each in features[first:] if getattr(self, each.name) != each.default
        )

    def rotation(self, layer: int) -> str:
        """How a layer's positions rotate: `global`, `local`, or "" where they do not."""
        if layer in self.unrotated_layers:
            return ""
        local = self.local_rope_theta is not None and layer in self.sliding_layers
        return "local" if local else "global"

    def rotating(self, kind: str) -> "ModelConfig":
        """With the rotary positions of a kind of `rotation` in all layers."""
        if kind == "global" or self.local_rope_theta is None:
            return self
        return replace(
            self,
            rope_theta=self.local_rope_theta,
            rope_scaling=None,
            rope_factor=1.0,
            rope_divisors=(),
            rope_magnitude=1.0,
        )

    def for_context(self, tokens: int) -> "ModelConfig":
        """With longrope's long factors, and the window that they have, if it takes them."""
        long = self.long_rope
        if long is None or tokens <= long.original_context_window:
            return self
        return replace(self, rope_divisors=long.divisors, context_window=long.context_window)

    def limited(self, tokens: int, name: str = "the target") -> "ModelConfig":
        """With a context of so many tokens; raises ParameterError if the named model has none."""
        most = self.for_context(sys.maxsize).context_window
        if not 1 <= tokens <= most:
            raise ParameterError(
                f"context_window is {tokens}, but {name} has {most} tokens of context; give 1 to "
                f"{most}, or leave --context-window out"
            )
        return replace(self.for_context(tokens), context_window=tokens)

    @property
    def takes_long_factors(self) -> bool:
        return self.long_rope is not None and self.rope_divisors == self.long_rope.divisors

    @property
    def overflows_float16(self) -> bool:
        """Whether activations of the family can exceed that format's range."""
        return families()[self.family].float16_overflows

    def has_bias(self, module: str) -> bool:
        return (
            (self.attention_bias and "self_attn." in module)
            or (self.mlp_bias and "mlp." in module)
            or (self.qkv_bias and module.endswith(("q_proj", "k_proj", "v_proj")))
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Raises ModelLoadError for entries that are missing or are not computed here."""
        kind = config.get("model_type")
        family = families().get(kind) if isinstance(kind, str) else None
        if family is None:
            raise ModelLoadError(
                f"config: model_type is {kind!r:.80}; only these are supported: {family_names()}"
            )
        family.check(config)
        stated = {
            name: value
            for name, value in config.items()
            if value is not None or name in NULL_IS_STATED
        }
        try:
            if "local_rope_theta" in family.numbers:
                stated = unnested(stated)
            return cls(family=str(kind), **_values(family, {**family.defaults, **stated}))
        except KeyError as error:
            raise ModelLoadError(f"config: entry {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ModelLoadError(f"config: an entry is of the wrong kind ({error})") from None


def _values(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    heads = whole(config, "num_attention_heads")
    vocab_size, hidden_size = whole(config, "vocab_size"), whole(config, "hidden_size")
    head_dim = whole(config, "head_dim", hidden_size // heads)
    numbers = {name: number(config, entry) for name, entry in family.numbers.items()}
    stated, rope = whole(config, "max_position_embeddings"), read_rope(family, config, head_dim)
    longest = max(stated, rope.get("context_window", stated))
    return {
        "vocab_size": vocab_size,
        "head_vocab_size": whole(config, "draft_vocab_size", vocab_size),
        "hidden_size": hidden_size,
        "intermediate_size": whole(config, "intermediate_size"),
        "num_layers": whole(config, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": whole(config, "num_key_value_heads", heads),
        "head_dim": head_dim,
        "rms_norm_eps": float(config["rms_norm_eps"]),
        "context_window": stated,
        "tie_word_embeddings": flag(config, "tie_word_embeddings"),
        "embeddings_from_target": config.get("embeddings_from") is not None,
        "feature_layers": tuple(map(int, config.get("feature_layers") or ())),
        "attention_bias": flag(config, "attention_bias"),
        "mlp_bias": flag(config, "mlp_bias"),
        **rope,
        **_sliding(family, config, longest),
        "unrotated_layers": _unrotated(family, config),
        "attention_scale": _query_scale(family, config),
        **{name: value for name, value in numbers.items() if value is not None},
        **family.features,
    }


def _sliding(family: Family, config: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """The window and the layers that slide; nothing where no layer does.

    A window as wide as the `longest` context is none.
    """
    switched = config.get("use_sliding_window")
    if switched is None:
        switched = family.defaults.get("use_sliding_window", True)
    elif type(switched) is not bool:
        raise TypeError(f"use_sliding_window is {switched!r:.80}")
    window = None
    if switched and config.get("sliding_window") is not None:
        window = whole(config, "sliding_window")
    layers = _by_rule(family, config) if window is not None else ()
    if (kinds := config.get("layer_types")) is not None:
        stated = _stated_sliding(kinds, config)
        if stated != layers and (window is None or family.sliding in ("", "all")):
            kind = LAYER_KINDS[bool(layers)]
            raise ModelLoadError(
                f"config: layer_types is {reprlib.repr(kinds)}; only {kind!r} layers are supported "
                f"with sliding_window {window}"
            )
        layers = stated
    elif family.sliding == "pattern" and window is None:
        raise ModelLoadError(
            "config: sliding_window is missing, and layer_types does not say that no layer slides"
        )
    if window is None or (window >= longest and "local_rope_theta" not in family.numbers):
        return {}
    if not family.sliding:
        raise ModelLoadError(
            f"config: sliding_window is {window}, less than the context window; "
            "only attention over the whole context is supported"
        )
    return {"sliding_window": window, "sliding_layers": layers} if layers else {}


def _by_rule(family: Family, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Layers that slide where `layer_types` does not say it; see `families.toml`."""
    layers = whole(config, "num_hidden_layers")
    match family.sliding:
        case "all":
            return tuple(range(layers))
        case "from":
            return tuple(range(whole(config, "max_window_layers"), layers))
        case "pattern":
            every = whole(config, "sliding_window_pattern")
            return tuple(layer for layer in range(layers) if (layer + 1) % every)
        case "unrotated":
            return _unrotated(family, config)
    return ()


def _unrotated(family: Family, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Layers without rotary positions."""
    if "no_rope_layers" not in family.read:
        return ()
    layers, rotated = whole(config, "num_hidden_layers"), config.get("no_rope_layers")
    if rotated is None:
        every = whole(config, "no_rope_layer_interval")
        rotated = [(layer + 1) % every for layer in range(layers)]
    if not isinstance(rotated, list) or len(rotated) < layers:
        raise TypeError(f"no_rope_layers is {reprlib.repr(rotated)}")
    return tuple(layer for layer in range(layers) if not rotated[layer])


def _query_scale(family: Family, config: Mapping[str, Any]) -> float | None:
    if "query_pre_attn_scalar" not in family.read:
        return None
    return 1.0 / math.sqrt(config["query_pre_attn_scalar"])


def _stated_sliding(kinds: object, config: Mapping[str, Any]) -> tuple[int, ...]:
    if not isinstance(kinds, list) or any(kind not in LAYER_KINDS for kind in kinds):
        raise ModelLoadError(
            f"config: layer_types is {reprlib.repr(kinds)}; only {LAYER_KINDS[0]!r} and "
            f"{LAYER_KINDS[1]!r} layers are supported"
        )
    if len(kinds) != (layers := whole(config, "num_hidden_layers")):
        raise ModelLoadError(f"config: layer_types has {len(kinds)} entries for {layers} layers")
    return tuple(at for at, kind in enumerate(kinds) if kind == LAYER_KINDS[1])
