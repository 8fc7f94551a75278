"""Distributions over rows of logits, computed by the threads of the native models.

Shapes: `n` rows, `V` vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import byref, c_double, c_float, c_int32, c_int64
from typing import TYPE_CHECKING

import torch

from sequoia_core.model.native.library import LogitsStruct, check, load_library

if TYPE_CHECKING:
    from torch import Tensor

    from sequoia_core.model.native.llama import Pool
    from sequoia_core.sampling import Summary


class NativeRows:
    """Reads logits that lie on the CPU.

    Args:
        pool: threads to compute with.
    """

    def __init__(self, pool: Pool) -> None:
        self._library, self._pool = load_library(), pool

    def takes(self, logits: Tensor) -> bool:
        """Whether the library reads this tensor: float32 rows on the CPU, one after another."""
        return (
            logits.device.type == "cpu"
            and logits.dtype == torch.float32
            and logits.dim() == 2
            and logits.numel() > 0
            and logits.is_contiguous()
        )

    def summarize(
        self, logits: Tensor, temperature: float, parents: Sequence[int], tokens: Sequence[int]
    ) -> Summary:
        """As `sampling.summarize`, already on the host."""
        rows = logits.shape[0]
        found = (c_double * (3 * rows))()
        numbers = c_int64 * rows
        check(
            self._library.sequoia_summarize(
                self._pool.handle,
                byref(_struct(logits, temperature)),
                numbers(*parents),
                numbers(*tokens),
                found,
            )
        )
        return [int(each) for each in found[::3]], found[1::3], found[2::3]

    def probs(self, logits: Tensor, temperature: float) -> Tensor:
        """Softmax of logits [n, V] at a temperature above 0: float32 [n, V]."""
        probs = torch.empty_like(logits)
        given = _struct(logits, temperature)
        check(
            self._library.sequoia_distributions(self._pool.handle, byref(given), probs.data_ptr())
        )
        return probs

    def top(self, logits: Tensor, count: int) -> tuple[list[int], list[float]]:
        """The `count` most probable tokens of each row, falling, and their probabilities."""
        size = logits.shape[0] * count
        columns, probs = (c_int32 * size)(), (c_float * size)()
        given = _struct(logits, 1.0)
        check(self._library.sequoia_top(self._pool.handle, byref(given), count, columns, probs))
        return columns[:], probs[:]

    def ordered_draws(
        self, probs: Tensor, uniforms: Tensor, count: int
    ) -> tuple[list[int], list[float], list[float]]:
        """Draw `count` tokens of each row without replacement, in order.

        Args:
            probs: float32 [n, V].
            uniforms: float64 [n, count] in [0, 1).
            count: at most V.

        Returns:
            columns and their probabilities, row by row, and the largest probability of each row.
        """
        rows, width = probs.shape
        size = rows * count
        drawn, picked, peaks = (c_int32 * size)(), (c_float * size)(), (c_float * rows)()
        check(
            self._library.sequoia_draw_ordered(
                probs.data_ptr(), rows, width, count, uniforms.data_ptr(), drawn, picked, peaks
            )
        )
        return drawn[:], picked[:], peaks[:]


def _struct(logits: Tensor, temperature: float) -> LogitsStruct:
    rows, columns = logits.shape
    return LogitsStruct(
        size=ctypes.sizeof(LogitsStruct),
        rows=rows,
        columns=columns,
        inverse_temperature=1.0 / temperature,
        values=logits.data_ptr(),
    )
