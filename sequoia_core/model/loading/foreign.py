"""Refusing what is no whole Llama: adapters, speculative heads, quantized and converted models.

Each is recognised by its files, its `config.json` or its tensors; the message says what would work.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError

INSTEAD = "give a whole Llama: a folder with config.json and its weights, a .gguf file or a hub id"
_HEAD_INSTEAD = (
    "which only its own program can run; as a draft give a whole small Llama with the target's "
    "tokenizer, or none"
)

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
    "medusa_num_heads": "Medusa heads",
    "hydra_num_heads": "Hydra heads",
    "eagle_config": "an EAGLE head",
    "speculators_config": "a speculator head",
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
_MEDUSA = re.compile(r"(medusa_head\.)?\d+\.\d+\.(linear\.)?(weight|bias)")


def refuse_foreign_files(directory: Path) -> None:
    """Check the names of a folder's files.

    Raises:
        ModelLoadError: it is an adapter, or has no model that is read here.
    """
    if any(directory.glob("adapter_config.json")) or any(directory.glob("adapter_model.*")):
        raise ModelLoadError(
            f"{directory}: a LoRA or other PEFT adapter, not a whole model; merge it into its base "
            "model (peft's merge_and_unload) and give the folder saved then"
        )
    for name in ("medusa", "hydra"):
        if any(directory.glob(f"{name}_lm_head.*")):
            raise ModelLoadError(f"{directory}: {HEADS[name]}, {_HEAD_INSTEAD}")
    weights = [*directory.glob("model*.safetensors*"), *directory.glob("pytorch_model*.bin*")]
    if weights:
        return
    if files := sorted(file.name for file in directory.glob("*.gguf")):
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        raise ModelLoadError(
            f"{directory}: a folder of GGUF files; give the file itself: "
            f"{', '.join(files[:3])}{more}"
        )
    for pattern, kind in FORMATS.items():
        if any(directory.glob(pattern)):
            raise ModelLoadError(f"{directory}: {kind}, not readable here; {INSTEAD}")
    if (directory / "config.json").exists():
        return
    if any((directory / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelLoadError(f"{directory}: only a tokenizer, without a model; {INSTEAD}")
    raise ModelLoadError(
        f"{directory}: config.json: no such file, and no weights; {INSTEAD} (of a hub repository "
        "of GGUF files, download one and give its path)"
    )


def refuse_foreign_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """Check a folder's `config.json`.

    Raises:
        ModelLoadError: it is a speculative head, quantized, or of another architecture.
    """
    stated = [settings.get("model_type"), settings.get("speculators_model_type")]
    names = settings.get("architectures")
    stated += names if isinstance(names, list) else []
    text = " ".join(map(str, stated)).lower()
    kinds = [kind for part, kind in HEADS.items() if part in text]
    kinds += [kind for entry, kind in HEAD_ENTRIES.items() if settings.get(entry) is not None]
    if kinds:
        raise ModelLoadError(f"{directory}: {kinds[0]}, {_HEAD_INSTEAD}")
    if (stored := settings.get("quantization_config")) is not None:
        raise ModelLoadError(
            f"{directory}: quantized weights ({_method(stored)}) are not supported; give the model "
            "without quantization, or a GGUF file of it"
        )
    if isinstance(mlx := settings.get("quantization"), dict) and "group_size" in mlx:
        raise ModelLoadError(
            f"{directory}: an MLX model with quantized weights, not readable here; give the model "
            "without quantization, or a GGUF file of it"
        )
    if (kind := settings.get("model_type")) != "llama":
        raise ModelLoadError(
            f"{directory}: model_type is {kind!r:.80}; only 'llama' models are supported"
        )
    if names and not text.strip().endswith("forcausallm"):
        raise ModelLoadError(
            f"{directory}: architectures is {names!r:.80}; only LlamaForCausalLM is supported, "
            "which predicts the next token"
        )


def refuse_foreign_tensors(origin: str, names: Iterable[str]) -> None:
    """Check the names of the stored tensors.

    Raises:
        ModelLoadError: they are a speculative head's, an adapter's or quantized.
    """
    stored = set(names)
    kind = None
    if stored & {"d2t", "t2d"} or any(name.startswith("midlayer.") for name in stored):
        kind = HEADS["eagle3"]
    elif stored & {"fc.weight", "model.fc.weight"}:
        kind = HEADS["eagle"]
    elif any(_MEDUSA.fullmatch(name) for name in stored):
        kind = HEADS["medusa"]
    elif any("hydra_head" in name for name in stored):
        kind = HEADS["hydra"]
    if kind is not None:
        raise ModelLoadError(f"{origin}: {kind}, {_HEAD_INSTEAD}")
    if any(".lora_A." in name or ".lora_B." in name for name in stored):
        raise ModelLoadError(f"{origin}: tensors of a LoRA adapter; merge it into its base model")
    if packed := next(filter(_QUANTIZED.fullmatch, sorted(stored)), None):
        raise ModelLoadError(
            f"{origin}: quantized weights ({packed}) are not supported; give the model without "
            "quantization, or a GGUF file of it"
        )


def _method(stored: object) -> str:
    if not isinstance(stored, Mapping):
        return "quantization_config"
    method, bits = stored.get("quant_method", "quantization_config"), stored.get("bits")
    return f"{method!s:.40}, {bits!s:.10} bits" if bits is not None else f"{method!s:.40}"
