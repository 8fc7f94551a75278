"""The line of time of a recording: a bar, where in it one is, and how fast it goes.

Knows no recording: it shows what it is told and says where it was clicked.
"""

from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message

from ..present.accessible import is_accessible
from .line import Line

_LEAST_BAR = 8
_SIGNS = {True: "►", False: "‖"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a player is.

    Attributes:
        seconds: into the recording.
        total: of the recording, as far as it is known.
        playing: whether time passes.
        speed: seconds of the recording in a second.
        where: which answer and step, in words.
        loaded: share of the file that was read.
    """

    seconds: float = 0.0
    total: float = 0.0
    playing: bool = False
    speed: float = 1.0
    where: str = ""
    loaded: float = 1.0


class SeekBar(Line):
    """One line; a click on the bar goes there."""

    DEFAULT_CSS = """
    SeekBar { height: 1; }
    """

    class Sought(Message):
        """The bar was clicked.

        Attributes:
            share: of the recording, 0 to 1.
        """

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

    def __init__(self) -> None:
        super().__init__(id="seek")
        self._place = Place()

    def show_place(self, place: Place) -> None:
        """Draw another place."""
        if place != self._place:
            self._place = place
            self.refresh()

    def render(self) -> Content:
        """Sign, time, bar, speed, and where in words, as far as there is room."""
        if is_accessible(self):
            return self._in_words()
        left, right = self._parts()
        _, cells = self._bar()
        if cells <= 0:
            return Content.assemble(left, right)
        place = self._place
        filled = round(cells * place.seconds / place.total) if place.total else 0
        known = round(cells * place.loaded)
        filled = min(filled, known)
        return Content.assemble(
            left,
            ("━" * filled, "bold $primary"),
            ("●", "bold $primary"),
            ("─" * (known - filled), "$unreached"),
            " " * (cells - known),
            right,
        )

    def on_click(self, event: events.Click) -> None:
        """Say where on the bar it was."""
        start, cells = self._bar()
        if cells > 0 and not is_accessible(self) and start <= event.x <= start + cells:
            self.post_message(self.Sought((event.x - start) / cells))

    def _in_words(self) -> Content:
        place = self._place
        state = "playing" if place.playing else "paused"
        times = f"{clock(place.seconds)} of {clock(place.total)}"
        return Content(f"{state}, {times}, {place.speed:g} times the pace, {place.where}")

    def _parts(self) -> tuple[Content, Content]:
        place = self._place
        left = Content.assemble(
            (f" {_SIGNS[place.playing]} ", "bold $primary" if place.playing else "bold $bonus"),
            (f"{clock(place.seconds)} / {clock(place.total)} ", "$foreground"),
        )
        loading = f" reading {place.loaded:.0%}" if place.loaded < 1 else ""
        right = Content.assemble(
            (f" {place.speed:g}x", "bold $speedup"), (f"  {place.where}{loading} ", "$notice")
        )
        return left, right

    def _bar(self) -> tuple[int, int]:
        """Where the bar begins, and its cells besides the knob; 0 where there is no room."""
        left, right = self._parts()
        cells = self.size.width - left.cell_length - right.cell_length - 1
        return left.cell_length, cells if cells >= _LEAST_BAR else 0


def clock(seconds: float) -> str:
    """Minutes and seconds to a tenth."""
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
