"""Where the time of a step goes: draft, sample, verify, accept and the rest.

The timers wrap the sampler's two parts, which the engine takes as they are, and wait for the device
before and after; so a step takes longer with them than without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sequoia_core.bench.runs import averaged
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.figures.charts import picture
from sequoia_core.files import Record, encode
from sequoia_core.reproduce.experiment import ReportTable

if TYPE_CHECKING:
    from sequoia_core.bench.own_systems import MakeSampler
    from sequoia_core.decode.step import Sampler
    from sequoia_core.events import Step

_Result = TypeVar("_Result")


class StepBreakdown(Record, frozen=True):
    """Milliseconds of the parts of a step, in their order."""

    draft: float  # the draft's forwards
    sample: float  # its distributions, and the children drawn from them
    verify: float  # the target's forward
    accept: float  # the verification of the tree
    rest: float  # caches, text, events

    def table(self) -> ReportTable:
        parts: dict[str, float] = encode(self)
        total = sum(parts.values())
        rows = (
            ("ms of a step", *(f"{part:.2f}" for part in parts.values())),
            ("share", *(f"{part / total:.1%}" for part in parts.values())),
        )
        return ReportTable(("", *parts), rows)

    def draw(self, file: Path, prompts: int) -> None:
        parts, left = encode(self), 0.0
        with picture(file, 1.8) as (axes,):
            for name, part in parts.items():
                axes.barh(0, part, 0.5, left=left, label=f"{name} {part:.2f}")
                left += part
            axes.set_yticks([])
            axes.set_ylim(-0.3, 0.8)
            axes.legend(ncols=len(parts), loc="upper left")
            axes.set_xlabel(f"milliseconds of a step, medians over {prompts} prompts")


class BreakdownTimer:
    """Times the parts of an engine's steps, whose samplers `make` makes."""

    def __init__(self, make: MakeSampler) -> None:
        self._make = make
        self._ms = {"sample": 0.0, "accept": 0.0}
        self._steps: list[StepBreakdown] = []

    def sampler(self, params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        """A sampler with both of its parts timed."""
        made = self._make(params, device, mode)

        def timed(part: Callable[..., _Result], name: str) -> Callable[..., _Result]:
            def run(*given: Any) -> _Result:
                began = _seconds(device)
                result = part(*given)
                self._ms[name] += (_seconds(device) - began) * 1e3
                return result

            return run

        choose, rule = timed(made.choose, "sample"), timed(made.rule, "accept")
        return replace(made, choose=choose, rule=rule)

    def step(self, step: Step) -> None:
        """Add a step that has ended; the first of an answer reads the prompt and is left out."""
        sample, accept = self._ms.values()
        self._ms = dict.fromkeys(self._ms, 0.0)
        if step.index == 1:
            self._steps.clear()
            return
        timings = step.timings
        rest = timings.bookkeeping_ms - sample - accept
        parts = StepBreakdown(timings.draft_ms, sample, timings.verify_ms, accept, rest)
        self._steps.append(parts)

    def answer(self) -> StepBreakdown:
        """Means over the steps of the last answer, which had two or more."""
        return averaged(self._steps, fmean)


def _seconds(device: torch.device) -> float:
    """The time when the device has finished what is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()
