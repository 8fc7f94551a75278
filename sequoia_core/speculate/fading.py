"""A ratio of two sums in which older observations count less."""


class FadingRatio:
    """A ratio with exponential weights: each observation scales earlier ones by 1 - 1 / memory."""

    __slots__ = ("_keep", "part", "whole")

    def __init__(self, memory: int, part: float = 0.0, whole: float = 0.0) -> None:
        self._keep = 1.0 - 1.0 / memory
        self.part, self.whole = part, whole

    def add(self, part: float, whole: float = 1.0) -> None:
        self.part = self.part * self._keep + part
        self.whole = self.whole * self._keep + whole

    def estimate(self, belief: float, weight: float) -> float:
        """The ratio, where a belief counts as so many observations."""
        return (self.part + weight * belief) / (self.whole + weight)
