"""Random tensors in the block formats of GGUF files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from sequoia_core.model.loading.gguf import GgufWeights

QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
FORMATS = ("F32", "F16", "BF16", *QUANTIZED)
_HALF_FIELDS = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q4_K": (0, 2),
    "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
"""Where the scales of a block lie, in bytes."""


@dataclass(frozen=True)
class Stored:
    """What the `gguf` package's reader says of a tensor."""

    data: Any
    tensor_type: Any
    shape: tuple[int, ...]


def random_blocks(name: str, shape: Sequence[int], seed: int) -> Stored:
    """A matrix of random codes whose values are about as large as a small model's weights."""
    kind = gguf.GGMLQuantizationType[name]
    rows, columns = shape
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    if name in ("F32", "F16", "BF16"):
        exact = rng.normal(0, 0.1, (rows, columns)).astype(np.float32)
        data = gguf.quantize(exact, kind)
        return Stored(data, kind, (columns, rows))
    blocks = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for place in _HALF_FIELDS[name]:
        scales = rng.uniform(0.2, 1.0, len(blocks)) * _scale_of(name)
        signed = scales * rng.choice([-1, 1], len(blocks)) if place == 2 else scales
        blocks[:, place : place + 2] = signed.astype(np.float16).view(np.uint8).reshape(-1, 2)
    return Stored(blocks.reshape(rows, -1), kind, (columns, rows))


def _scale_of(name: str) -> float:
    """A scale that gives values of about 0.1."""
    return {"Q8_0": 2e-3, "Q4_K": 4e-4, "Q5_K": 2e-4, "Q6_K": 1e-4}.get(name, 2e-2)


def gguf_weights(stored: Mapping[str, Stored], heads: Mapping[str, int]) -> GgufWeights:
    """Tensors as a GGUF file gives them, under Hugging Face names."""
    return GgufWeights(dict(stored), dict(heads), Path("random blocks"))


def as_stored(tensor: Tensor) -> Stored:
    """A float32 tensor."""
    data = tensor.numpy()
    return Stored(data, gguf.GGMLQuantizationType.F32, tuple(reversed(data.shape)))


def dequantized(stored: Stored) -> Tensor:
    """Its values by the `gguf` package."""
    return torch.from_numpy(np.array(gguf.dequantize(stored.data, stored.tensor_type)))
