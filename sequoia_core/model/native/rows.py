"""Distributions over rows of logits, computed by the threads of the native models.

Shapes: `n` rows, `V` vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import addressof, byref, c_double, c_float, c_int32
from typing import TYPE_CHECKING

import torch

from sequoia_core.model.interface import LabelledDraws
from sequoia_core.model.native.library import LabelsStruct, LogitsStruct, check, load_library

if TYPE_CHECKING:
    from torch import Tensor

    from sequoia_core.model.native.llama import Pool


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

    def probs(self, logits: Tensor, temperature: float) -> Tensor:
        """Softmax of logits [n, V] at a temperature above 0: float32 [n, V]."""
        probs = torch.empty_like(logits)
        given = _struct(logits, temperature)
        check(
            self._library.sequoia_distributions(self._pool.handle, byref(given), probs.data_ptr())
        )
        return probs

    def ordered_draws(self, probs: Tensor, uniforms: Sequence[float], count: int) -> list[int]:
        """As `sampling.RowReader.ordered_draws`."""
        rows, width = probs.shape
        drawn = (c_int32 * (rows * count))()
        given = (c_double * len(uniforms))(*uniforms)
        check(
            self._library.sequoia_draw_ordered(probs.data_ptr(), rows, width, count, given, drawn)
        )
        return drawn[:]

    def top(self, values: Tensor, count: int) -> Tensor:
        """As `sampling.RowReader.top`."""
        columns = torch.empty((len(values), count), dtype=torch.int32)
        labels = LabelsStruct(
            size=ctypes.sizeof(LabelsStruct), wanted=count, columns=columns.data_ptr()
        )
        given = _struct(values, 1.0)
        check(self._library.sequoia_label(self._pool.handle, byref(given), byref(labels)))
        return columns.long()

    def labelled_draws(
        self, logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], top: int
    ) -> LabelledDraws:
        """As `sampling.RowReader.labelled_draws`."""
        rows = len(logits)
        columns = torch.empty((rows, top), dtype=torch.int32)
        probs = torch.empty((rows, top))
        drawn = (c_int32 * rows)()
        c_temperatures, c_uniforms = (c_float * rows)(*temperatures), (c_double * rows)(*uniforms)
        labels = LabelsStruct(
            size=ctypes.sizeof(LabelsStruct),
            wanted=top,
            temperatures=addressof(c_temperatures),
            uniforms=addressof(c_uniforms),
            columns=columns.data_ptr(),
            probs=probs.data_ptr(),
            drawn=addressof(drawn),
        )
        given = _struct(logits, 1.0)
        check(self._library.sequoia_label(self._pool.handle, byref(given), byref(labels)))
        return LabelledDraws(drawn[:], columns, probs)


def _struct(logits: Tensor, temperature: float) -> LogitsStruct:
    rows, columns = logits.shape
    return LogitsStruct(
        size=ctypes.sizeof(LogitsStruct),
        rows=rows,
        columns=columns,
        inverse_temperature=1.0 / temperature,
        values=logits.data_ptr(),
    )
