"""Matrices rounded to fewer bits while they are loaded, by torchao and bitsandbytes."""

import logging
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from sequoia_core.config import Quantize
from sequoia_core.errors import ParameterError
from sequoia_core.model.kv_cache import round_up
from sequoia_core.model.layers import MakeProduct, Product
from sequoia_core.model.loading.memory_plan import FLOAT32

INT4_GROUP, NF4_BLOCK = 128, 64  # columns, and numbers, that share a scale
AMPERE = (8, 0)  # of compute capability: tinygemm's 4-bit kernel needs it

LIBRARIES = {Quantize.INT4: "torchao", Quantize.INT8: "torchao", Quantize.NF4: "bitsandbytes"}
COLUMNS = {Quantize.INT4: INT4_GROUP, Quantize.INT8: 1, Quantize.NF4: 1}
"""Only matrices whose columns are a multiple are rounded."""
INSTALL = "pip install 'sequoia-chat[quantize]'"


def missing_library(kind: Quantize) -> str:
    """The library that a format needs and that is not installed, or ""."""
    name = LIBRARIES[kind]
    return "" if find_spec(name) else name


def rounded_bytes(kind: Quantize, shape: tuple[int, int], value_bytes: int) -> int:
    """What a matrix [out, in] takes in memory, scales included."""
    rows, columns = shape
    if columns % COLUMNS[kind]:
        return rows * columns * value_bytes
    if kind is Quantize.INT8:  # with a scale of each row, and its zero, which is kept too
        return rows * (columns + value_bytes + 1)
    if kind is Quantize.NF4:
        return rows * columns // 2 + -(-rows * columns // NF4_BLOCK) * FLOAT32
    rows, columns = round_up(rows, 8), round_up(columns, 1024)  # tinygemm's tiles
    return rows * columns // 2 + rows * (columns // INT4_GROUP) * 2 * value_bytes


def library_version(kind: Quantize) -> str:
    return f"{LIBRARIES[kind]} {version(LIBRARIES[kind])}"


def quantised_products(
    weights: Mapping[str, Tensor], kind: Quantize, dtype: torch.dtype
) -> MakeProduct:
    """Products whose matrices are rounded on the device that multiplies, one after the other.

    Raises ParameterError if the library is not installed or does not load.
    """
    product = _PRODUCTS[kind](_library(kind))

    def make(names: Sequence[str], device: torch.device) -> Product | None:
        parts = [weights[name].to(device, dtype) for name in names]
        if parts[0].shape[1] % COLUMNS[kind]:
            return None
        return product(parts[0] if len(parts) == 1 else torch.cat(parts))

    return make


def _library(kind: Quantize) -> Any:
    """The module, imported without the warnings that would go to the screen."""
    name = LIBRARIES[kind]
    # its own kernels are not used, and those for other devices fail to load with a warning each
    os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module("torchao.quantization" if name == "torchao" else name)
    except Exception as error:  # a library that does not fit this PyTorch may raise anything
        reason = " ".join(str(error).split())[:200]
        raise ParameterError(f"{name} does not load here ({reason}); {INSTALL}") from None
    finally:
        logging.disable(level)


def _by_torchao(library: Any, config: Any) -> Callable[[Tensor], Product]:
    def make(matrix: Tensor) -> Product:
        rows, columns = matrix.shape
        linear = nn.Linear(columns, rows, bias=False, device="meta")
        linear.weight = nn.Parameter(matrix, requires_grad=False)
        library.quantize_(linear, config)
        return linear

    return make


def _int4(library: Any) -> Callable[[Tensor], Product]:
    tiles = "tile_packed_to_4d"  # the layout of PyTorch's own kernel, tinygemm
    config = library.Int4WeightOnlyConfig(
        group_size=INT4_GROUP, int4_packing_format=tiles, set_inductor_config=False
    )
    return _by_torchao(library, config)


def _int8(library: Any) -> Callable[[Tensor], Product]:
    return _by_torchao(library, library.Int8WeightOnlyConfig(set_inductor_config=False))


def _nf4(library: Any) -> Callable[[Tensor], Product]:
    def make(matrix: Tensor) -> Product:
        packed, state = library.functional.quantize_4bit(
            matrix.contiguous(), blocksize=NF4_BLOCK, compress_statistics=False, quant_type="nf4"
        )
        return lambda x: library.matmul_4bit(x, packed.t(), quant_state=state)

    return make


_PRODUCTS: dict[Quantize, Callable[[Any], Callable[[Tensor], Product]]] = {
    Quantize.INT4: _int4,
    Quantize.INT8: _int8,
    Quantize.NF4: _nf4,
}
