"""What a `quantization_config` states of packed matrices; what is not computed is refused."""

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config_entries import shown

METHODS = ("awq", "gptq", "compressed-tensors")  # of `quant_method`


@dataclass(frozen=True, slots=True)
class PackedFormat:
    """What `quantization_config` states about all quantised matrices of a checkpoint."""

    method: str  # `quant_method`
    bits: int
    group_size: int  # columns; -1 for whole rows
    zero_offset: int = 0  # what is added to a stored zero
    stores_zeros: bool = True
    reordered: bool = False  # each column states its group


@functools.cache
def _entries() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "packed_format.toml").read_text("utf-8"))


def packed_format(stated: Any) -> PackedFormat:
    """Read a `quantization_config`. Raises ModelLoadError for what is not computed."""
    if not isinstance(stated, Mapping):
        raise ModelLoadError(f"quantization_config is {stated!r:.60}; an object was expected")
    method = str(stated.get("quant_method") or "gptq")  # AutoGPTQ's own file names none
    if method not in METHODS:
        bits = f", {stated['bits']!s:.10} bits" if stated.get("bits") is not None else ""
        raise ModelLoadError(
            f"quantized weights ({shown(method[:40])}{bits}) are not supported; "
            "give the model without quantization, or a GGUF file of it"
        )
    _check_entries(stated, _entries()[method], method)
    if method == "compressed-tensors":
        return _compressed(stated)
    kinds = {stated[name].lower() for name in ("format", "checkpoint_format") if stated.get(name)}
    if len(kinds) > 1:
        raise ModelLoadError("quantization_config: format and checkpoint_format are not the same")
    first = method == "gptq" and "gptq_v2" not in kinds
    return PackedFormat(
        method,
        bits=_whole(stated, "bits"),
        group_size=_group_size(stated),
        zero_offset=int(first),
        reordered=bool(stated.get("desc_act")),
    )


def _compressed(stated: Mapping[str, Any]) -> PackedFormat:
    """One scheme for all `Linear` modules, of weights alone."""
    groups = stated.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) != 1:
        raise ModelLoadError("quantization_config: config_groups is not one group for all weights")
    ((_, group),) = groups.items()
    tables = _entries()
    if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
        raise ModelLoadError("quantization_config: config_groups states nothing about weights")
    scheme = group["weights"]
    _check_entries(group, tables["compressed-tensors-group"], "compressed-tensors")
    _check_entries(scheme, tables["compressed-tensors-weights"], "compressed-tensors")
    by_rows = scheme.get("strategy") == "channel"
    size = -1 if by_rows else _group_size({"group_size": None, **scheme})
    reordered = scheme.get("actorder") in ("group", True)
    return PackedFormat(
        "compressed-tensors",
        bits=_whole(scheme, "num_bits"),
        group_size=size,
        stores_zeros=not scheme.get("symmetric", True),
        reordered=reordered,
    )


def _whole(stated: Mapping[str, Any], name: str) -> int:
    if type(value := stated.get(name)) is not int:
        raise ModelLoadError(f"quantization_config: {name} is {value!r:.40}, no whole number")
    return value


def _group_size(stated: Mapping[str, Any]) -> int:
    size = stated.get("group_size", 128)
    if type(size) is not int or not (size == -1 or size > 0):
        raise ModelLoadError(f"quantization_config: group_size is {size!r:.40}")
    return size


def _check_entries(stated: Mapping[str, Any], known: Mapping[str, Any], method: str) -> None:
    """Refuse entries that could change the weights and are not computed."""
    for name, value in stated.items():
        if name in known["ignored"] or value in (None, {}, []):
            continue
        entry = f"quantization_config: {shown(name)} is {value!r:.60}"
        if name not in known["only"]:
            raise ModelLoadError(
                f"{entry}, which is unknown here and could change the weights of {method}"
            )
        folded = value.lower() if isinstance(value, str) else value
        if (allowed := known["only"][name]) and folded not in allowed:
            raise ModelLoadError(
                f"{entry}; of {method} only {' or '.join(map(repr, allowed))} is supported"
            )
