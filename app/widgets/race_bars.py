"""Both lanes of a race as bars: how many tokens each has, and what its clock says.

In accessible mode without bars, since a row of signs is read aloud sign by sign.
"""

from textual.content import Content

from sequoia_core.chat.race import Lane

from ..present.accessible import is_accessible
from ..state.race_result import LaneRun, RaceRun
from .line import Line
from .statistics import gauge

_FIRST_SCALE = 16
"""Tokens that a bar is wide for at first; doubled whenever a lane outgrows it."""
_STYLES = {Lane.PLAIN: "$verify", Lane.SPECULATIVE: "$speedup"}
_LABELS = 22
_FIGURES, _FEW_FIGURES = 30, 19
"""Cells of what stands behind a bar; the fewer ones end before the tokens of a step."""
_ROOMY = 76


class RaceBars(Line):
    """Four lines: tokens of either lane, then seconds of either."""

    def __init__(self) -> None:
        super().__init__(id="race-bars")
        self._run: RaceRun | None = None

    def show_race(self, run: RaceRun) -> None:
        """Draw a race as it stands."""
        self._run = run
        self.refresh()

    def render(self) -> Content:
        """Tokens over seconds."""
        if self._run is None:
            return Content("")
        run, lanes = self._run, self._run.lanes
        most = max(each.tokens for each in lanes.values())
        slowest = max(each.seconds for each in lanes.values())
        scale = most if run.ended else _scale(most)
        tokens = [
            self._bar("tokens", lane, each.tokens / max(scale, 1), _speed(each))
            for lane, each in lanes.items()
        ]
        times = [
            self._bar("time", lane, each.seconds / slowest if slowest else 0.0, _time(each))
            for lane, each in lanes.items()
        ]
        return Content("\n").join([*tokens, *times])

    def _bar(self, what: str, lane: Lane, share: float, figures: str) -> Content:
        """A label, the bar, and as much of the figures as is of use."""
        name = what if lane is Lane.PLAIN else ""
        label = Content.assemble((f" {name:<8}", "$notice"), (f"{lane.value:<13}", "$foreground"))
        width = _FIGURES if self.size.width >= _ROOMY else _FEW_FIGURES
        told = Content.styled(figures[:width].ljust(width), "$foreground")
        if is_accessible(self):
            return Content.assemble(label, told)
        cells = max(0, self.size.width - _LABELS - width - 2)
        return Content.assemble(label, (gauge(share, cells), _STYLES[lane]), " ", told)


def _scale(tokens: int) -> int:
    """The next power of two, so that a growing bar halves now and then but never shrinks else."""
    scale = _FIRST_SCALE
    while scale < tokens:
        scale *= 2
    return scale


def _speed(run: LaneRun) -> str:
    if not run.tokens:
        return "0"
    return f"{run.tokens:>4}  {run.tokens_per_second:.1f} tok/s"


def _time(run: LaneRun) -> str:
    steps = run.answer.statistics[-1].totals if run.answer.statistics else None
    told = f"{run.seconds:>6.2f} s"
    if steps is None:
        return told
    plural = "" if steps.steps == 1 else "s"
    return f"{told}  {f'{steps.steps} step{plural}':<9} {steps.tokens_per_step:.2f} each"
