"""What a plain step takes here and now: this target's own one-row forward.

Owns the figure that speed-ups are measured against. It is timed by the same code as the steps
themselves, on the same cache, and again as the context grows. Its own time is no part of a step.
"""

from collections import deque
from statistics import median
from time import monotonic
from typing import Protocol

import torch

from sequoia_core.ledger import Ledger
from sequoia_core.stopwatch import TimedModel

FIRST_SAMPLES = 3
REFRESH_TOKENS = 64
"""Change of context after which one more sample is taken."""
STALE_SECONDS = 10.0
"""Age of the latest sample after which the machine may have changed its speed."""
STALE_FORWARDS = 30
"""Likewise in forwards, where so many take longer: of a model read from disk one takes seconds."""
SLOW_MS = 1000.0
"""A forward of this length is sampled once: what would be averaged is small beside it."""
FAR_TOKENS = 512
"""Change of context after which the samples kept say nothing any more."""
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
    """Times the target's one-row forward after the ledger's tokens.

    Args:
        target: the model, timed.
        ledger: whose target cache is borrowed and left as it was.
    """

    def __init__(self, target: TimedModel, ledger: Ledger) -> None:
        self._target, self._ledger = target, ledger
        self._samples: deque[float] = deque(maxlen=KEPT_SAMPLES)
        self._sampled_at = 0
        self._sampled_when = 0.0

    def milliseconds(self, tree_ms: float) -> float:
        """What a plain step takes: the median of the latest samples, at most what the tree took.

        A forward of one row reads the same weights as one of many and does less, so samples that
        took longer were taken while the machine was busy with something else.

        Args:
            tree_ms: the target's forward over the tree it is compared with.
        """
        return min(median(self._samples), tree_ms)

    @property
    def source(self) -> str:
        """How the figure came about, one line."""
        return (
            f"median of {len(self._samples)} one-row target forwards, "
            f"the last at {self._sampled_at} tokens of context, "
            "at most the step's own verification"
        )

    def refresh(self) -> None:
        """Take a sample if the context has moved on, several if there is none from here and now."""
        moved = abs(len(self._ledger.token_ids) - self._sampled_at)
        known_ms = median(self._samples) if self._samples else 0.0
        lasting = max(STALE_SECONDS, STALE_FORWARDS * known_ms / 1e3)
        stale = monotonic() - self._sampled_when >= lasting
        if not self._samples or stale or moved >= FAR_TOKENS:
            if known_ms < SLOW_MS:
                self._sample()  # the first forward after a prompt is colder than a step's
            self._samples.clear()
            while len(self._samples) < FIRST_SAMPLES:
                self._sample()
                if self._samples[-1] >= SLOW_MS:
                    break
        elif moved >= REFRESH_TOKENS:
            self._sample()

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
        self._samples.append(self._target.take_ms())
        self._sampled_at = root + 1
        self._sampled_when = monotonic()
