"""Which step of an answer is on show: the last one as it comes, or an earlier one.

An answer that is finished rests on its best step, behind its last one.
"""

from dataclasses import dataclass

from sequoia_core.events import Step

from .answer import Answer, Chosen, Statistics
from .summary import best_of


@dataclass(slots=True)
class StepCursor:
    answer: Answer | None = None
    at: int | None = None  # index of the step on show; None while live and at rest
    place: str = ""  # which answer it is, for the title; "" for the last one
    rests: bool = True  # on the best step; else a finished answer stays at its last one

    def go(self, where: str) -> None:
        """Go back, forward, first or live; forward from the last step is live."""
        if self.answer is None or not self.answer.steps:
            return
        at, last = self.reached, len(self.answer.steps) - 1
        if where == "live" or (where == "forward" and at >= last):
            self.at = None
        else:
            self.at = {"back": max(0, at - 1), "forward": at + 1, "first": 0}[where]

    @property
    def best(self) -> int | None:
        """Index of the step that the answer rests on; None where it does not rest."""
        return best_of(self.answer) if self.at is None and self.rests else None

    @property
    def reached(self) -> int:
        """Index of the step on show, or the number of steps if the answer rests."""
        if self.at is not None:
            return self.at
        steps = len(self.answer.steps) if self.answer is not None else 0
        return steps - (self.best is None)

    @property
    def _index(self) -> int:
        at = self.at if self.best is None else self.best
        return -1 if at is None else at

    @property
    def step(self) -> Step | None:
        """The step on show; None before the first."""
        if self.answer is None or not self.answer.steps:
            return None
        return self.answer.steps[self._index]

    @property
    def statistics(self) -> Statistics | None:
        """After the step on show."""
        if self.answer is None or not self.answer.statistics:
            return None
        return self.answer.statistics[self._index]

    @property
    def whole(self) -> Statistics | None:
        """Those of the whole answer if it rests, else after the step on show."""
        if self.best is None or self.answer is None:
            return self.statistics
        return self.answer.statistics[-1]

    @property
    def context_tokens(self) -> int | None:
        """How much of the context window was taken then; None if not known."""
        return self.answer.context_tokens(self.whole) if self.answer is not None else None

    @property
    def shape(self) -> Chosen | None:
        """The tree shape of the step on show, or of the first to come."""
        return self._shape_of(self.step)

    @property
    def chosen(self) -> Chosen | None:
        """The same, but of the last step if the answer rests."""
        if self.best is None or self.answer is None:
            return self.shape
        return self._shape_of(self.answer.steps[-1])

    def _shape_of(self, step: Step | None) -> Chosen | None:
        if self.answer is None:
            return None
        return self.answer.tree_at(step.index if step is not None else 1)

    @property
    def highlighted(self) -> int | None:
        """Number of the step to highlight in the text; None while live."""
        return self.step.index if self.step is not None and self.at is not None else None

    def title(self, *, paused: bool) -> str:
        if self.answer is None or self.step is None:
            return "Tree"
        last = self.answer.steps[-1].index
        if self.at is not None:
            return f"Step {self.step.index} of {last}{self.place}"
        if self.best is not None:
            return f"Step {self.step.index}, the best of {last}"
        if self.answer.done:
            return f"Step {last}, the last"
        return f"Step {last}, {'paused' if paused else 'live'}"
