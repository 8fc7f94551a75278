"""Write a trained student as a directory that `load_pair(draft=...)` takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from sequoia_core.distill.student import Student
from sequoia_core.model.loading.blocks import pack_weights

LEFT_OUT = frozenset({
    "quantization_config", "_name_or_path", "transformers_version", "attention_bias", "mlp_bias",
})  # fmt: skip
"""Settings of the target that do not hold for a draft."""


def write_draft(
    directory: Path,
    student: Student,
    settings: Mapping[str, Any],
    blocks: str,
    rates: Mapping[str, tuple[float, ...]],
) -> None:
    """Write `model.safetensors` and `config.json`.

    Most of the target's `config.json`, `settings`, holds for the draft too. `blocks` is the format
    of the matrices, a name of `blocks.FORMATS`; `rates` are positional acceptance rates, by
    `greedy` and `stochastic`, for use before the pair is measured.

    Raises:
        OSError: the disk refuses.
    """
    config = student.config
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in student.tensors().items()}
    save_file(pack_weights(tensors, blocks), directory / "model.safetensors", {"format": "pt"})
    rounded = {kind: [round(rate, 4) for rate in each] for kind, each in rates.items()}
    changed = {
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": False,
        "draft_vocab_size": config.head_vocab_size,
        "embeddings_from": "target",
        "quantization": {"format": blocks},
        "sequoia": {"acceptance_rates": rounded},
    }
    if config.feature_layers:
        changed["feature_layers"] = list(config.feature_layers)
    kept = {name: value for name, value in settings.items() if name not in LEFT_OUT}
    text = json.dumps(kept | changed, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")
