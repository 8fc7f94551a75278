"""The shape of a Llama-family model. Owns validation; knows nothing of weights or devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sequoia_core.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's frequency-dependent stretch of the rotary embedding (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_window: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the forward pass must know before it sees a weight.

    Attributes:
        vocab_size: rows of the embedding, `V`.
        head_vocab_size: rows of the output head; smaller than `vocab_size` for a trimmed draft.
        hidden_size: width of the residual stream.
        intermediate_size: width inside the MLP.
        num_layers: `L`.
        num_heads: query heads, `H`.
        num_kv_heads: key/value heads, `K`; divides `num_heads`.
        head_dim: `D`.
        rms_norm_eps: epsilon of RMSNorm.
        rope_theta: base of the rotary frequencies.
        rope_scaling: llama3 scaling, or None; `rope_factor` is plain linear scaling.
        rope_factor: positions are divided by it (1 for none).
        context_window: most positions the model was made for.
        tie_word_embeddings: the output head is the embedding.
        embeddings_from_target: a draft that has no embedding of its own reads the target's.
        feature_layers: a draft conditioned on hidden states reads these of the target's layers.
    """

    vocab_size: int
    head_vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    context_window: int
    tie_word_embeddings: bool
    rope_scaling: RopeScaling | None = None
    rope_factor: float = 1.0
    embeddings_from_target: bool = False
    feature_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "vocab_size", "head_vocab_size", "hidden_size", "intermediate_size", "num_layers",
            "num_heads", "num_kv_heads", "head_dim", "context_window",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ModelLoadError(
                    f"config: {name} is {getattr(self, name)}; it must be positive"
                )
        if self.num_heads % self.num_kv_heads:
            raise ModelLoadError(
                f"config: {self.num_heads} heads cannot share {self.num_kv_heads} KV heads evenly"
            )
        if self.tie_word_embeddings and self.head_vocab_size != self.vocab_size:
            raise ModelLoadError("config: a head tied to the embedding cannot have fewer rows")
        if self.head_dim % 2:
            raise ModelLoadError(f"config: head_dim is {self.head_dim}; rotary needs an even one")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModelConfig":
        """Read a Hugging Face `config.json` of a Llama-family model.

        Raises:
            ModelLoadError: the architecture is not Llama's, or a needed entry is missing or of a
                kind this forward pass does not compute (biases, another activation or rope type).
        """
        kind = config.get("model_type")
        if kind != "llama":
            raise ModelLoadError(
                f"config: model_type is {kind!r}; only 'llama' models are supported"
            )
        for name, wanted in (
            ("hidden_act", "silu"),
            ("attention_bias", False),
            ("mlp_bias", False),
            ("partial_rotary_factor", 1.0),
        ):
            if config.get(name, wanted) != wanted:
                raise ModelLoadError(
                    f"config: {name} is {config[name]!r}; only {wanted!r} is supported"
                )
        try:
            heads = int(config["num_attention_heads"])
            scaling, factor, theta = _rope(config)
            return cls(
                vocab_size=int(config["vocab_size"]),
                head_vocab_size=int(config.get("draft_vocab_size") or config["vocab_size"]),
                hidden_size=int(config["hidden_size"]),
                intermediate_size=int(config["intermediate_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
                rms_norm_eps=float(config["rms_norm_eps"]),
                rope_theta=theta,
                context_window=int(config["max_position_embeddings"]),
                tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
                rope_scaling=scaling,
                rope_factor=factor,
                embeddings_from_target=config.get("embeddings_from") == "target",
                feature_layers=tuple(map(int, config.get("feature_layers") or ())),
            )
        except KeyError as error:
            raise ModelLoadError(f"config: entry {error.args[0]!r} is missing") from None
        except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
            raise ModelLoadError(f"config: an entry is of the wrong kind ({error})") from None


def _rope(config: Mapping[str, Any]) -> tuple[RopeScaling | None, float, float]:
    """Scaling, linear factor and theta, in the older (`rope_scaling`) or newer spelling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None, 1.0, theta
    if kind == "linear":
        return None, float(rope["factor"]), theta
    if kind == "llama3":
        scaling = RopeScaling(
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_context_window=int(rope["original_max_position_embeddings"]),
        )
        return scaling, 1.0, theta
    raise ModelLoadError(
        f"config: rope type {kind!r} is not supported (default, linear, llama3 are)"
    )
