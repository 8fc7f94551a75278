"""Recognising what is no whole model: adapters, speculative heads, quantized and converted models.

Each function says what it is and what would work, or "".
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sequoia_core.model.config_entries import families, family_names
from sequoia_core.model.loading.eagle3 import is_eagle3, is_quantized

INSTEAD = "give a whole model: a folder with config.json and its weights, a .gguf file or a hub id"
_HEAD_INSTEAD = (
    "which only its own program can run; as a draft give an EAGLE-3 draft of the target, a whole "
    "small model with its tokenizer, or none"
)
_UNQUANTIZED_INSTEAD = "give the model without quantization, or a GGUF file of it"

_TABLES = tomllib.loads((Path(__file__).parent / "foreign.toml").read_text("utf-8"))
_HEADS = _TABLES["heads"]

_QUANTIZED = re.compile(
    r".*\.(qweight|qzeros|g_idx|SCB|absmax|quant_map|weight_packed|weight_scale(_inv)?)"
)


def foreign_files(directory: Path) -> str:
    def has(*patterns: str) -> bool:
        return any(any(directory.glob(pattern)) for pattern in patterns)

    if has("adapter_config.json", "adapter_model.*"):
        return (
            "a LoRA or other PEFT adapter, not a whole model; merge it into its base model (peft's "
            "merge_and_unload) and give the folder saved then"
        )
    for head in _HEADS:
        if has(*head.get("files", ())):
            return _named(head)
    if has("model*.safetensors*", "pytorch_model*.bin*"):
        return ""
    if files := sorted(file.name for file in directory.glob("*.gguf")):
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return f"a folder of GGUF files; give the file itself: {', '.join(files[:3])}{more}"
    for pattern, kind in _TABLES["formats"].items():
        if has(pattern):
            return f"{kind}, not readable here; {INSTEAD}"
    if has("config.json"):
        return ""
    if has("tokenizer.json", "tokenizer.model"):
        return f"only a tokenizer, without a model; {INSTEAD}"
    return (
        f"config.json: no such file, and no weights; {INSTEAD} (of a hub repository of GGUF files, "
        "download one and give its path)"
    )


def foreign_settings(settings: Mapping[str, Any]) -> str:
    kind, names = settings.get("model_type"), settings.get("architectures")
    stated = [kind, settings.get("speculators_model_type")]
    stated += names if isinstance(names, list) else []
    text = " ".join(map(str, stated)).lower()
    heads = [head for head in _HEADS if any(name in text for name in head["names"])]
    heads += [head for head in _HEADS if settings.get(head.get("entry")) is not None]
    eagle3 = is_eagle3(settings)
    if heads and not eagle3:
        return _named(heads[0])
    if isinstance(mlx := settings.get("quantization"), dict) and "group_size" in mlx:
        return f"an MLX model with quantized weights, not readable here; {_UNQUANTIZED_INSTEAD}"
    if eagle3:
        quantized = "a quantized EAGLE-3 draft; give it without quantization"
        return quantized if is_quantized(settings) else ""
    family = families().get(kind) if isinstance(kind, str) else None
    if family is None:
        return f"model_type is {kind!r:.80}; only these are supported: {family_names()}"
    if names and not text.strip().endswith("forcausallm"):
        return (
            f"architectures is {names!r:.80}; only {family.architecture} is supported, which "
            "predicts the next token"
        )
    return ""


def foreign_tensors(names: Iterable[str]) -> str:
    stored = sorted(names)
    for head in _HEADS:
        if any(re.fullmatch(head.get("tensors", ""), name) for name in stored):
            return _named(head)
    if any(".lora_A." in name or ".lora_B." in name for name in stored):
        return "tensors of a LoRA adapter; merge it into its base model"
    if packed := next(filter(_QUANTIZED.fullmatch, stored), None):
        return f"quantized weights ({packed}) are not supported; {_UNQUANTIZED_INSTEAD}"
    return ""


def _named(head: Mapping[str, Any]) -> str:
    return f"{head['kind']}, {head.get('instead', _HEAD_INSTEAD)}"
