"""One step's outcome and where its time went, in one line or three."""

from textual.content import Content
from typing_extensions import override

from sequoia_core.errors import counted
from sequoia_core.events import Step

from ..present.accessible import is_accessible, step_in_words
from ..state.sanitize import fit
from ..state.stats import Statistics, step_speedup
from .bars import spread
from .line import Line

_BASELINE = ", which speed-ups are measured against: ", ", the reference: ", ": "
"""What a plain step between tree steps is for, from the longest form to the shortest."""


class StepBar(Line):
    """Accepted and emitted tokens, the times as one stacked bar, this and the running speed-up.

    The times differ in glyph as well as in colour, for terminals without colour.
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self._step: Step | None = None
        self._statistics: Statistics | None = None
        self._waiting = ""

    def show_step(
        self, step: Step | None, statistics: Statistics | None, waiting: str = ""
    ) -> None:
        """Show a step and the figures after it, or what happens before the first step."""
        if step is not self._step or waiting != self._waiting:
            self._step, self._statistics, self._waiting = step, statistics, waiting
            self.refresh()

    @override
    def render(self) -> Content:
        step, statistics, width = self._step, self._statistics, self.size.width
        if step is None or statistics is None:
            return Content.styled(fit(f" {self._waiting or 'no step yet'}", width), "$notice")
        if is_accessible(self):
            return Content("\n").join(Content(step_in_words(step)).wrap(max(1, width)))
        lines = [_outcome(step, width)]
        if self.size.height >= 3:
            lines += [_time_bar(step, width - 2), _times(step, statistics, width)]
        return Content("\n").join(lines)


def _outcome(step: Step, width: int) -> Content:
    tokens = counted(len(step.token_ids), "token")
    time = f" in {step.timings.total_ms:.1f} ms"
    if step.baseline:
        forms = [_plain_outcome(purpose, tokens, time) for purpose in _BASELINE]
    else:
        number = str(len(step.token_ids))
        forms = [
            _tree_outcome(step, *ends)
            for ends in ((tokens, time), (number, time), (tokens, ""), ("", ""))
        ]
    left = next((form for form in forms if form.cell_length <= width), forms[-1])
    speedup = step_speedup(step)
    right = Content.styled(f"{speedup:.2f}x", "bold $speedup") if speedup else Content("")
    return spread(left, right, width)


def _plain_outcome(purpose: str, tokens: str, time: str) -> Content:
    return Content.assemble(
        (" plain step", "bold $bonus"), (purpose, "$notice"), (tokens, "bold $foreground"),
        (time, "$notice"),
    )  # fmt: skip


def _tree_outcome(step: Step, tokens: str, time: str) -> Content:
    adds_up = len(step.token_ids) == step.accepted + 1
    between = " bonus" if not tokens else " bonus = " if adds_up else " bonus, cut to "
    return Content.assemble(
        (f" {step.accepted}", "bold $accepted"), (" accepted + ", "$notice"),
        ("1", "bold $bonus"), (between, "$notice"), (tokens, "bold $foreground"),
        (time, "$notice"),
    )  # fmt: skip


def _times(step: Step, statistics: Statistics, width: int) -> Content:
    times, speedup = step.timings, statistics.speedup
    left = Content.assemble(
        (" █", "$draft"), (f" draft {times.draft_ms:.1f}  ", "$notice"),
        ("▓", "$verify"), (f" verify {times.verify_ms:.1f}  ", "$notice"),
        ("░", "$bookkeeping"), (f" rest {times.bookkeeping_ms:.1f} ms", "$notice"),
    )  # fmt: skip
    right = Content.styled(f"running {speedup:.2f}x", "$speedup") if speedup else Content("")
    return spread(left, right, width)


def _time_bar(step: Step, width: int) -> Content:
    """The three times as one bar of `width` cells; a time above zero gets at least a cell."""
    times = step.timings
    total = times.total_ms or 1.0
    draft = round(width * times.draft_ms / total) or (times.draft_ms > 0)
    rest = round(width * times.bookkeeping_ms / total) or (times.bookkeeping_ms > 0)
    verify = max(0, width - draft - rest)
    return Content.assemble(
        " ", ("█" * draft, "$draft"), ("▓" * verify, "$verify"), ("░" * rest, "$bookkeeping")
    )
