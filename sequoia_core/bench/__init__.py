"""Side-by-side timing of ways to decode: this engine's own and what people would use instead."""

from __future__ import annotations

from dataclasses import dataclass

from sequoia_core.config import Offload, SamplingParams, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.tree.choice import MOST_NODES

COUNT = 6
TOKENS = 128
TEMPERATURES = (0.0, 0.6)
TREE_SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure; models and their formats are as in `load_pair`.

    Attributes:
        peer_draft: a draft for other projects' decoders; None is the pair's own.
        prompts: a file, see `data.prompts`; None is the built-in set.
        count: how many of its prompts.
        tokens: new tokens per prompt.
        temperatures: each is measured on every prompt.
        peers: also time other projects' decoders.
        conditions: also measure with AVX2 alone, with a busy process, and reading a long prompt.
        memory: also measure peak memory, each system in a process of its own.
        tree_sizes: nodes of the fixed trees that are swept over.

    Raises:
        ParameterError: a tree has fewer than two nodes or too many, or a temperature is invalid,
            is given twice or is missing.
    """

    target: str | None = None
    draft: str | None = None
    weights: WeightFormat = WeightFormat.AUTO
    dtype: str = "auto"
    offload: Offload = Offload.NONE
    peer_draft: str | None = None
    prompts: str | None = None
    count: int = COUNT
    tokens: int = TOKENS
    temperatures: tuple[float, ...] = TEMPERATURES
    peers: bool = True
    conditions: bool = True
    memory: bool = True
    tree_sizes: tuple[int, ...] = TREE_SIZES

    def __post_init__(self) -> None:
        if any(not 2 <= size <= MOST_NODES for size in self.tree_sizes):
            raise ParameterError(
                f"a tree of the sweep has 2 to {MOST_NODES} nodes; give sizes in that range"
            )
        for temperature in self.temperatures:
            SamplingParams(temperature)
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ParameterError("give one temperature or more, each once")
