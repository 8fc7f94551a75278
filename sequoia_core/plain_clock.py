"""What a plain step takes here and now: this target's own one-row forward.

Owns the figure that speed-ups are measured against. It is known from plain steps, or else from the
machine's calibration; only what neither says is sampled, by the same code as the steps themselves
and on the same cache. After the first ones samples take at most `SAMPLE_SHARE` of the time.
"""

from collections import deque
from collections.abc import Callable
from statistics import median
from time import monotonic
from typing import Protocol

import torch

from sequoia_core.events import Step
from sequoia_core.ledger import Ledger
from sequoia_core.stopwatch import TimedModel

FIRST_SAMPLES = 3
"""Taken at once where nothing is known."""
SAMPLE_SHARE = 0.01
"""Of the time spent on decoding, what samples may take."""
REFRESH_TOKENS = 64
"""Change of context after which one more sample is wanted."""
STALE_SECONDS = 10.0
"""Age of the latest figure after which the machine may have changed its speed."""
SLOW_MS = 1000.0
"""A forward of this length is sampled once: what would be averaged is small beside it."""
FAR_TOKENS = 512
"""Change of context after which the figures kept say nothing any more."""
KEPT_SAMPLES = 5


class StepClock(Protocol):
    """Knows what a plain step takes."""

    def refresh(self) -> None:
        """Look again if what is known may be out of date; called before a step that drafts."""
        ...

    def milliseconds(self, tree_ms: float) -> float:
        """What a plain step takes beside a target forward of `tree_ms` over a tree."""
        ...

    @property
    def source(self) -> str:
        """How the figure came about, one line."""
        ...


class PlainClock:
    """Knows the time of the target's one-row forward after the ledger's tokens.

    Args:
        target: the model, timed.
        ledger: whose target cache is borrowed for samples and left as it was.
        calibrated: milliseconds by tokens of context, as measured on this machine; None where it
            was not.
    """

    def __init__(
        self,
        target: TimedModel,
        ledger: Ledger,
        calibrated: Callable[[int], float | None] = lambda _context: None,
    ) -> None:
        self._target, self._ledger, self._calibrated = target, ledger, calibrated
        self._times: deque[float] = deque(maxlen=KEPT_SAMPLES)
        self._known_ms: float | None = None
        self._context = 0
        self._when = 0.0
        self._sampled_ms = self._decoded_ms = 0.0

    def milliseconds(self, tree_ms: float) -> float:
        """What a plain step takes: the median of the latest times, at most what the tree took.

        A forward of one row reads the same weights as one of many and does less, so one that took
        longer was timed while the machine was busy with something else.

        Args:
            tree_ms: the target's forward over the tree it is compared with.
        """
        return min(self._figure, tree_ms)

    @property
    def source(self) -> str:
        """How the figure came about, one line."""
        if self._times:
            return (
                f"median of {len(self._times)} one-row target forwards, "
                f"the last at {self._context} tokens of context, "
                "at most the step's own verification"
            )
        return "calibrated on this machine, at most the step's own verification"

    def observe(self, step: Step) -> None:
        """Learn from a step that was decoded; a plain one is a one-row forward."""
        self._decoded_ms += step.timings.total_ms
        if len(step.nodes) == 1:
            self._note(step.timings.verify_ms, step.context_length)

    def refresh(self) -> None:
        """Look again if what is known may be out of date, as far as the share of time allows."""
        context = len(self._ledger.token_ids)
        self._known_ms = self._calibrated(context)
        moved = abs(context - self._context)
        stale = not self._times or monotonic() - self._when >= STALE_SECONDS
        if not self._times and self._known_ms is None:
            self._begin()
        elif moved >= FAR_TOKENS and self._times:
            wanted = self._known_ms is None or self._allowed
            self._times.clear()
            if wanted:
                self._sample()
        elif (stale or moved >= REFRESH_TOKENS) and self._allowed:
            if stale:
                self._times.clear()
            self._sample()

    @property
    def _figure(self) -> float:
        if self._times:
            return median(self._times)
        assert self._known_ms is not None, "asked before `refresh`"
        return self._known_ms

    @property
    def _allowed(self) -> bool:
        """Whether one more sample keeps to the share."""
        return self._sampled_ms + self._figure <= SAMPLE_SHARE * self._decoded_ms

    def _begin(self) -> None:
        self._sample()  # the first forward after a prompt is colder than a step's
        self._times.clear()
        while len(self._times) < FIRST_SAMPLES:
            self._sample()
            if self._times[-1] >= SLOW_MS:
                break

    @torch.inference_mode()
    def _sample(self) -> None:
        cache, device = self._ledger.target_cache, self._target.device
        root = len(self._ledger.token_ids) - 1
        self._target.forward(
            torch.tensor(self._ledger.token_ids[-1:], device=device),
            torch.tensor([root], device=device),
            None,
            cache,
        )
        self._target.wait()
        cache.truncate(root)
        taken = self._target.take_ms()
        self._sampled_ms += taken
        self._note(taken, root + 1)

    def _note(self, milliseconds: float, context: int) -> None:
        self._times.append(milliseconds)
        self._context, self._when = context, monotonic()
