"""Of a Gemma 3 that reads pictures the text part is loaded, and computes what the whole does."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from tests.core.checkpoints import TINY, edit_settings
from tests.core.models import fresh_logits

IDS = (torch.arange(20) * 31 + 3) % 90


def save(directory: Path) -> torch.Tensor:
    """Write a tiny model; gives its logits of a text."""
    torch.manual_seed(0)
    text = {**TINY, "head_dim": 16, "sliding_window": 8, "eos_token_id": None}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "image_size": 28,
        "num_attention_heads": 2, "patch_size": 14,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config={"model_type": "siglip_vision_model", **vision},
        image_token_index=95, mm_tokens_per_image=4,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(directory)
    with torch.inference_mode():
        logits: torch.Tensor = model(IDS[None]).logits[0]
    return logits


@pytest.mark.parametrize("layout", ["language_model.model.", "model.language_model."])
def test_logits_are_those_of_the_whole(layout: str, tmp_path: Path) -> None:
    """In the layout of the published files and in that of later ones."""
    expected = save(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    named = {}
    for name, tensor in tensors.items():
        for prefix in ("language_model.model.", "model.language_model."):
            name = name.replace(prefix, layout) if name.startswith(prefix) else name
        named[name] = tensor.clone()
    assert any(name.startswith(layout) for name in named)
    assert any("vision_tower" in name for name in named)
    save_file(named, file)
    model = open_directory(tmp_path)
    llama = Llama(model.config, model.weights, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(fresh_logits(llama, IDS), expected, atol=3e-4, rtol=1e-4)


def test_entries_beside_the_text_part_are_checked(tmp_path: Path) -> None:
    save(tmp_path)
    edit_settings(tmp_path, a_new_entry=1)
    with pytest.raises(ModelLoadError, match="a_new_entry is 1"):
        open_directory(tmp_path)
    edit_settings(tmp_path, a_new_entry=None, text_config=None)
    with pytest.raises(ModelLoadError, match="text_config of a gemma3 model is missing"):
        open_directory(tmp_path)
