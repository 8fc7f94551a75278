"""One prompt decoded by one system, on one clock for all of them.

Owns what a run is and how it is timed: the time to the first tokens is kept apart, and decoding
counts from there to the last token. Knows no system and imports none of their libraries, so that a
process that measures one of them pays for no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError


class PeerError(SequoiaError):
    """Another project's decoder cannot take part; the message says why, or what to install."""


class NoSpeedError(PeerError):
    """A run took fewer steps than a speed needs; the decoder itself works."""


@contextmanager
def peer_code() -> Iterator[None]:
    """Tell whatever another project's code raises, importing it included, as a `PeerError`."""
    try:
        yield
    except SequoiaError:
        raise
    except Exception as error:  # it may raise anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__
        raise PeerError(told) from error


@dataclass(frozen=True, slots=True)
class StepParts:
    """Mean milliseconds of a step's parts, where a system tells them."""

    draft_ms: float
    verify_ms: float
    bookkeeping_ms: float

    @property
    def bookkeeping_share(self) -> float:
        """Of a step's wall time."""
        return self.bookkeeping_ms / (self.draft_ms + self.verify_ms + self.bookkeeping_ms)


@dataclass(frozen=True, slots=True)
class Run:
    """One prompt decoded by one system.

    Attributes:
        token_ids: what was decoded.
        tokens: tokens after the first step's.
        seconds: wall time of those.
        steps: decoding steps they took; as many as tokens without speculation.
        first_seconds: from the call to the end of the first step, which reads the prompt.
        tree: what was speculated with, "" where that has no name.
        parts: what a step consists of, None where they are not known.
    """

    token_ids: tuple[int, ...]
    tokens: int
    seconds: float
    steps: int
    first_seconds: float
    tree: str = ""
    parts: StepParts | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed."""
        return self.tokens / self.seconds


class System(Protocol):
    """One way to decode."""

    @property
    def name(self) -> str:
        """For the report."""
        ...

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode exactly `params.max_new_tokens` tokens; nothing is kept of an earlier prompt.

        Raises:
            NoSpeedError: it took too few steps.
            PeerError: it broke down.
        """
        ...


@dataclass(slots=True)
class StepClock:
    """Reads the clock after each step of a run; starts when it is made."""

    began: float = field(default_factory=perf_counter)
    _ends: list[float] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)

    def step(self, tokens: int, *, same: bool = False) -> None:
        """A step has just ended and emitted so many tokens.

        Args:
            tokens: how many.
            same: they are more of the step before, which emits its tokens one by one.
        """
        if same and self._ends:
            self._ends[-1] = perf_counter()
            self._tokens[-1] += tokens
            return
        self._ends.append(perf_counter())
        self._tokens.append(tokens)

    def run(self, token_ids: Sequence[int], tree: str = "", parts: StepParts | None = None) -> Run:
        """What was timed; two steps or more are needed for a speed.

        Raises:
            NoSpeedError: there were fewer.
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
