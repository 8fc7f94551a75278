"""What a `config.json` says of rotary positions, as any version of transformers spells it."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config_entries import known_entries, shown, whole

LAYER_KINDS = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's frequency-dependent stretch of the rotary embedding (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_window: int


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `ModelConfig`, as transformers reads them. Raises KeyError, TypeError, ValueError.

    Raises ModelLoadError for what is not computed.
    """
    # the older spelling overrides the other as a whole
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(name) or {}
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
    theta = rope["rope_theta"] if "rope_theta" in rope else config.get("rope_theta")
    found: dict[str, Any] = {"rope_theta": 10000.0 if theta is None else float(theta)}
    if kind == "linear":
        found["rope_factor"] = float(rope["factor"])
    elif kind == "llama3":
        found["rope_scaling"] = _llama3(config, rope)
    return found


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any]) -> RopeScaling:
    factor, low, high = (
        float(rope[name]) for name in ("factor", "low_freq_factor", "high_freq_factor")
    )
    if not (0 < factor < math.inf and 0 < low < high < math.inf):
        raise ModelLoadError(
            f"config: rope factor {factor}, low {low}, high {high} scale nothing; "
            "all must be positive, and low less than high"
        )
    return RopeScaling(factor, low, high, _original_window(config, rope))


def _original_window(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    longest = config["max_position_embeddings"]
    stating = {name: longest, **rope} if config.get(name) is None else config
    return whole(stating, name)
