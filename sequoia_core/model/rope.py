"""What a `config.json` says of rotary positions, as any version of transformers spells it."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config_entries import Family, known_entries, number, shown, whole

LAYER_KINDS = ("full_attention", "sliding_attention")
LOCAL_BASE = "rope_local_base_freq"


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama 3's frequency-dependent stretch of the rotary embedding (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_window: int


@dataclass(frozen=True, slots=True)
class LongRope:
    """What longrope takes for all positions where a context is longer than the original window."""

    divisors: tuple[float, ...]  # of each frequency
    context_window: int
    original_context_window: int


def read_rope(family: Family, config: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Values of `ModelConfig`, as transformers reads them.

    Raises ModelLoadError for what is not computed, and KeyError, TypeError, ValueError.
    """
    # the older spelling overrides the other as a whole
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = dict(config.get(name) or {})
    found: dict[str, Any] = {}
    if (partial := "partial_rotary_factor") in family.read:
        factor = number({**config, partial: rope.pop(partial, config.get(partial))}, partial)
        found["rotary_dim"] = None if factor in (None, 1.0) else int(head_dim * (factor or 0.0))
    kind = rope["rope_type"] if "rope_type" in rope else rope.get("type", "default")
    if family.architecture == "Phi3ForCausalLM" and kind in ("su", "yarn"):  # earlier names
        kind = "longrope"
    known = known_entries()
    kinds = known["rope_types"]
    if kind not in kinds:
        raise ModelLoadError(
            f"config: rope type {reprlib.repr(kind)} is not supported ({', '.join(kinds)} are)"
        )
    for entry in rope.keys() - {*known["rope"], *kinds[kind]}:
        neutral = 1.0 if entry in ("factor", "attention_factor", partial) else None
        if rope[entry] not in (None, neutral):
            raise ModelLoadError(
                f"config: {name} states {shown(entry)} {reprlib.repr(rope[entry])}, "
                f"which is not supported for rope type {kind!r}"
            )
    theta = config.get("rope_theta") if rope.get("rope_theta") is None else rope["rope_theta"]
    found["rope_theta"] = 10000.0 if theta is None else float(theta)
    match kind:
        case "linear":
            found["rope_factor"] = float(rope["factor"])
        case "llama3":
            found["rope_scaling"] = _llama3(config, rope)
        case "longrope":
            found |= _longrope(config, rope)
        case "yarn":
            found |= _yarn(config, rope, found["rope_theta"], head_dim)
        case "dynamic":  # up to `max_position_embeddings` it changes nothing
            number(rope, "factor")
    return found


def unnested(config: dict[str, Any]) -> dict[str, Any]:
    """With the rotary positions of whole layers alone, and the base of sliding ones."""
    nested = config.get("rope_parameters")
    if not isinstance(nested, Mapping) or not nested.keys() & set(LAYER_KINDS):
        return config
    whole_layers, local = (dict(nested.get(kind) or {}) for kind in LAYER_KINDS)
    base = local.pop("rope_theta", None)
    if others := nested.keys() - set(LAYER_KINDS) | local.keys() - {"rope_type", "type"}:
        raise ModelLoadError(f"config: rope_parameters states {shown(min(others))}, unknown here")
    if (kind := local.get("rope_type", local.get("type", "default"))) != "default":
        raise ModelLoadError(f"config: rope type {kind!r:.80} of sliding layers is not supported")
    found = {**config, "rope_parameters": whole_layers | dict(config.get("rope_scaling") or {})}
    found.pop("rope_scaling", None)
    return {**found, **({} if base is None else {LOCAL_BASE: base})}


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


def _longrope(config: Mapping[str, Any], rope: Mapping[str, Any]) -> dict[str, Any]:
    """Of texts up to the original window; longer ones have other factors for all of their keys.

    So a text cannot grow past it without being read again: the window ends there, unless a longer
    one is asked for (`ModelConfig.for_context`).
    """
    original, longest = _original_window(config, rope), whole(config, "max_position_embeddings")
    short, long = (tuple(map(float, rope[f"{name}_factor"])) for name in ("short", "long"))
    if not all(0.0 < each < math.inf for each in (*short, *long)) or len(short) != len(long):
        raise ModelLoadError("config: short_factor and long_factor must be positive, and as many")
    factor, magnitude = number(rope, "factor"), number(rope, "attention_factor")
    if factor is None:
        factor = longest / original
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
    found = {"rope_divisors": short, "rope_magnitude": magnitude}
    if short == long or longest <= original:
        return {**found, "context_window": longest}
    return {
        **found,
        "context_window": original,
        "long_rope": LongRope(long, longest, original),
    }


def _yarn(
    config: Mapping[str, Any], rope: Mapping[str, Any], theta: float, width: int
) -> dict[str, Any]:
    """YaRN (arXiv 2309.00071): of a head's `width` dimensions those that turn slowly are stretched.

    The window is the original one times the factor, where `max_position_embeddings` is not more:
    model cards add the entry to a file that states the original window.
    """
    original, longest = _original_window(config, rope), whole(config, "max_position_embeddings")
    if (factor := number(rope, "factor")) is None:
        factor = longest / original
    fast, slow = number(rope, "beta_fast") or 32.0, number(rope, "beta_slow") or 1.0
    if type(truncate := rope.get("truncate", True)) is not bool:
        raise TypeError(f"truncate is {reprlib.repr(truncate)}")
    if not (0.0 < factor < math.inf and 0.0 < slow <= fast < math.inf):
        raise ModelLoadError(
            f"config: rope factor {factor}, beta_fast {fast}, beta_slow {slow} scale nothing; "
            "all must be positive, and slow not more than fast"
        )
    first, last = (  # dimensions that turn so often within the original window
        width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        for turns in (fast, slow)
    )
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = last - first or 0.001
    stretched = [min(max((each - first) / span, 0.0), 1.0) for each in range(width // 2)]
    return {
        "rope_divisors": tuple(1.0 / (1.0 - part + part / factor) for part in stretched),
        "rope_magnitude": _yarn_magnitude(rope, factor),
        "context_window": max(longest, int(original * factor)),
    }


def _yarn_magnitude(rope: Mapping[str, Any], factor: float) -> float:
    if (stated := number(rope, "attention_factor")) is not None:
        return stated
    scale, whole_scale = number(rope, "mscale"), number(rope, "mscale_all_dim")

    def grown(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1.0 else 1.0

    return grown(scale) / grown(whole_scale) if scale and whole_scale else grown(1.0)


def _original_window(config: Mapping[str, Any], rope: Mapping[str, Any]) -> int:
    name = "original_max_position_embeddings"
    longest = config["max_position_embeddings"]
    stating = {name: longest, **rope} if config.get(name) is None else config
    return whole(stating, name)
