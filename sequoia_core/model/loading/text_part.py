"""The text part of a Gemma 3 that reads pictures as well; the rest is not loaded."""

from typing import Any

import torch
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.weights import StoredMatrix, Weights

OF_PICTURES = (
    "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index",
    "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id",
)  # fmt: skip
"""Entries next to `text_config` that say nothing about text."""

_UNREAD = (
    "vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."
)  # fmt: skip
_PREFIXES = {"language_model.": "", "model.language_model.": "model."}


def text_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What a `config.json` of the text part alone would say; others as they are.

    Raises ModelLoadError if it says nothing about text.
    """
    if settings.get("model_type") != "gemma3":
        return settings
    text = settings.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") not in (None, "gemma3_text"):
        raise ModelLoadError("config: text_config of a gemma3 model is missing or of another model")
    left_out = {"text_config", "model_type", "architectures", *OF_PICTURES}
    others = {name: value for name, value in settings.items() if name not in left_out}
    return {
        **text, **others, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"],
    }  # fmt: skip


class TextWeights(Weights):
    """The tensors of the text part, by the names that a text model has."""

    def __init__(self, file: Weights) -> None:
        names = {_renamed(name): name for name in file if not name.startswith(_UNREAD)}
        super().__init__(names, file.origin, file.files)
        self._file = file

    def __getitem__(self, name: str) -> Tensor:
        return self._file[self._entries[name]]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._entries[name])

    def dtype(self, name: str) -> torch.dtype | None:
        return self._file.dtype(self._entries[name])

    def stored(self, name: str) -> StoredMatrix:
        return self._file.stored(self._entries[name])


def text_weights(file: Weights) -> Weights:
    """Those of the text part where there are others."""
    return TextWeights(file) if any(name.startswith(tuple(_PREFIXES)) for name in file) else file


def _renamed(name: str) -> str:
    for prefix, instead in _PREFIXES.items():
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return name
