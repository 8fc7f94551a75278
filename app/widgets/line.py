"""Lines of given content, and what is drawn in them: bars, sparklines, text at both ends."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from textual.content import Content
from textual.widget import Widget
from typing_extensions import override

from sequoia_core.events import Totals

from ..state.figures import per_pass, speed_words

_SPARKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = f" {_SPARKS}"


class Line(Widget):
    """Shows the content it was given last, and never causes a layout."""

    ALLOW_SELECT = False
    ID: str | None = None  # of the widgets of a class

    def __init__(self, content: str = "", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id or self.ID)
        self._content = Content(content)

    def show(self, content: str | Content) -> None:
        """Draw other content; plain text is never read as markup."""
        fresh = Content.from_text(content, markup=False)
        if not fresh.is_same(self._content):
            self._content = fresh
            self.refresh()

    @override
    def render(self) -> Content:
        return self._content


def speed_text(speedup: float, *, short: bool = False, other: str = "plain") -> Content:
    """Wall clock against plain decoding, in the colour of a gain or of a loss."""
    gain = speed_words(speedup, short=True)
    color = "$accepted" if "faster" in gain else "$rejected" if "slower" in gain else "$notice"
    return Content.styled(speed_words(speedup, short=short, other=other), color)


def headline(totals: Totals, speedup: float | None) -> list[Content]:
    """Tokens per pass, and wall clock where it is known."""
    parts = [Content.styled(per_pass(totals.tokens_per_step), "bold $foreground")]
    return parts if speedup is None else [*parts, speed_text(speedup, short=True)]


def first_fitting(forms: Iterable[Content], room: int) -> Content:
    """The first of these forms that fits, or else the last; no later one is made."""
    shown = Content("")
    for shown in forms:
        if shown.cell_length <= room:
            break
    return shown


def sparkline(values: Sequence[float], cells: int) -> str:
    """The last `cells` values as bars between 0 and their maximum."""
    shown = values[-cells:] if cells > 0 else ()
    top = max(shown, default=0.0) or 1.0
    return "".join(_SPARKS[round(value / top * (len(_SPARKS) - 1))] for value in shown)


def bar_chart(values: Sequence[float], cells: int, rows: int) -> list[str]:
    """All values as bars from 0 to their maximum, in rows of exactly `cells` cells, top first.

    Several values that share a cell are averaged.
    """
    top, count = max(values, default=0.0) or 1.0, len(values)
    levels = []
    for cell in range(cells if count else 0):
        start = cell * count // cells
        share = fmean(values[start : max(start + 1, (cell + 1) * count // cells)]) / top
        levels.append(round(share * rows * 8))
    return [
        "".join(_LEVELS[min(8, max(0, level - 8 * row))] for level in levels).ljust(cells)
        for row in reversed(range(rows))
    ]


def gauge(value: float | None, cells: int) -> str:
    """A share between 0 and 1 as a bar of exactly `cells` cells, to an eighth of a cell."""
    whole, part = divmod(round(max(0.0, min(1.0, value or 0.0)) * cells * 8), 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(cells)


def indented(lines: Iterable[Content]) -> Content:
    """Lines one below the other, each behind a blank."""
    return Content("\n").join(Content.assemble(" ", line) for line in lines)


def spread(left: Content, right: Content, width: int) -> Content:
    """Both at the ends of a line; the left part alone where there is no room for both."""
    gap = width - left.cell_length - right.cell_length - 1
    return Content.assemble(left, " " * gap, right) if gap > 0 else left
