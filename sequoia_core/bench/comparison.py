"""Runs systems side by side on the same prompts.

After warm-ups systems take turns prompt by prompt, in an order that alternates, so that a machine
that slows down slows all of them.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, System
from sequoia_core.config import SamplingParams
from sequoia_core.events import Progress

WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class SpeedComparison:
    """Runs of every system on every prompt, in the same order.

    Attributes:
        params: sampling of all runs.
        runs: one list per system, by name; the first system is the baseline.
    """

    params: SamplingParams
    runs: dict[str, list[Run]]


@dataclass(slots=True)
class ComparisonSet:
    """Comparisons of the same systems on the same prompts.

    Attributes:
        comparisons: one for each way of sampling.
        broken: why a system that broke down is in none of them, by name.
        interrupted: the comparisons hold only the prompts that all systems had decoded.
    """

    comparisons: tuple[SpeedComparison, ...]
    broken: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def compare(
    systems: Sequence[System],
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[SamplingParams],
    progress: Progress,
    keep: Callable[[str, Run], None] | None = None,
) -> ComparisonSet:
    """Decode every prompt with every system in every way of sampling.

    Args:
        systems: in the order of the report.
        prompts: token ids.
        samplings: `max_new_tokens` are decoded exactly.
        progress: receives the prompt and system that run.
        keep: receives the system's name and every run but warm-ups as it ends, so that a caller
            has them if the comparison is interrupted.

    Raises:
        KeyboardInterrupt: it is interrupted before all have decoded a prompt.
    """
    found = ComparisonSet(
        tuple(SpeedComparison(each, {system.name: [] for system in systems}) for each in samplings)
    )
    _warm_up(systems, prompts[0], samplings, progress, found.broken)
    try:
        for at, comparison in product(range(len(prompts)), found.comparisons):
            for system in systems if at % 2 == 0 else reversed(systems):
                progress(f"Prompt {at + 1} of {len(prompts)}: {system.name}", at / len(prompts))
                if system.name in found.broken:
                    continue
                try:
                    run = system.run(prompts[at], comparison.params)
                except PeerError as error:
                    found.broken[system.name] = str(error)
                    continue
                comparison.runs[system.name].append(run)
                if keep is not None:
                    keep(system.name, run)
    except KeyboardInterrupt:
        found.interrupted = True
    for comparison in found.comparisons:
        for name in found.broken:
            del comparison.runs[name]
    if found.interrupted:
        _keep_whole_prompts(found.comparisons)
    return found


def _warm_up(
    systems: Sequence[System],
    prompt: Sequence[int],
    samplings: Sequence[SamplingParams],
    progress: Progress,
    broken: dict[str, str],
) -> None:
    """Short runs, which need no speed."""
    for system in systems:
        progress(f"Warming up {system.name}", 0.0)
        try:
            for sampling in samplings:
                short = SamplingParams(sampling.temperature, max_new_tokens=WARM_UP_TOKENS)
                with suppress(NoSpeedError):
                    system.run(prompt, short)
        except PeerError as error:
            broken[system.name] = str(error)


def _keep_whole_prompts(comparisons: Sequence[SpeedComparison]) -> None:
    """Drop the runs of prompts that not all systems have decoded in every way of sampling.

    Raises:
        KeyboardInterrupt: nothing is left.
    """
    runs = [each for comparison in comparisons for each in comparison.runs.values()]
    whole = min(map(len, runs), default=0)
    if not whole:
        raise KeyboardInterrupt
    for each in runs:
        del each[whole:]
