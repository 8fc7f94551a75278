"""One layer's matrices in one buffer.

Owns their order and places: those that read the same input lie side by side, so that one product
reads them as one matrix. It knows nothing of where they come from or when.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.llama import PRODUCTS
from sequoia_core.model.loading.weights import expected_shapes

ALIGNMENT = 64
"""Bytes: PyTorch's own on CPUs, so that kernels take the same path as over a tensor of its."""


@dataclass(frozen=True)
class LayerLayout:
    """Where a layer's matrices lie; the same for every layer of a model.

    Attributes:
        config: of the model.
        dtype: of the matrices in the buffer.
    """

    config: ModelConfig
    dtype: torch.dtype

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one layer."""
        return self._spans[-1][1]

    def products(self, buffer: Tensor) -> dict[str, Tensor]:
        """Views of a buffer, uint8 [nbytes], by kind of product: [out, in]."""
        return {
            kind: buffer[first:last].view(self.dtype).view(-1, self._shape(names[0])[1])
            for (kind, names), (first, last) in zip(PRODUCTS.items(), self._spans, strict=True)
        }

    def matrices(self, buffer: Tensor, layer: int) -> Iterator[tuple[str, Tensor]]:
        """Name in the model's files and place in a buffer of every matrix of a layer."""
        for kind, view in self.products(buffer).items():
            rows = [self._shape(name)[0] for name in PRODUCTS[kind]]
            for name, part in zip(PRODUCTS[kind], torch.split(view, rows), strict=True):
                yield _stored_name(layer, name), part

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """First byte, and the one after the last, of each product."""
        spans, start = [], 0
        for names in PRODUCTS.values():
            rows = sum(self._shape(name)[0] for name in names)
            end = start + rows * self._shape(names[0])[1] * self.dtype.itemsize
            spans.append((start, end))
            start = -(-end // ALIGNMENT) * ALIGNMENT
        return spans

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[_stored_name(0, name)]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return expected_shapes(self.config)


def _stored_name(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}.weight"
