"""Runs systems side by side on the same prompts.

Systems take turns prompt by prompt, in an order that alternates from prompt to prompt in each way
of sampling, after uncounted warm-ups, so that a machine that slows down slows all of them. Knows
nothing of how results are printed.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, System
from sequoia_core.config import SamplingParams
from sequoia_core.events import Progress

WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of every system on every prompt, in the same order.

    Attributes:
        params: sampling of all runs.
        runs: one list per system, by name; the first system is what others are compared with.
    """

    params: SamplingParams
    runs: dict[str, list[Run]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a session.

    Attributes:
        comparisons: one for each way of sampling.
        broken: why a system that broke down is in none of them, by name.
        interrupted: somebody stopped it; the comparisons hold the prompts that all had decoded.
    """

    comparisons: tuple[Comparison, ...]
    broken: dict[str, str]
    interrupted: bool = False


def _leave(name: str, run: Run) -> None:
    """Runs that are wanted together, at the end."""


def compare(
    systems: Sequence[System],
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[SamplingParams],
    progress: Progress,
    keep: Callable[[str, Run], None] = _leave,
) -> Outcome:
    """Decode every prompt with every system in every way of sampling.

    Args:
        systems: in the order of the report.
        prompts: token ids.
        samplings: the same for all; `max_new_tokens` are decoded exactly.
        progress: told what runs and which part is done.
        keep: handed every run but warm-ups as it ends, with its system's name: what there is of a
            comparison that is interrupted.

    Raises:
        KeyboardInterrupt: it is interrupted before all have decoded a prompt.
    """
    session = _Session(systems)
    for system in systems:
        progress(f"Warming up {system.name}", 0.0)
        for sampling in samplings:
            session.warm_up(system, prompts[0], sampling.temperature)
    comparisons = [
        Comparison(sampling, {system.name: [] for system in systems}) for sampling in samplings
    ]
    interrupted = False
    try:
        for at, comparison in product(range(len(prompts)), comparisons):
            for system in systems if at % 2 == 0 else reversed(systems):
                progress(f"Prompt {at + 1} of {len(prompts)}: {system.name}", at / len(prompts))
                if run := session.run(system, prompts[at], comparison.params):
                    comparison.runs[system.name].append(run)
                    keep(system.name, run)
    except KeyboardInterrupt:
        interrupted = True
    for comparison in comparisons:
        for name in session.broken:
            del comparison.runs[name]
    if interrupted:
        _keep_whole(comparisons)
    return Outcome(tuple(comparisons), session.broken, interrupted)


def _keep_whole(comparisons: Sequence[Comparison]) -> None:
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


class _Session:
    """Systems that still run, and why the others do not."""

    def __init__(self, systems: Sequence[System]) -> None:
        self._systems = systems
        self.broken: dict[str, str] = {}

    def warm_up(self, system: System, prompt: Sequence[int], temperature: float) -> None:
        """A short run, for which no speed is needed."""
        with suppress(NoSpeedError):
            self._run(system, prompt, SamplingParams(temperature, max_new_tokens=WARM_UP_TOKENS))

    def run(self, system: System, prompt: Sequence[int], sampling: SamplingParams) -> Run | None:
        """A run, or None of a system that has broken down."""
        try:
            return self._run(system, prompt, sampling)
        except NoSpeedError as error:
            self.broken[system.name] = str(error)
            return None

    def _run(self, system: System, prompt: Sequence[int], sampling: SamplingParams) -> Run | None:
        if system.name in self.broken:
            return None
        try:
            return system.run(prompt, sampling)
        except NoSpeedError:
            raise
        except PeerError as error:
            self.broken[system.name] = str(error)
            return None
