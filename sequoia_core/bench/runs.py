"""Prompts decoded by systems side by side, timed by one clock for all of them.

Imports no system and none of their libraries, so that a process pays for the one it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import product
from time import perf_counter
from typing import TypeVar

from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Progress, StepTimings
from sequoia_core.files import Record
from sequoia_core.measure.spread import Spread

WARM_UP_TOKENS = 16

Parts = TypeVar("Parts", bound=Record)


class PeerError(SequoiaError):
    """Another project's decoder cannot take part; the message says why, or what to install."""


class NoSpeedError(PeerError):
    """A run took too few steps for a speed; the decoder itself works."""


@contextmanager
def peer_code() -> Iterator[None]:
    """Raise whatever another project's code raises, its import included, as a `PeerError`."""
    try:
        yield
    except SequoiaError:
        raise
    except Exception as error:  # it may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = ": ".join([type(error).__name__, *([" ".join(lines[:2])] if lines else [])])
        raise PeerError(message) from error


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt decoded by one system."""

    token_ids: tuple[int, ...]  # all of them
    tokens: int  # after the first step's
    seconds: float  # that those took
    steps: int  # that those took; as many as tokens without speculation
    first_seconds: float  # from the call to the end of the first step, which reads the prompt
    tree: str = ""
    parts: StepTimings | None = None  # of a step on average, where they are known

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def averaged(parts: Sequence[Parts], average: Callable[[list[float]], float]) -> Parts:
    """A record of numbers, each the average of that field of one record or more."""
    kind = type(parts[0])
    return kind(
        *(average([getattr(each, name) for each in parts]) for name in kind.__struct_fields__)
    )


Decode = Callable[[Sequence[int], SamplingParams], Run]
"""A system: decodes exactly `max_new_tokens` tokens after a prompt with empty caches.

Raises NoSpeedError if it took too few steps, PeerError if it broke down.
"""


@dataclass(slots=True)
class RunClock:
    """Reads the clock after each step of a run; starts when it is made."""

    began: float = field(default_factory=perf_counter)
    _ends: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)

    def step(self, tokens: int, *, same: bool = False) -> None:
        """Record the end of a step that emitted tokens; `same` if they are of the step before."""
        if same and self._ends:
            self._ends[-1] = perf_counter()
            self._tokens[-1] += tokens
            return
        self._ends.append(perf_counter())
        self._tokens.append(tokens)

    def run(self, token_ids: Sequence[int]) -> Run:
        """The timed run. Raises NoSpeedError if it took fewer than two steps."""
        if len(self._ends) < 2:
            raise NoSpeedError(f"only {len(self._ends)} steps were taken; decode more tokens")
        return Run(
            token_ids=tuple(token_ids),
            tokens=sum(self._tokens[1:]),
            seconds=self._ends[-1] - self._ends[0],
            steps=len(self._ends) - 1,
            first_seconds=self._ends[0] - self.began,
        )


@dataclass(frozen=True, slots=True)
class SpeedComparison:
    """Runs by system, of the same prompts in one way of sampling; the first is the baseline."""

    params: SamplingParams
    runs: dict[str, list[Run]]
    sizes: dict[int, Spread] = field(default_factory=dict)  # speed by nodes; 1 is plain decoding

    @property
    def label(self) -> str:
        return f"T = {self.params.temperature:g}"


@dataclass(slots=True)
class ComparisonSet:
    """Comparisons of the same systems on the same prompts, one for each way of sampling."""

    comparisons: tuple[SpeedComparison, ...]
    broken: dict[str, str] = field(default_factory=dict)  # why a system is in none of them
    interrupted: bool = False  # they hold only the prompts that all systems had decoded


def compare(
    systems: Mapping[str, Decode],
    prompts: Sequence[Sequence[int]],
    samplings: Sequence[SamplingParams],
    progress: Progress,
    *,
    all_needed: bool = False,
) -> ComparisonSet:
    """Decode every prompt with every system in every way of sampling.

    After warm-ups systems take turns prompt by prompt, in an order that alternates, so that a
    machine that slows down slows all of them. A system that breaks down is left out; where
    `all_needed`, its PeerError is raised. Raises KeyboardInterrupt if it is interrupted before all
    have decoded a prompt.
    """
    found = ComparisonSet(
        tuple(SpeedComparison(each, {name: [] for name in systems}) for each in samplings)
    )
    _warm_up(systems, prompts[0], samplings, progress, found.broken)
    try:
        for at, comparison in product(range(len(prompts)), found.comparisons):
            for name in systems if at % 2 == 0 else reversed(list(systems)):
                progress(f"Prompt {at + 1} of {len(prompts)}: {name}", at / len(prompts))
                if name in found.broken:
                    continue
                try:
                    comparison.runs[name].append(systems[name](prompts[at], comparison.params))
                except PeerError as error:
                    if all_needed:
                        raise
                    found.broken[name] = str(error)
    except KeyboardInterrupt:
        found.interrupted = True
    for comparison in found.comparisons:
        for name in found.broken:
            del comparison.runs[name]
    if found.interrupted:
        kept = [each for comparison in found.comparisons for each in comparison.runs.values()]
        whole = min(map(len, kept), default=0)
        if not whole:
            raise KeyboardInterrupt
        for each in kept:
            del each[whole:]
    return found


def _warm_up(
    systems: Mapping[str, Decode],
    prompt: Sequence[int],
    samplings: Sequence[SamplingParams],
    progress: Progress,
    broken: dict[str, str],
) -> None:
    for name, decode in systems.items():
        progress(f"Warming up {name}", 0.0)
        try:
            for sampling in samplings:
                with suppress(NoSpeedError):
                    decode(prompt, replace(sampling, max_new_tokens=WARM_UP_TOKENS))
        except PeerError as error:
            broken[name] = str(error)
