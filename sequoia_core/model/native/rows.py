"""Distributions and draws from rows of logits, computed by the native library."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, byref, c_double, c_float, c_int32
from typing import TYPE_CHECKING, Any

import torch

from sequoia_core.model.interface import LabelledDraws
from sequoia_core.model.native.library import LabelsStruct, LogitsStruct, call

if TYPE_CHECKING:
    from torch import Tensor

    from sequoia_core.model.native.library import Pool


class NativeRows:
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def probs(self, logits: Tensor, temperature: float) -> Tensor:
        """As `full_probs`, for a temperature above 0: float32 [n, V]."""
        probs = torch.empty_like(logits)
        rows = byref(_struct(logits, temperature))
        call("distributions", self._pool.handle, rows, probs.data_ptr())
        return probs

    def ordered_draws(self, probs: Tensor, uniforms: Sequence[float], count: int) -> list[int]:
        """Draw `count` tokens of each row [n, V] without replacement, in order.

        `uniforms` are n x count in [0, 1). Gives columns, row by row; -1 where a probability of
        the row is not a number.
        """
        rows, width = probs.shape
        drawn = (c_int32 * (rows * count))()
        given = (c_double * len(uniforms))(*uniforms)
        call("draw_ordered", probs.data_ptr(), rows, width, count, given, drawn)
        return drawn[:]

    def top(self, values: Tensor, count: int) -> Tensor:
        """Columns of the largest values of each row [n, V], in order: int64 [n, count]."""
        columns = torch.empty((len(values), count), dtype=torch.int32)
        self._label(values, wanted=count, columns=columns.data_ptr())
        return columns.long()

    def labelled_draws(
        self, logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], top: int
    ) -> LabelledDraws:
        """As `sampling.labelled_draws`; a token is -1 where a logit of the row is not a number."""
        rows = len(logits)
        columns = torch.empty((rows, top), dtype=torch.int32)
        probs = torch.empty((rows, top))
        drawn = (c_int32 * rows)()
        c_temperatures, c_uniforms = (c_float * rows)(*temperatures), (c_double * rows)(*uniforms)
        self._label(
            logits,
            wanted=top,
            temperatures=addressof(c_temperatures),
            uniforms=addressof(c_uniforms),
            columns=columns.data_ptr(),
            probs=probs.data_ptr(),
            drawn=addressof(drawn),
        )
        return LabelledDraws(drawn[:], columns, probs)

    def _label(self, logits: Tensor, **given: Any) -> None:
        labels = LabelsStruct(**given)
        rows = byref(_struct(logits, 1.0))
        call("label", self._pool.handle, rows, byref(labels))


def _struct(logits: Tensor, temperature: float) -> LogitsStruct:
    rows, columns = logits.shape
    values, inverse = logits.data_ptr(), 1.0 / temperature
    return LogitsStruct(rows=rows, columns=columns, inverse_temperature=inverse, values=values)


_reader: NativeRows | None = None


def read_rows_with(reader: NativeRows) -> None:
    global _reader  # as process-wide as the threads that it computes with
    _reader = reader


def reader_of(logits: Tensor) -> NativeRows | None:
    """What reads these logits [n, V] in place of PyTorch; None for PyTorch."""
    readable = (
        logits.device.type == "cpu"
        and logits.dtype == torch.float32
        and logits.dim() == 2
        and logits.numel() > 0
        and logits.is_contiguous()
    )
    return _reader if readable else None
