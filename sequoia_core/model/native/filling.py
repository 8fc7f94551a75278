"""Creating a model in the native library: its shape, matrices, biases and norms."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_float, c_int32

from torch import Tensor

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.layers import inverse_frequencies
from sequoia_core.model.malloc_trim import release_file_pages
from sequoia_core.model.native.library import ModelShapeStruct, check, load_library
from sequoia_core.model.native.matrices import LAYER_PARTS, PlacedMatrix
from sequoia_core.model.weight_shapes import (
    ATTENTION_NORM,
    FINAL_NORM,
    INPUT_SCALE,
    INPUT_SHIFT,
    MLP_NORM,
    layer_name,
)

FILL_ROWS = 4096
"""Rows of a file that lie in memory at once while they are copied."""

VECTORS = (ATTENTION_NORM, MLP_NORM, FINAL_NORM, INPUT_SHIFT, INPUT_SCALE)
"""In the order of `Vector` in model.hpp."""


def shape_struct(
    config: ModelConfig, kept_layers: Sequence[int], *, half_cache: bool
) -> ModelShapeStruct:
    """A model's shape for the library; the outputs of `kept_layers` are kept in its caches."""
    frequencies = inverse_frequencies(config) / config.rope_factor
    return ModelShapeStruct(
        size=ctypes.sizeof(ModelShapeStruct),
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size,
        vocab=config.vocab_size,
        head_rows=config.head_vocab_size,
        norm_epsilon=config.rms_norm_eps,
        half_cache=int(half_cache),
        feature_count=len(kept_layers),
        feature_layers=(c_int32 * len(kept_layers))(*kept_layers),
        target_features=len(config.feature_layers),
        inverse_frequencies=(c_float * len(frequencies))(*frequencies.tolist()),
    )


def fill_matrices(model: int, matrices: Sequence[PlacedMatrix]) -> None:
    """Copy matrices into a model, given by its handle.

    Raises:
        ModelLoadError: the library refuses one.
    """
    library = load_library()
    for each in matrices:
        place, matrix = (model, each.layer, each.part), each.matrix
        check(library.sequoia_model_declare(*place, matrix.file_format, *matrix.shape))
    check(library.sequoia_model_allocate(model))
    for each in matrices:
        place, matrix = (model, each.layer, each.part), each.matrix
        data, rotary = matrix.data(), int(matrix.interleaved_rotary)
        assert len(data) == matrix.shape[0]
        for first in range(0, len(data), FILL_ROWS):
            block = data[first : first + FILL_ROWS]
            size = (block.ctypes.data, block.shape[1])
            check(library.sequoia_model_fill(*place, first, len(block), *size, rotary))
            release_file_pages(data)
        if (scales := matrix.row_scales) is not None:
            check(library.sequoia_model_set_scale(*place, scales.ctypes.data, len(scales)))


def fill_vectors(model: int, config: ModelConfig, weights: Mapping[str, Tensor]) -> None:
    """Copy biases and norms into a model; biases are in the order of Hugging Face's files."""
    library = load_library()

    def fill(layer: int, name: str, tensor: str) -> None:
        flat = weights[tensor].float().contiguous()
        place, size = (model, layer, VECTORS.index(name)), (flat.data_ptr(), flat.numel())
        check(library.sequoia_model_set_vector(*place, *size))

    for layer in range(config.num_layers):
        for part, module in enumerate(LAYER_PARTS):
            if config.has_bias(module):
                flat = weights[layer_name(layer, f"{module}.bias")].float().contiguous()
                size = (flat.data_ptr(), flat.numel())
                check(library.sequoia_model_set_bias(model, layer, part, *size, 0))
        for name in (ATTENTION_NORM, MLP_NORM):
            fill(layer, name, layer_name(layer, name))
    for name in (FINAL_NORM, *((INPUT_SHIFT, INPUT_SCALE) if config.feature_layers else ())):
        fill(0, name, name)
