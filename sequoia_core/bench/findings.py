"""What a benchmark has found, as plain values; words for it are `document`'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sequoia_core.bench.conditions import PREFILL_TOKENS
from sequoia_core.bench.runner import Comparison
from sequoia_core.events import PairDescription
from sequoia_core.measure.spread import Spread


@dataclass(frozen=True, slots=True)
class Conditions:
    """Comparisons under particular conditions; None where one was not made.

    Attributes:
        prefill: of systems that read a prompt of `prefill_tokens`.
        busy: of systems with and without a busy process.
        avx2: of plain decoding with AVX2 alone.
        prefill_tokens: length of the prompt.
    """

    prefill: Comparison | None = None
    busy: Comparison | None = None
    avx2: Comparison | None = None
    prefill_tokens: int = PREFILL_TOKENS


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything a benchmark has found.

    Attributes:
        pair: what was decoded with.
        tuned: what the machine's figures predicted before anything was compared, one line.
        threads: of every system.
        comparisons: one for each way of sampling; plain decoding is the first system.
        sweeps: for each of them speed by a fixed tree's nodes, 1 being plain decoding; without
            another entry where no sizes were asked for.
        partings: where greedy texts part from plain decoding's, one line a system.
        absent: why a system, or its memory, was not measured, by name.
        memory: bytes at the peak by system; empty where it was not measured.
        weights: bytes of both models' weights in bfloat16.
        conditions: what was measured under particular conditions.
        peer_dtype: number format that Hugging Face's models and PyTorch's forward compute in.
        interrupted: somebody stopped it, so that parts are missing.
        chat_memory: bytes of the whole chat, its screen included, once it has measured the
            machine; None where that was not asked for.
    """

    pair: PairDescription
    tuned: str
    threads: int
    comparisons: tuple[Comparison, ...]
    sweeps: tuple[Mapping[int, Spread], ...]
    partings: tuple[str, ...]
    absent: Mapping[str, str]
    memory: Mapping[str, int]
    weights: int
    conditions: Conditions = Conditions()
    peer_dtype: str = ""
    interrupted: bool = False
    chat_memory: int | None = None
