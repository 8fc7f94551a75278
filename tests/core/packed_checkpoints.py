"""Checkpoints of AWQ, GPTQ and compressed-tensors, packed number by number as they are described.

Their matrices are made of random codes, so that the dense model next to them has the same weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from .checkpoints import edit_settings, save_model

SHAPE = {"hidden_size": 64, "intermediate_size": 96}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Codes:
    """A matrix [out, in]: `(codes - zeros) * scales`, both of each column's group."""

    codes: np.ndarray[Any, Any]
    zeros: np.ndarray[Any, Any]  # [out, groups]
    scales: Tensor  # [out, groups]
    groups: np.ndarray[Any, Any]  # [in]

    @property
    def dense(self) -> Tensor:
        """float32 [out, in]."""
        centred = torch.from_numpy((self.codes - self.zeros[:, self.groups]).astype(np.float32))
        return centred * self.scales.float()[:, torch.from_numpy(self.groups)]


@dataclass(frozen=True)
class Style:
    """How a checkpoint is written: `quantization_config`, and what its matrices are made of."""

    method: str
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    reordered: bool = False
    second: bool = False  # GPTQ's second format, whose zeros are as they are
    dtype: torch.dtype = torch.float16  # of the scales

    @property
    def stated(self) -> dict[str, Any]:
        if self.method == "awq":
            return {
                "quant_method": "awq", "bits": 4, "group_size": self.group_size,
                "zero_point": True, "version": "gemm", "modules_to_not_convert": None,
            }  # fmt: skip
        if self.method == "gptq":
            return {
                "quant_method": "gptq", "bits": self.bits, "group_size": self.group_size,
                "desc_act": self.reordered, "sym": self.symmetric, "damp_percent": 0.1,
                "checkpoint_format": "gptq_v2" if self.second else "gptq", "lm_head": False,
            }  # fmt: skip
        scheme = {
            "num_bits": self.bits, "type": "int", "symmetric": self.symmetric, "dynamic": False,
            "strategy": "channel" if self.group_size == -1 else "group",
            "group_size": None if self.group_size == -1 else self.group_size,
            "actorder": "group" if self.reordered else None, "observer": "minmax",
        }  # fmt: skip
        group = {"targets": ["Linear"], "weights": scheme, "input_activations": None}
        return {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "quantization_status": "compressed",
        }  # fmt: skip


def packed_words(numbers: np.ndarray[Any, Any], bits: int) -> Tensor:
    """int32 [n, m / (32 / bits)] of [n, m]: the first of each row's numbers is the lowest."""
    per_word = 32 // bits
    words = np.zeros((len(numbers), -(-numbers.shape[1] // per_word)), dtype=np.uint32)
    for column in range(numbers.shape[1]):
        place = bits * (column % per_word)
        words[:, column // per_word] |= numbers[:, column].astype(np.uint32) << np.uint32(place)
    return torch.from_numpy(words.view(np.int32))


def random_codes(style: Style, rows: int, columns: int, rng: np.random.Generator) -> Codes:
    size = columns if style.group_size == -1 else style.group_size
    count, most = columns // size, 2**style.bits
    middle = np.full((rows, count), most // 2)
    groups = np.arange(columns) // size
    return Codes(
        codes=rng.integers(0, most, (rows, columns)),
        zeros=middle if style.symmetric else rng.integers(0, most, (rows, count)),
        scales=torch.from_numpy(rng.uniform(0.5, 1.5, (rows, count))).to(style.dtype) * 0.4 / most,
        groups=rng.permutation(groups) if style.reordered else groups,
    )


def tensors(style: Style, made: Codes) -> Iterator[tuple[str, Tensor]]:
    """A matrix's tensors, by the last part of their names."""
    codes, zeros, scales = made.codes, made.zeros, made.scales
    if style.method == "awq":
        inputs = np.arange(codes.shape[0]).reshape(-1, 8)[:, AWQ_ORDER].ravel()
        yield "qweight", packed_words(codes.T[:, inputs], 4)
        yield "qzeros", packed_words(zeros.T[:, inputs], 4)
        yield "scales", scales.T.contiguous()
    elif style.method == "gptq":
        stored = zeros if style.second else (zeros - 1) % 2**style.bits
        yield "qweight", packed_words(codes, style.bits).T.contiguous()
        yield "qzeros", packed_words(stored.T, style.bits)
        yield "scales", scales.T.contiguous()
        yield "g_idx", torch.from_numpy(made.groups.astype(np.int32))
    else:
        yield "weight_packed", packed_words(codes, style.bits)
        yield "weight_scale", scales
        yield "weight_shape", torch.tensor(codes.shape)
        if not style.symmetric:
            yield "weight_zero_point", packed_words(zeros.T, style.bits).T.contiguous()
        if style.reordered:
            yield "weight_g_idx", torch.from_numpy(made.groups.astype(np.int32))


def save_packed(
    directory: Path, style: Style, tokenizer: PreTrainedTokenizerFast | None = None, **changes: Any
) -> LlamaForCausalLM:
    """Write a packed checkpoint, and return the model in float32 with its weights."""
    model = save_model(directory, tokenizer, **{**SHAPE, **changes})
    pack(directory, style, model)
    return model


def pack(directory: Path, style: Style, model: PreTrainedModel) -> None:
    """Give a model, and the folder that it is written to, matrices of random codes."""
    rng = np.random.default_rng(0)
    file = directory / "model.safetensors"
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(file).items():
        if "_proj.weight" not in name:
            stored[name] = tensor
            continue
        rows, columns = tensor.shape
        made = random_codes(style, rows, columns, rng)
        module = name.removesuffix("weight")
        stored |= {f"{module}{end}": part for end, part in tensors(style, made)}
        with torch.no_grad():
            model.get_parameter(name).copy_(made.dense)
    save_file(stored, file, {"format": "pt"})
    edit_settings(directory, quantization_config=style.stated)
