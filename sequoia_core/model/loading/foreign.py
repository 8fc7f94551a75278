"""Recognising what is no whole Llama: adapters, speculative heads, quantized and converted models.

Each function says what it is and what would work, or "".
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

INSTEAD = "give a whole Llama: a folder with config.json and its weights, a .gguf file or a hub id"
_HEAD_INSTEAD = (
    "which only its own program can run; as a draft give a whole small Llama with the target's "
    "tokenizer, or none"
)
_UNQUANTIZED_INSTEAD = "give the model without quantization, or a GGUF file of it"

HEADS = {
    "eagle3": "an EAGLE-3 head",
    "eagle": "an EAGLE head",
    "medusa": "Medusa heads",
    "hydra": "Hydra heads",
    "mlp_speculator": "an MLP speculator",
    "mlpspeculator": "an MLP speculator",
    "speculator": "a speculator head",
}
"""By a part of the architecture's or model type's name, the most specific first."""

HEAD_ENTRIES = {
    "medusa_num_heads": "medusa",
    "hydra_num_heads": "hydra",
    "eagle_config": "eagle",
    "speculators_config": "speculator",
}

HEAD_TENSORS = {
    "eagle3": re.compile(r"d2t|t2d|midlayer\..*"),
    "eagle": re.compile(r"(model\.)?fc\.weight"),
    "medusa": re.compile(r"(medusa_head\.)?\d+\.\d+\.(linear\.)?(weight|bias)"),
    "hydra": re.compile(r".*hydra_head.*"),
}

FORMATS = {
    "*.onnx": "an ONNX model",
    "openvino_model.xml": "an OpenVINO model",
    "flax_model*.msgpack": "a Flax model",
    "tf_model*.h5": "a TensorFlow model",
    "weights*.npz": "an MLX model",
    "consolidated*.pth": "Meta's original files, which transformers converts",
    "consolidated*.safetensors": "Mistral's or Meta's original files, which transformers converts",
    "*.pth": "PyTorch files of another layout",
    "*.pt": "PyTorch files of another layout",
    "*.ckpt": "a training checkpoint",
}
"""By a file of a folder without weights in a known format."""

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
    for head in ("medusa", "hydra"):
        if has(f"{head}_lm_head.*"):
            return f"{HEADS[head]}, {_HEAD_INSTEAD}"
    if has("model*.safetensors*", "pytorch_model*.bin*"):
        return ""
    if files := sorted(file.name for file in directory.glob("*.gguf")):
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        return f"a folder of GGUF files; give the file itself: {', '.join(files[:3])}{more}"
    for pattern, kind in FORMATS.items():
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
    heads = [part for part in HEADS if part in text]
    heads += [part for entry, part in HEAD_ENTRIES.items() if settings.get(entry) is not None]
    if heads:
        return f"{HEADS[heads[0]]}, {_HEAD_INSTEAD}"
    if (stored := settings.get("quantization_config")) is not None:
        how = stored if isinstance(stored, Mapping) else {}
        method, bits = how.get("quant_method", "quantization_config"), how.get("bits")
        words = f"{method!s:.40}, {bits!s:.10} bits" if bits is not None else f"{method!s:.40}"
        return f"quantized weights ({words}) are not supported; {_UNQUANTIZED_INSTEAD}"
    if isinstance(mlx := settings.get("quantization"), dict) and "group_size" in mlx:
        return f"an MLX model with quantized weights, not readable here; {_UNQUANTIZED_INSTEAD}"
    if kind != "llama":
        return f"model_type is {kind!r:.80}; only 'llama' models are supported"
    if names and not text.strip().endswith("forcausallm"):
        return (
            f"architectures is {names!r:.80}; only LlamaForCausalLM is supported, which predicts "
            "the next token"
        )
    return ""


def foreign_tensors(names: Iterable[str]) -> str:
    stored = sorted(names)
    for head, pattern in HEAD_TENSORS.items():
        if any(map(pattern.fullmatch, stored)):
            return f"{HEADS[head]}, {_HEAD_INSTEAD}"
    if any(".lora_A." in name or ".lora_B." in name for name in stored):
        return "tensors of a LoRA adapter; merge it into its base model"
    if packed := next(filter(_QUANTIZED.fullmatch, stored), None):
        return f"quantized weights ({packed}) are not supported; {_UNQUANTIZED_INSTEAD}"
    return ""
