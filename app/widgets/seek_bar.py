"""The time line of a recording: a bar, the position in it, and the speed."""

from dataclasses import dataclass

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from typing_extensions import override

from ..present.accessible import is_accessible
from .line import Line

_LEAST_BAR = 8


@dataclass(frozen=True, slots=True)
class PlayerPosition:
    """Where a player is.

    Attributes:
        seconds: into the recording.
        total: length of the recording, as far as it is known.
        playing: whether time passes.
        speed: recorded seconds per second.
        where: answer and step, in words.
        loaded: share of the file that was read.
    """

    seconds: float = 0.0
    total: float = 0.0
    playing: bool = False
    speed: float = 1.0
    where: str = ""
    loaded: float = 1.0


class SeekBar(Line):
    """One line; a click on the bar goes to that time.

    Attributes:
        position: that is drawn.
    """

    DEFAULT_CSS = """
    SeekBar { height: 1; }
    """
    position: reactive[PlayerPosition] = reactive(PlayerPosition())

    @dataclass
    class Clicked(Message):
        """The bar was clicked at a share of the recording, 0 to 1."""

        share: float

    def __init__(self) -> None:
        super().__init__(id="seek")

    @override
    def render(self) -> Content:
        now = self.position
        if is_accessible(self):
            state = "playing" if now.playing else "paused"
            times = f"{clock(now.seconds)} of {clock(now.total)}"
            return Content(f"{state}, {times}, {now.speed:g} times the pace, {now.where}")
        left, right = self._ends()
        _, cells = self._bar()
        if cells <= 0:
            return Content.assemble(left, right)
        loaded = round(cells * now.loaded)
        filled = min(round(cells * now.seconds / now.total) if now.total else 0, loaded)
        return Content.assemble(
            left,
            ("━" * filled, "bold $primary"),
            ("●", "bold $primary"),
            ("─" * (loaded - filled), "$unreached"),
            " " * (cells - loaded),
            right,
        )

    def on_click(self, event: events.Click) -> None:
        """Post the share of the recording."""
        start, cells = self._bar()
        if cells > 0 and not is_accessible(self) and start <= event.x <= start + cells:
            self.post_message(self.Clicked((event.x - start) / cells))

    def _ends(self) -> tuple[Content, Content]:
        now = self.position
        sign = (" ► ", "bold $primary") if now.playing else (" ‖ ", "bold $bonus")
        times = f"{clock(now.seconds)} / {clock(now.total)} "
        loading = f" reading {now.loaded:.0%}" if now.loaded < 1 else ""
        right = Content.assemble(
            (f" {now.speed:g}x", "bold $speedup"), (f"  {now.where}{loading} ", "$notice")
        )
        return Content.assemble(sign, (times, "$foreground")), right

    def _bar(self) -> tuple[int, int]:
        """Start of the bar, and its cells without the knob; 0 where there is no room."""
        left, right = self._ends()
        cells = self.size.width - left.cell_length - right.cell_length - 1
        return left.cell_length, cells if cells >= _LEAST_BAR else 0


def clock(seconds: float) -> str:
    """Minutes and seconds to a tenth."""
    tenths = int(seconds * 10)
    return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"
