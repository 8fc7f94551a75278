"""Bars that show a step, the time in a recording, and both lanes of a race."""

from dataclasses import dataclass
from typing import NamedTuple

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.chat.race import Lane
from sequoia_core.errors import counted
from sequoia_core.events import Step

from ..present.accessible import is_accessible, step_in_words, summary_rows
from ..state.answer import Statistics, step_speedup
from ..state.race_state import LaneState, RaceState
from ..state.sanitize import fit, visible
from ..state.summary import Summary
from .answer_summary import summary_line, summary_lines
from .line import Line, first_fitting, gauge, indented, speed_text, spread

_LEAST_SEEK = 8
_FIRST_SCALE = 16
"""Tokens that a race's bar is wide for at first; doubled whenever a lane outgrows it."""
_LANES = {Lane.FIRST: "$verify", Lane.SECOND: "$speedup"}
_LABEL, _LONG_LABEL, _ROOMY = 12, 24, 100  # cells of a lane's label; the longer from so many on
_FIGURES = 24  # cells behind a race's bar


class StepBar(Line):
    """One step's outcome and where its time went, in one line or three.

    The times differ in glyph as well as in colour, for terminals without colour.
    """

    shown: reactive[tuple[Step | None, Statistics | None, str]] = reactive((None, None, ""))
    """A step and the figures after it, or what happens before the first step."""
    summary: reactive[Summary | None] = reactive(None)
    """Of a finished answer; shown where no panel of statistics has it."""
    best_key = ""  # goes to the best step

    @override
    def render(self) -> Content:
        (step, statistics, waiting), width = self.shown, self.size.width
        if self.summary is not None and not self._has_panel:
            return self._summed_up(self.summary)
        if step is None or statistics is None:
            return Content.styled(fit(f" {waiting or 'no step yet'}", width), "$notice")
        if is_accessible(self):
            return Content("\n").join(Content(step_in_words(step)).wrap(max(1, width)))
        lines = [_outcome(step, width)]
        if self.size.height >= 3:
            so_far = statistics if self.summary is None else None  # else it is below
            lines += [_time_bar(step, width - 2), _times(step, so_far, width)]
        return Content("\n").join(lines)

    def on_resize(self) -> None:
        self.call_after_refresh(self.refresh)  # the screen's classes change after the size

    @property
    def _has_panel(self) -> bool:
        """Whether a panel of statistics is below."""
        has = self.screen.has_class
        return self.id != "strip" and (has("-roomy") or (has("-tall") and not has("-captioned")))

    def _summed_up(self, summary: Summary) -> Content:
        width, height = self.size
        if is_accessible(self):
            return Content("\n").join(summary_rows(summary, max(1, width), height))
        if height < 3:
            return Content.assemble(" ", summary_line(summary, width - 1))
        lines = summary_lines(summary, width - 2, height, self.best_key)
        return indented(lines)


def _outcome(step: Step, width: int) -> Content:
    """What a step gave, in what time, and its speed-up; less where there is no room."""
    count, own = len(step.token_ids), " target's own"
    tokens = (counted(count, "token"), "bold $foreground")
    time = (f" in {step.timings.total_ms:.1f} ms", "$notice")
    if step.baseline:
        start = [(" plain step", "bold $bonus")]
        gives = [", to measure what plain decoding takes: ", ": "]
    else:
        start = [
            (f" {step.accepted}", "bold $accepted"), (" accepted + ", "$notice"),
            ("1", "bold $bonus"),
        ]  # fmt: skip
        gives = [f"{own} = " if count == step.accepted + 1 else f"{own}, cut to "]
    ends = [[(text, "$notice"), tokens, time] for text in gives]
    between, number = (gives[-1], "$notice"), (str(count), "bold $foreground")
    ends.append([between, tokens])
    if not step.baseline:
        ends += [[between, number], [(gives[-1].removeprefix(own), "$notice"), tokens]]
    forms = (Content.assemble(*start, *end) for end in ends)
    speedup = 0.0 if step.baseline else step_speedup(step)  # it is as fast as plain
    right = speed_text(speedup, short=True) if speedup else Content("")
    return spread(first_fitting(forms, width - right.cell_length - 2), right, width)


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


def _times(step: Step, so_far: Statistics | None, width: int) -> Content:
    """How long its parts took, and the figures up to it."""
    times = step.timings
    left = Content.assemble(
        (" █", "$draft"), (f" draft {times.draft_ms:.1f}  ", "$notice"),
        ("▓", "$verify"), (f" target {times.verify_ms:.1f}  ", "$notice"),
        ("░", "$bookkeeping"), (f" rest {times.bookkeeping_ms:.1f} ms", "$notice"),
    )  # fmt: skip
    if so_far is None:
        return left
    passes = f"so far {so_far.totals.tokens_per_step:.2f} per pass"
    forms = [Content.styled(passes, "bold $foreground"), Content("")]
    if so_far.speedup:
        forms.insert(0, Content.assemble(forms[0], "  ", speed_text(so_far.speedup, short=True)))
    return spread(left, first_fitting(forms, width - left.cell_length - 2), width)


class PlayerPosition(NamedTuple):
    seconds: float = 0.0
    total: float = 0.0  # length of the recording, as far as it is known
    playing: bool = False
    speed: float = 1.0  # recorded seconds per second
    where: str = ""  # answer and step, in words
    loaded: float = 1.0  # share of the file that was read


class SeekBar(Line):
    """The time line of a recording: a bar, the position in it, and the speed."""

    ID = "seek"
    position: reactive[PlayerPosition] = reactive(PlayerPosition())

    @dataclass
    class Clicked(Message):
        """The bar was clicked at a share of the recording, 0 to 1."""

        share: float

    @override
    def render(self) -> Content:
        now = self.position
        if is_accessible(self):
            state = "playing" if now.playing else "paused"
            times = f"{clock(now.seconds)} of {clock(now.total)}"
            return Content(f"{state}, {times}, {now.speed:g} times the pace, {now.where}")
        left, right, cells = self._parts()
        if cells <= 0:
            return Content.assemble(left, right)
        loaded = round(cells * now.loaded)
        filled = min(round(cells * now.seconds / now.total) if now.total else 0, loaded)
        return Content.assemble(
            left,
            ("━" * filled + "●", "bold $primary"),
            ("─" * (loaded - filled), "$unreached"),
            " " * (cells - loaded),
            right,
        )

    def on_click(self, event: events.Click) -> None:
        left, _, cells = self._parts()
        at = event.x - left.cell_length
        if cells > 0 and not is_accessible(self) and 0 <= at <= cells:
            self.post_message(self.Clicked(at / cells))

    def _parts(self) -> tuple[Content, Content, int]:
        """What is left and right of the bar, and its cells without the knob; 0 if too few."""
        now = self.position
        sign = (" ► ", "bold $primary") if now.playing else (" ‖ ", "bold $bonus")
        times = f"{clock(now.seconds)} / {clock(now.total)} "
        loading = f" reading {now.loaded:.0%}" if now.loaded < 1 else ""
        left = Content.assemble(sign, (times, "$foreground"))
        right = Content.assemble(
            (f" {now.speed:g}x", "bold $speedup"), (f"  {now.where}{loading} ", "$notice")
        )
        cells = self.size.width - left.cell_length - right.cell_length - 1
        return left, right, cells if cells >= _LEAST_SEEK else 0


def clock(seconds: float) -> str:
    """Minutes and seconds to a tenth."""
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


class RaceBars(Line):
    """Four lines: tokens of each lane of a race, then seconds of each; or the first two."""

    ID = "race-bars"
    _race: RaceState | None = None

    def show_race(self, race: RaceState) -> None:
        self._race = race
        self.refresh()

    @override
    def render(self) -> Content:
        if self._race is None:
            return Content("")
        lanes = self._race.lanes.items()
        scale = most = max(lane.tokens for _, lane in lanes)
        if not self._race.ended:
            # A power of two, so that a growing bar is halved now and then and never shrinks else.
            scale = max(_FIRST_SCALE, 1 << (most - 1).bit_length())
        slowest = max(lane.seconds for _, lane in lanes) or 1.0
        bars = [
            self._bar("tokens", key, at.tokens / max(scale, 1), _speed(at)) for key, at in lanes
        ]
        if self.size.height > len(bars):
            bars += [self._bar("time", key, at.seconds / slowest, _time(at)) for key, at in lanes]
        return Content("\n").join(bars)

    def _bar(self, what: str, key: Lane, share: float, figures: str) -> Content:
        assert self._race is not None
        name = what if key is Lane.FIRST else ""
        labels = {each: visible(lane.label) for each, lane in self._race.lanes.items()}
        most = _LONG_LABEL if self.size.width >= _ROOMY else _LABEL
        longest = max(map(cell_len, labels.values()))
        lane = fit(labels[key], max(_LABEL, min(most, longest)))
        label = Content.assemble((f" {name:<8}", "$notice"), (f"{lane} ", "$foreground"))
        shown = Content.styled(figures.ljust(_FIGURES), "$foreground")
        if is_accessible(self):  # a bar is read aloud sign by sign
            return Content.assemble(label, shown)
        cells = max(0, self.size.width - label.cell_length - _FIGURES - 2)
        return Content.assemble(label, (gauge(share, cells), _LANES[key]), " ", shown)


def _speed(lane: LaneState) -> str:
    return f"{lane.tokens:>4}  {lane.tokens_per_second:.1f} tokens/s" if lane.tokens else "0"


def _time(lane: LaneState) -> str:
    text = f"{lane.seconds:>6.2f} s"
    if not lane.answer.statistics:
        return text
    totals = lane.answer.statistics[-1].totals
    return f"{text}  {totals.tokens_per_step:.2f} per pass"
