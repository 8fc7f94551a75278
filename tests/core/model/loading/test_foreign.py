"""What is no whole model is named, with what would work, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import load_pair
from tests.core.checkpoints import edit_settings, save_gguf, save_model, tiny_llama, tiny_tokenizer

Folder = Callable[[Path], object]
LLAMA: dict[str, Any] = {**tiny_llama().config.to_dict(), "num_hidden_layers": 1}


def holding(
    tensors: dict[str, torch.Tensor] | None = None,
    file: str = "model.safetensors",
    **settings: Any,
) -> Folder:
    def make(folder: Path) -> None:
        stored = tensors or {"a": torch.ones(2)}
        if file.endswith(".safetensors"):
            save_file(stored, folder / file)
        else:
            torch.save(stored, folder / file)
        (folder / "config.json").write_text(json.dumps(settings))

    return make


def files(*names: str) -> Folder:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).write_text("{}")

    return make


def both(*makers: Folder) -> Folder:
    def make(folder: Path) -> None:
        for maker in makers:
            maker(folder)

    return make


def two_ggufs(folder: Path) -> None:
    for name in ("b.Q8_0.gguf", "a.Q4_K_M.gguf"):
        save_gguf(folder / name, tiny_llama())


def tensors(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.ones(2, 2) for name in names}


EAGLE = tensors("fc.weight", "embed_tokens.weight", "layers.0.mlp.up_proj.weight")
EAGLE3 = tensors("fc.weight", "midlayer.mlp.up_proj.weight", "d2t", "t2d", "norm.weight")
FOREIGN: dict[str, tuple[Folder, str]] = {
    "EAGLE": (holding(EAGLE, **LLAMA), "an EAGLE head"),
    "EAGLE, pickled": (holding(EAGLE, "pytorch_model.bin", **LLAMA), "an EAGLE head"),
    "EAGLE of vLLM": (
        holding(EAGLE, **{**LLAMA, "architectures": ["EagleLlamaForCausalLM"]}),
        "an EAGLE head",
    ),
    "EAGLE-3 by its tensors alone": (
        holding(EAGLE3, **LLAMA, draft_vocab_size=9),
        'an EAGLE-3 draft, but its config.json does not say so; write "architectures"',
    ),
    "EAGLE-3 of another family": (
        holding(**{**LLAMA, "architectures": ["Eagle3DeepseekV2ForCausalLM"]}),
        "an EAGLE-3 draft of another kind than Llama's",
    ),
    "EAGLE of speculators": (
        holding(architectures=["EagleSpeculator"], speculators_model_type="eagle"),
        "an EAGLE head (EAGLE-1 or 2, or HASS)",
    ),
    "P-EAGLE": (
        holding(architectures=["Eagle3Speculator"], speculators_model_type="peagle"),
        "a P-EAGLE head",
    ),
    "MTP": (
        holding(architectures=["MTPSpeculator"], speculators_model_type="mtp"),
        "a head for several tokens (MTP)",
    ),
    "DFlash": (
        holding(**{**LLAMA, "architectures": ["DFlashDraftModel"]}),
        "a DFlash head",
    ),
    "EAGLE-3 in 4 bits": (
        holding(
            **{**LLAMA, "architectures": ["LlamaForCausalLMEagle3"]},
            quantization_config={"quant_method": "awq", "bits": 4},
        ),
        "a quantized EAGLE-3 draft; give it without quantization",
    ),
    "EAGLE-3 of speculators in 4 bits": (
        holding(
            speculators_model_type="eagle3",
            transformer_layer_config={**LLAMA, "quantization_config": {"quant_method": "awq"}},
        ),
        "a quantized EAGLE-3 draft; give it without quantization",
    ),
    "Medusa": (
        holding(file="medusa_lm_head.safetensors", medusa_num_heads=3, medusa_num_layers=1),
        "Medusa heads",
    ),
    "Medusa, pickled": (files("config.json", "medusa_lm_head.pt"), "Medusa heads"),
    "Medusa by its tensors": (
        holding(tensors("0.0.linear.weight", "0.1.weight"), **LLAMA),
        "Medusa heads",
    ),
    "Hydra": (holding(hydra_num_heads=4), "Hydra heads"),
    "an MLP speculator": (holding(model_type="mlp_speculator"), "an MLP speculator"),
    "a LoRA adapter": (
        files("adapter_config.json", "adapter_model.safetensors"),
        "a LoRA or other PEFT adapter, not a whole model; merge it",
    ),
    "a LoRA adapter with a model": (
        both(save_model, files("adapter_config.json")),
        "a LoRA or other PEFT adapter",
    ),
    "LoRA by its tensors": (
        holding(tensors("model.layers.0.self_attn.q_proj.lora_A.weight"), **LLAMA),
        "a LoRA adapter",
    ),
    "only GGUF files": (two_ggufs, "give the file itself: a.Q4_K_M.gguf, b.Q8_0.gguf"),
    "GGUF files and a config": (
        both(two_ggufs, files("config.json")),
        "give the file itself: a.Q4_K_M.gguf",
    ),
    "only a tokenizer": (
        lambda folder: tiny_tokenizer().save_pretrained(folder),
        "only a tokenizer, without a model; give a whole model",
    ),
    "nothing": (lambda folder: None, "no weights; give a whole model"),
    "ONNX": (files("config.json", "model.onnx"), "an ONNX model, not readable here"),
    "OpenVINO": (files("config.json", "openvino_model.xml"), "an OpenVINO model"),
    "Flax": (files("config.json", "flax_model.msgpack"), "a Flax model"),
    "Meta's files": (files("params.json", "consolidated.00.pth"), "Meta's original files"),
    "another PyTorch file": (files("config.json", "weights.pt"), "PyTorch files of another"),
    "old MLX": (files("config.json", "weights.00.npz"), "an MLX model"),
    "MLX in 4 bits": (
        holding(**LLAMA, quantization={"group_size": 64, "bits": 4}),
        "an MLX model with quantized weights",
    ),
    "AQLM": (
        holding(**LLAMA, quantization_config={"quant_method": "aqlm", "bits": 2}),
        r"quantized weights (aqlm, 2 bits) are not supported; give the model without",
    ),
    "FP8": (
        holding(**LLAMA, quantization_config={"quant_method": "fp8"}),
        "quantized weights (fp8) are not supported",
    ),
    "GPTQ without a config": (
        holding(tensors("model.layers.0.mlp.up_proj.qweight"), **LLAMA),
        "quantized weights (model.layers.0.mlp.up_proj.qweight) are not supported",
    ),
    "another architecture": (
        holding(model_type="mixtral"),
        "model_type is 'mixtral'; only these are supported: llama, mistral,",
    ),
    "a classifier": (
        holding(**{**LLAMA, "architectures": ["LlamaForSequenceClassification"]}),
        "architectures is ['LlamaForSequenceClassification']; only LlamaForCausalLM",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_it_is_said_what_it_is_and_what_would_work(name: str, tmp_path: Path) -> None:
    make, message = FOREIGN[name]
    make(tmp_path)
    with pytest.raises(ModelLoadError) as caught:
        open_directory(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["EAGLE", "a LoRA adapter", "only GGUF files"])
def test_a_draft_is_named_as_a_target_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    save_model(tmp_path / "target", tiny_tokenizer())
    make, message = FOREIGN[name]
    make(tmp_path / "draft")
    with pytest.raises(ModelLoadError) as caught:
        load_pair(str(tmp_path / "target"), str(tmp_path / "draft"))
    assert message in str(caught.value)


@pytest.mark.parametrize("names", [None, [], ["LlamaForCausalLM"], ["LLaMAForCausalLM"]])
def test_a_llama_is_not_foreign(names: list[str] | None, tmp_path: Path) -> None:
    save_model(tmp_path)
    edit_settings(tmp_path, architectures=names)
    (tmp_path / "model.Q8_0.gguf").write_bytes(b"not read")
    (tmp_path / "model.onnx").write_bytes(b"not read")
    open_directory(tmp_path)
