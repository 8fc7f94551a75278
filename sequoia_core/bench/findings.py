"""Results of a benchmark, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sequoia_core.bench.comparison import SpeedComparison
from sequoia_core.bench.conditions import PREFILL_TOKENS
from sequoia_core.events import PairDescription
from sequoia_core.measure.spread import Spread


@dataclass(frozen=True, slots=True)
class Conditions:
    """Comparisons of reading a long prompt, with a busy process, and with AVX2 alone.

    None where one was not made.
    """

    prefill: SpeedComparison | None = None
    busy: SpeedComparison | None = None
    avx2: SpeedComparison | None = None
    prefill_tokens: int = PREFILL_TOKENS


@dataclass(frozen=True, slots=True)
class BenchFindings:
    """All results of a benchmark.

    Attributes:
        tuned: what the measured machine predicted before anything was compared, one line.
        comparisons: one for each way of sampling; plain decoding is the first system.
        sweeps: for each comparison the speed by nodes of a fixed tree; 1 is plain decoding.
        divergences: where greedy texts diverge from plain decoding's, one line a system.
        absent: why a system, or its memory, was not measured, by name.
        memory: bytes at the peak by system; empty where it was not measured.
        weights: bytes of both models' weights in bfloat16.
        peer_dtype: number format of Hugging Face's models and PyTorch's forward.
        interrupted: the benchmark was stopped, so that parts are missing.
        chat_memory: bytes of the whole chat with its screen, once it has measured the machine;
            None where that was not measured.
    """

    pair: PairDescription
    tuned: str
    threads: int
    comparisons: tuple[SpeedComparison, ...]
    sweeps: tuple[Mapping[int, Spread], ...]
    divergences: tuple[str, ...]
    absent: Mapping[str, str]
    memory: Mapping[str, int]
    weights: int
    conditions: Conditions = Conditions()
    peer_dtype: str = ""
    interrupted: bool = False
    chat_memory: int | None = None
