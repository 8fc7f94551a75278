"""A tiny pair and texts for the experiments of the published release."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sequoia_core.model.loading.pair import Pair, load_pair
from tests.core.checkpoints import save_model, tiny_tokenizer

PROMPTS = ((3, 20, 41, 17), (9, 9, 33), (50, 4, 61, 8, 12))
WINDOW = 300


def save_pair(folder: Path) -> tuple[str, str]:
    """Write a target and a draft that often agrees with it, the same but for its head."""
    wide = {"max_position_embeddings": WINDOW, "eos_token_id": None}
    for name in ("target", "draft"):
        save_model(folder / name, tiny_tokenizer(), **wide)
    file = folder / "draft" / "model.safetensors"
    tensors = load_file(file)
    head = tensors["lm_head.weight"]
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(1))
    tensors["lm_head.weight"] = head + 0.1 * noise
    save_file(tensors, file, {"format": "pt"})
    return str(folder / "target"), str(folder / "draft")


def load_tiny(folder: Path, draft: bool = True) -> Pair:
    """Load what `save_pair` wrote, in float32."""
    models = str(folder / "target"), str(folder / "draft") if draft else None
    return load_pair(*models, dtype="float32", device="cpu")


def save_small_pair(folder: Path, window: int = WINDOW) -> tuple[str, str]:
    """Write a target of two layers and a draft of one, which agree by chance only."""
    for name, layers in (("target", 2), ("draft", 1)):
        save_model(
            folder / name, tiny_tokenizer(), num_hidden_layers=layers,
            max_position_embeddings=window, eos_token_id=None,
        )  # fmt: skip
    return str(folder / "target"), str(folder / "draft")


def save_texts(folder: Path, rows: int = 3) -> Path:
    """Write texts of 140 characters, each of which is a token."""
    letters = ["".join(chr(65 + (7 * at + row) % 26) for at in range(140)) for row in range(rows)]
    path = folder / "texts.txt"
    path.write_text("\n".join(letters) + "\n")
    return path


def quiet(_message: str, _fraction: float | None) -> None:
    """Ignores progress."""
