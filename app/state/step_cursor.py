"""Which step of an answer is on show: the last one as it comes, or an earlier one."""

from dataclasses import dataclass

from sequoia_core.events import Step

from .answer import Answer, Chosen, Statistics


@dataclass(slots=True)
class StepCursor:
    answer: Answer | None = None
    at: int | None = None  # index of the step on show; None for the last one, live
    place: str = ""  # which answer it is, for the title; "" for the last one

    def go(self, where: str) -> None:
        """Go back, forward, first or live; forward from the last step is live."""
        if self.answer is None or not self.answer.steps:
            return
        last = len(self.answer.steps) - 1
        at = last if self.at is None else self.at
        if where == "live" or (where == "forward" and at == last):
            self.at = None
        else:
            self.at = {"back": max(0, at - 1), "forward": at + 1, "first": 0}[where]

    @property
    def step(self) -> Step | None:
        """The step on show; None before the first."""
        if self.answer is None or not self.answer.steps:
            return None
        return self.answer.steps[-1 if self.at is None else self.at]

    @property
    def statistics(self) -> Statistics | None:
        if self.answer is None or not self.answer.statistics:
            return None
        return self.answer.statistics[-1 if self.at is None else self.at]

    @property
    def context_tokens(self) -> int | None:
        """How much of the context window was taken at the step on show; None if not known."""
        return self.answer.context_tokens(self.statistics) if self.answer is not None else None

    @property
    def chosen(self) -> Chosen | None:
        """The tree shape of the step on show, or of the first step to come."""
        if self.answer is None:
            return None
        return self.answer.tree_at(self.step.index if self.step is not None else 1)

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
        if self.answer.done:
            return f"Step {last}, the last"
        return f"Step {last}, {'paused' if paused else 'live'}"
