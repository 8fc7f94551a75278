"""Side-by-side timing of ways to decode: this engine's own and what people would use instead."""

from __future__ import annotations

from dataclasses import dataclass

from sequoia_core.config import GraphChoice, Offload, Quantize, SamplingParams, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.tree.choice import MOST_NODES

COUNT = 6
TOKENS = 128
TEMPERATURES = (0.0, 0.6)
TREE_SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure; models and their formats are as in `load_pair`.

    Raises ParameterError if a temperature or a tree size is out of range, or a temperature is given
    twice or missing.
    """

    target: str | None = None
    draft: str | None = None
    weights: WeightFormat = WeightFormat.AUTO
    dtype: str = "auto"
    offload: Offload = Offload.NONE
    graphs: GraphChoice = GraphChoice.AUTO
    tensor_parallel: int = 1
    quantize: Quantize = Quantize.NONE
    context_window: int | None = None
    peer_draft: str | None = None  # for other projects' decoders; None is the pair's own
    prompts: str | None = None  # a file, see `data.prompts`; None is the built-in set
    count: int = COUNT
    tokens: int = TOKENS  # new ones per prompt
    temperatures: tuple[float, ...] = TEMPERATURES
    peers: bool = True
    conditions: bool = True  # also AVX2 alone, a busy process and a long prompt
    memory: bool = True
    tree_sizes: tuple[int, ...] = TREE_SIZES  # nodes of the fixed trees that are swept over

    def __post_init__(self) -> None:
        if any(not 2 <= size <= MOST_NODES for size in self.tree_sizes):
            raise ParameterError(
                f"a tree of the sweep has 2 to {MOST_NODES} nodes; give sizes in that range"
            )
        for temperature in self.temperatures:
            SamplingParams(temperature)
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ParameterError("give one temperature or more, each once")
