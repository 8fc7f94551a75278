"""What reads rows of logits in place of PyTorch, once a native model is loaded."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from sequoia_core.model.interface import LabelledDraws


class RowReader(Protocol):
    """Reads rows of numbers on the CPU in place of PyTorch's operations."""

    def takes(self, logits: Tensor) -> bool:
        """Whether it reads this tensor."""
        ...

    def probs(self, logits: Tensor, temperature: float) -> Tensor:
        """As `full_probs`, for a temperature above 0."""
        ...

    def top(self, values: Tensor, count: int) -> Tensor:
        """Columns of the largest values of each row [n, V], in order: int64 [n, count]."""
        ...

    def ordered_draws(self, probs: Tensor, uniforms: Sequence[float], count: int) -> list[int]:
        """Draw `count` tokens of each row [n, V] without replacement, in order.

        Args:
            probs: float32 [n, V].
            uniforms: in [0, 1), n x count.
            count: at most V.

        Returns:
            columns, row by row; -1 where a probability of the row is not a number.
        """
        ...

    def labelled_draws(
        self, logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], top: int
    ) -> LabelledDraws:
        """As the function of this name; a token is -1 where a logit of the row is not a number."""
        ...


_reader: RowReader | None = None


def read_rows_with(reader: RowReader) -> None:
    """Let `reader` read what it takes, in this process, from now on."""
    global _reader  # as process-wide as the threads that it computes with
    _reader = reader


def reader_of(logits: Tensor) -> RowReader | None:
    """What reads these logits [n, V] in place of PyTorch, if anything."""
    return _reader if _reader is not None and _reader.takes(logits) else None
