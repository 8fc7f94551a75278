"""One step's outcome and where its time went, in one line or three."""

from textual.content import Content

from sequoia_core.events import Step

from ..present.accessible import is_accessible, step_in_words
from ..state.sanitize import fit
from ..state.stats import Statistics, step_speedup
from .line import Line


class StepBar(Line):
    """Accepted and emitted tokens, the times as one stacked bar, this and the running speed-up.

    The times are told apart by glyph as well as by colour, so that they can be without colour.
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._step: Step | None = None
        self._statistics: Statistics | None = None
        self._waiting = ""

    def show_step(
        self, step: Step | None, statistics: Statistics | None, waiting: str = ""
    ) -> None:
        """Show a step and the figures as they stood after it, or what goes on before the first."""
        if step is not self._step or waiting != self._waiting:
            self._step, self._statistics, self._waiting = step, statistics, waiting
            self.refresh()

    def render(self) -> Content:
        """One line where there is height for one, else three."""
        if self._step is None or self._statistics is None:
            waiting = fit(f" {self._waiting or 'no step yet'}", self.size.width)
            return Content.styled(waiting, "$notice")
        step, width = self._step, self.size.width
        if is_accessible(self):
            return Content("\n").join(Content(step_in_words(step)).wrap(max(1, width)))
        lines = [self._outcome(step, width)]
        if self.size.height >= 3:
            lines += [_bar(step, width - 2), self._times(step, width)]
        return Content("\n").join(lines)

    def _outcome(self, step: Step, width: int) -> Content:
        speedup = step_speedup(step)
        right = Content.styled(f"{speedup:.2f}x", "bold $speedup") if speedup else Content("")
        count, time = _count(len(step.token_ids), "token"), f" in {step.timings.total_ms:.1f} ms"
        ends = (count, time), (count.partition(" ")[0], time), (count, ""), ("", "")
        forms = [_made(step, *each) for each in ends]
        if step.baseline:
            forms = [_plain(means, count, time) for means in _BASELINE]
        left = next((form for form in forms if form.cell_length <= width), forms[-1])
        return _spread(left, right, width)

    def _times(self, step: Step, width: int) -> Content:
        times = step.timings
        left = Content.assemble(
            (" █", "$draft"), (f" draft {times.draft_ms:.1f}  ", "$notice"),
            ("▓", "$verify"), (f" verify {times.verify_ms:.1f}  ", "$notice"),
            ("░", "$bookkeeping"), (f" rest {times.bookkeeping_ms:.1f} ms", "$notice"),
        )  # fmt: skip
        speedup = self._statistics.speedup if self._statistics else None
        right = Content.styled(f"running {speedup:.2f}x", "$speedup") if speedup else Content("")
        return _spread(left, right, width)


_BASELINE = ", which speed-ups are measured against: ", ", the reference: ", ": "
"""What a plain step among trees is for, ever shorter."""


def _plain(means: str, count: str, time: str) -> Content:
    """What a plain step made, and what it is for."""
    return Content.assemble(
        (" plain step", "bold $bonus"), (means, "$notice"), (count, "bold $foreground"),
        (time, "$notice"),
    )  # fmt: skip


def _made(step: Step, count: str, time: str) -> Content:
    """What a step made; the less is given of it, the shorter.

    Args:
        step: the step.
        count: how many tokens.
        time: how long it took.
    """
    sums_up = len(step.token_ids) == step.accepted + 1
    between = "" if not count else " bonus = " if sums_up else " bonus, cut to "
    return Content.assemble(
        (f" {step.accepted}", "bold $accepted"),
        (" accepted + ", "$notice"),
        ("1", "bold $bonus"),
        (between or " bonus", "$notice"),
        (count, "bold $foreground"),
        (time, "$notice"),
    )


def _bar(step: Step, width: int) -> Content:
    """The three times as one bar of `width` cells; a time that is there gets at least a cell."""
    times = step.timings
    total = times.total_ms or 1.0
    draft = round(width * times.draft_ms / total) or (times.draft_ms > 0)
    rest = round(width * times.bookkeeping_ms / total) or (times.bookkeeping_ms > 0)
    verify = max(0, width - draft - rest)
    return Content.assemble(
        " ", ("█" * draft, "$draft"), ("▓" * verify, "$verify"), ("░" * rest, "$bookkeeping")
    )


def _spread(left: Content, right: Content, width: int) -> Content:
    gap = width - left.cell_length - right.cell_length - 1
    return Content.assemble(left, " " * gap, right) if gap > 0 else left


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
