"""One prompt decoded by one system, timed by one clock for all of them.

Imports no system and none of their libraries, so that a process pays for the one it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.events import StepTimings


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
    """One prompt decoded by one system.

    Attributes:
        token_ids: all decoded tokens.
        tokens: tokens after the first step's.
        seconds: wall time of those.
        steps: decoding steps they took; as many as tokens without speculation.
        first_seconds: from the call to the end of the first step, which reads the prompt.
        tree: name of the tree, "" where it has none.
        parts: of a step on average, None where they are not known.
    """

    token_ids: tuple[int, ...]
    tokens: int
    seconds: float
    steps: int
    first_seconds: float
    tree: str = ""
    parts: StepTimings | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed."""
        return self.tokens / self.seconds


def average_parts(
    timings: Sequence[StepTimings], average: Callable[[Sequence[float]], float]
) -> StepTimings | None:
    """Average each part of some steps; None without any."""
    if not timings:
        return None
    return StepTimings(
        draft_ms=average([each.draft_ms for each in timings]),
        verify_ms=average([each.verify_ms for each in timings]),
        bookkeeping_ms=average([each.bookkeeping_ms for each in timings]),
    )


class System(Protocol):
    """One way to decode."""

    @property
    def name(self) -> str:
        """For the report."""
        ...

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode exactly `params.max_new_tokens` tokens with empty caches.

        Raises:
            NoSpeedError: it took too few steps.
            PeerError: it broke down.
        """
        ...


@dataclass(slots=True)
class RunClock:
    """Reads the clock after each step of a run; starts when it is made."""

    began: float = field(default_factory=perf_counter)
    _ends: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)

    def step(self, tokens: int, *, same: bool = False) -> None:
        """Record the end of a step.

        Args:
            tokens: that it emitted.
            same: they belong to the step before, which emits its tokens one by one.
        """
        if same and self._ends:
            self._ends[-1] = perf_counter()
            self._tokens[-1] += tokens
            return
        self._ends.append(perf_counter())
        self._tokens.append(tokens)

    def run(
        self, token_ids: Sequence[int], tree: str = "", parts: StepTimings | None = None
    ) -> Run:
        """The timed run.

        Raises:
            NoSpeedError: it took fewer than two steps.
        """
        if len(self._ends) < 2:
            raise NoSpeedError(f"only {len(self._ends)} steps were taken; decode more tokens")
        return Run(
            token_ids=tuple(token_ids),
            tokens=sum(self._tokens[1:]),
            seconds=self._ends[-1] - self._ends[0],
            steps=len(self._ends) - 1,
            first_seconds=self._ends[0] - self.began,
            tree=tree,
            parts=parts,
        )
