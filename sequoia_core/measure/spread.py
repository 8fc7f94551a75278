"""The median of some figures and their range."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(min(values), median(values), max(values))

    def text(self, digits: int, unit: str = "") -> str:
        """`1.24x (1.10 to 1.40)`."""
        return f"{self.middle:.{digits}f}{unit} ({self.low:.{digits}f} to {self.high:.{digits}f})"
