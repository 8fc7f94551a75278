"""Where a step's time goes, in five parts: draft, sample, verify, accept and the rest.

Owns the stopwatches. They stand around what chooses children and what judges them, which the
engine takes as they are, and wait for the device before and after; so a step takes longer under
them than without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from statistics import fmean, median
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sequoia_core.events import Step
    from sequoia_core.speculate.token_tree import ScoredTree
    from sequoia_core.speculate.verify import Verdict

MakeSampler = Callable[[SamplingParams, torch.device, Mode], Sampler]


@dataclass(frozen=True, slots=True)
class Split:
    """Milliseconds of a step.

    Attributes:
        draft: the draft's forwards.
        sample: its distributions, and the children drawn from them.
        verify: the target's forward.
        accept: the walk over the tree.
        rest: caches, text, events.
    """

    draft: float
    sample: float
    verify: float
    accept: float
    rest: float

    @property
    def total(self) -> float:
        """Of the whole step."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """By name, in the order of a step."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def mean(cls, splits: Sequence[Split]) -> Split:
        """Of one step or more."""
        return cls(**{name: fmean(each.parts[name] for each in splits) for name in splits[0].parts})

    @classmethod
    def middle(cls, splits: Sequence[Split]) -> Split:
        """The median of each part, of one answer or more."""
        return cls(
            **{name: median(each.parts[name] for each in splits) for name in splits[0].parts}
        )


class SplitClock:
    """Times the parts of an engine's steps; a `bench.own_systems.StepWatch`.

    Args:
        make: makes the samplers that are timed.
    """

    def __init__(self, make: MakeSampler = Sampler.of) -> None:
        self._make = make
        self._sample_ms = self._accept_ms = 0.0
        self._steps: list[Split] = []

    def sampler(self, params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        """What is made, with a stopwatch around each of its two parts."""
        made = self._make(params, device, mode)
        wait = _waiting(device)

        def choose(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
            began = wait()
            chosen = made.choose(logits, count)
            self._sample_ms += (wait() - began) * 1e3
            return chosen

        def rule(scored: ScoredTree, generator: torch.Generator) -> Verdict:
            began = wait()
            verdict = made.rule(scored, generator)
            self._accept_ms += (wait() - began) * 1e3
            return verdict

        return replace(made, choose=choose, rule=rule)

    def step(self, step: Step) -> None:
        """Add a step that has just ended; the first of an answer is no part of a decoding speed."""
        sample, accept = self._sample_ms, self._accept_ms
        self._sample_ms = self._accept_ms = 0.0
        if step.index == 1:
            self._steps.clear()
            return
        timings = step.timings
        rest = timings.bookkeeping_ms - sample - accept
        self._steps.append(Split(timings.draft_ms, sample, timings.verify_ms, accept, rest))

    def answer(self) -> Split:
        """Means over the steps of the last answer, which had two or more."""
        return Split.mean(self._steps)


def _waiting(device: torch.device) -> Callable[[], float]:
    """A clock that is read when the device has done what it was given."""
    if device.type != "cuda":
        return perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return perf_counter()

    return read
