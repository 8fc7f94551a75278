"""Where the time of a step goes: draft, sample, verify, accept and the rest.

The timers wrap the sampler's two parts, which the engine takes as they are, and wait for the device
before and after; so a step takes longer with them than without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler

if TYPE_CHECKING:
    from torch import Tensor

    from sequoia_core.events import Step
    from sequoia_core.speculate.token_tree import ScoredTree
    from sequoia_core.speculate.verify import Verdict

MakeSampler = Callable[[SamplingParams, torch.device, Mode], Sampler]


@dataclass(frozen=True, slots=True)
class StepBreakdown:
    """Milliseconds of a step.

    Attributes:
        draft: the draft's forwards.
        sample: its distributions, and the children drawn from them.
        verify: the target's forward.
        accept: the verification of the tree.
        rest: caches, text, events.
    """

    draft: float
    sample: float
    verify: float
    accept: float
    rest: float

    @property
    def parts(self) -> dict[str, float]:
        """By name, in the order of a step."""
        return asdict(self)

    @classmethod
    def mean(cls, steps: Sequence[StepBreakdown]) -> StepBreakdown:
        """Of one step or more."""
        return cls._combined(fmean, steps)

    @classmethod
    def median(cls, answers: Sequence[StepBreakdown]) -> StepBreakdown:
        """The median of each part, of one answer or more."""
        return cls._combined(median, answers)

    @classmethod
    def _combined(
        cls, statistic: Callable[[Iterable[float]], float], each: Sequence[StepBreakdown]
    ) -> StepBreakdown:
        return cls(*(statistic(getattr(one, part.name) for one in each) for part in fields(cls)))


class BreakdownTimer:
    """Times the parts of an engine's steps; a `bench.own_systems.StepWatch`.

    Args:
        make: makes the samplers that are timed.
    """

    def __init__(self, make: MakeSampler) -> None:
        self._make = make
        self._sample_ms = self._accept_ms = 0.0
        self._steps: list[StepBreakdown] = []

    def sampler(self, params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        """The sampler that `make` gives, with both of its parts timed."""
        made = self._make(params, device, mode)
        clock = _device_clock(device)

        def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
            began = clock()
            chosen = made.choose(logits, count)
            self._sample_ms += (clock() - began) * 1e3
            return chosen

        def rule(scored: ScoredTree, generator: torch.Generator) -> Verdict:
            began = clock()
            verdict = made.rule(scored, generator)
            self._accept_ms += (clock() - began) * 1e3
            return verdict

        return replace(made, choose=choose, rule=rule)

    def step(self, step: Step) -> None:
        """Add a step that has ended; the first of an answer reads the prompt and is left out."""
        sample, accept = self._sample_ms, self._accept_ms
        self._sample_ms = self._accept_ms = 0.0
        if step.index == 1:
            self._steps.clear()
            return
        timings = step.timings
        rest = timings.bookkeeping_ms - sample - accept
        parts = (timings.draft_ms, sample, timings.verify_ms, accept, rest)
        self._steps.append(StepBreakdown(*parts))

    def answer(self) -> StepBreakdown:
        """Means over the steps of the last answer, which had two or more."""
        return StepBreakdown.mean(self._steps)


def _device_clock(device: torch.device) -> Callable[[], float]:
    """A clock that is read when the device has finished what is queued."""
    if device.type != "cuda":
        return perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return read
