"""The parts in order of what they are worth, each by itself, until the time is used up."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.measure.gpu_day import (
    BUDGET,
    attention,
    ceilings,
    decoding,
    fewer_bits,
    forwards,
    lossless,
)
from sequoia_core.measure.gpu_day.day import GpuDay
from sequoia_core.measure.gpu_day.goals import goals
from sequoia_core.measure.gpu_day.report import DayReport
from sequoia_core.measure.gpu_day.scale import GPU, TINY, Scale
from sequoia_core.model.device import prepare


@dataclass(frozen=True, slots=True)
class DayPart:
    name: str
    measure: Callable[[GpuDay], None]
    seconds: float  # of a whole budget: with less left it is not begun; kept for the last part


PARTS = (
    DayPart("environment", ceilings.environment, 0),
    DayPart("ceilings", ceilings.ceilings, 0),
    DayPart("rows", lossless.rows, 10),
    DayPart("tokens", lossless.greedy_tokens, 20),
    DayPart("distribution", lossless.distribution, 30),
    DayPart("decoding", decoding.decoding, 40),
    DayPart("graphed-plain", decoding.graphed_plain, 20),
    DayPart("forwards", forwards.forwards, 30),
    DayPart("drafting", forwards.drafting, 20),
    DayPart("small-costs", ceilings.small_costs, 10),
    DayPart("attention", attention.attention, 20),
    DayPart("hugging-face", decoding.hugging_face, 40),
    DayPart("decoding-8b", decoding.large_vocabulary, 40),
    DayPart("forwards-8b", forwards.large_vocabulary_forwards, 30),
    DayPart("fewer-bits", fewer_bits.fewer_bits, 40),
    DayPart("memory", decoding.memory, 30),
    # last, since kernels may be launched more slowly from then on
    DayPart("profile", forwards.profiled, 40),
)


print_at_once = partial(print, flush=True)  # also into a file or a pipe


def run_day(
    device: torch.device,
    folder: Path,
    *,
    budget: float = BUDGET,
    scale: Scale | None = None,
    only: Sequence[str] = (),
    say: Callable[[str], None] = print_at_once,
) -> DayReport:
    """Measure part by part; one that fails does not keep the others from being tried.

    The report is kept in the folder. The scale is the device's by default. Raises ParameterError if
    `only` names an unknown part or the budget is not positive.
    """
    known = [part.name for part in PARTS]
    for name in only:
        if name not in known:
            raise ParameterError(f"part {name!r}: {suggest(name, known)}")
    if not budget > 0:
        raise ParameterError(f"budget is {budget:g}; give seconds above 0")
    scale = scale or (GPU if device.type == "cuda" else TINY)
    prepare([device])
    day = GpuDay(device, DayReport(folder, say), budget, scale)
    chosen = [part for part in PARTS if not only or part.name in only]
    try:
        for part in chosen:
            day.reserved = 0.0 if part is chosen[-1] else chosen[-1].seconds
            _try(part, day)
    finally:  # also of what there is when somebody stops it
        _try(DayPart("goals", goals, 0), day)
    return day.report


def _try(part: DayPart, day: GpuDay) -> None:
    report = day.report
    if part.name != "goals" and not day.has(part.seconds):
        report.leave_out(part.name, f"{max(day.left, 0.0):.0f} s are left")
        return
    report.begin(part.name)
    try:
        part.measure(day)
    except KeyboardInterrupt:
        report.end("stopped")
        raise
    except Exception:  # whatever the device, its driver or a library may raise
        report.end(traceback.format_exc())
    else:
        report.end()
