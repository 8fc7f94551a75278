"""Both lanes of a race as bars: tokens and seconds of each."""

from textual.content import Content
from typing_extensions import override

from sequoia_core.chat.race import Lane
from sequoia_core.errors import counted

from ..present.accessible import is_accessible
from ..state.race_result import LaneState, RaceState
from .bars import gauge
from .line import Line

_FIRST_SCALE = 16
"""Tokens that a bar is wide for at first; doubled whenever a lane outgrows it."""
_STYLES = {Lane.PLAIN: "$verify", Lane.SPECULATIVE: "$speedup"}
_LABELS = 22
_FIGURES, _FEW_FIGURES = 30, 19
"""Cells behind a bar; the fewer ones end before the tokens of a step."""
_ROOMY = 76


class RaceBars(Line):
    """Four lines: tokens of each lane, then seconds of each."""

    def __init__(self) -> None:
        super().__init__(id="race-bars")
        self._run: RaceState | None = None

    def show_race(self, run: RaceState) -> None:
        """Draw a race as it stands."""
        self._run = run
        self.refresh()

    @override
    def render(self) -> Content:
        if self._run is None:
            return Content("")
        lanes = self._run.lanes
        scale = most = max(each.tokens for each in lanes.values())
        if not self._run.ended:
            # A power of two, so that a growing bar is halved now and then and never shrinks else.
            scale = _FIRST_SCALE
            while scale < most:
                scale *= 2
        slowest = max(each.seconds for each in lanes.values()) or 1.0
        lines = [
            self._bar("tokens", lane, each.tokens / max(scale, 1), _speed(each))
            for lane, each in lanes.items()
        ]
        lines += [
            self._bar("time", lane, each.seconds / slowest, _time(each))
            for lane, each in lanes.items()
        ]
        return Content("\n").join(lines)

    def _bar(self, what: str, lane: Lane, share: float, figures: str) -> Content:
        """A label, the bar, and as many of the figures as fit."""
        name = what if lane is Lane.PLAIN else ""
        label = Content.assemble((f" {name:<8}", "$notice"), (f"{lane.value:<13}", "$foreground"))
        width = _FIGURES if self.size.width >= _ROOMY else _FEW_FIGURES
        shown = Content.styled(figures[:width].ljust(width), "$foreground")
        if is_accessible(self):  # a bar is read aloud sign by sign
            return Content.assemble(label, shown)
        cells = max(0, self.size.width - _LABELS - width - 2)
        return Content.assemble(label, (gauge(share, cells), _STYLES[lane]), " ", shown)


def _speed(run: LaneState) -> str:
    return f"{run.tokens:>4}  {run.tokens_per_second:.1f} tok/s" if run.tokens else "0"


def _time(run: LaneState) -> str:
    text = f"{run.seconds:>6.2f} s"
    if not run.answer.statistics:
        return text
    totals = run.answer.statistics[-1].totals
    return f"{text}  {counted(totals.steps, 'step'):<9} {totals.tokens_per_step:.2f} each"
