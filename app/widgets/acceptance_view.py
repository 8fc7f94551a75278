"""The acceptance map: how often each position of the tree was accepted, and what was expected."""

from collections.abc import Iterator
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from typing_extensions import override

from ..present.acceptance_map import AcceptanceMap, AcceptanceRow
from ..present.accessible import is_accessible
from ..present.tree_rows import MAX_GUIDE_CELLS, ordinal
from ..state.sanitize import fit
from .bars import gauge

_HEADINGS = 2
_FIGURES = 18
_LABEL, _LEAST_BAR = 5, 6
_MOST_GUIDES = MAX_GUIDE_CELLS // 3
_SHADES = 16
_HOTTEST = 0.55
"""Share of the colour in the background of what is always accepted; text stays readable on it."""


class AcceptanceView(ScrollView, can_focus=True, inherit_bindings=False):
    """Positions in preorder with a bar each, actual and expected rate in columns at the right."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_up", "Scroll up", show=False, id="heat.up"),
        Binding("down", "scroll_down", "Scroll down", show=False, id="heat.down"),
        Binding("pageup", "page_up", "Page up", show=False, id="heat.page_up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="heat.page_down"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "acceptance--heading", "acceptance--guide", "acceptance--text", "acceptance--hot",
        "acceptance--mark", "acceptance--more", "acceptance--less",
    }  # fmt: skip
    DEFAULT_CSS = """
    AcceptanceView {
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & .acceptance--heading { color: $notice; }
        & .acceptance--guide { color: $unreached; }
        & .acceptance--text { color: $foreground; }
        & .acceptance--hot { color: $accepted; }
        & .acceptance--mark { color: $bonus; }
        & .acceptance--more { color: $accepted; text-style: bold; }
        & .acceptance--less { color: $bonus; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="heat")
        self._map = AcceptanceMap()
        self._rows: list[AcceptanceRow] = []
        self._deepest = 0
        self._shades: list[Style] = []

    def show(self, acceptance: AcceptanceMap) -> None:
        """Draw what is counted now."""
        self._map = acceptance
        self._rows = acceptance.rows()
        levels = min(_MOST_GUIDES, max((len(row.guides) for row in self._rows), default=0))
        self._deepest = 1 + 3 * levels
        height = len(self._rows) + _HEADINGS
        if self.virtual_size.height != height:
            self.virtual_size = Size(self.size.width, height)
        self.refresh()

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._shades = []
        self.refresh()

    @override
    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        at = y - _HEADINGS + self.scroll_offset.y
        if y >= _HEADINGS and at < len(self._rows):
            return self._draw(self._rows[at], width)
        text = ""
        if y == 0:
            text = f" {self._title()}"
        elif y == 1 and not is_accessible(self):
            text = fit(" child rank", max(0, width - _FIGURES)) + f"{'got':>5} {'expected':>9}   "
        return Strip([Segment(fit(text, width), self._style("heading"))], width)

    def _title(self) -> str:
        counted = self._map
        if not counted.steps:
            return "how often each place of the tree is accepted appears here"
        steps = f"steps {counted.first} to {counted.last}"
        if counted.steps == 1:
            steps = f"step {counted.last}"
        if not self._rows:
            return f"{steps}: decoded plainly, no tree"
        name = counted.chosen.tree.growmap if counted.chosen is not None else ""
        return f"accepted in {steps}, {name or 'this tree'}"

    def _draw(self, row: AcceptanceRow, width: int) -> Strip:
        rate = row.rate.value or 0.0
        if is_accessible(self):
            words = f" child {', '.join(map(ordinal, row.position))}: accepted {rate:.2f}"
            if row.expected is not None:
                words += f", expected {row.expected:.2f}"
            return Strip([Segment(fit(words, width), self._style("text"))], width)
        guide = self._style("guide")
        segments = [Segment(" ", guide)]
        segments += [Segment(part.text, guide) for part in row.guides[-_MOST_GUIDES:]]
        taken = Segment.get_line_length(segments)
        label = ordinal(row.position[-1])
        # All bars begin at one column, so that they can be compared.
        before = max(taken, min(self._deepest, width - _FIGURES - _LEAST_BAR)) + _LABEL
        segments += [
            Segment(fit(label, min(len(label), max(0, before - taken))), self._shade(rate)),
            Segment(" " * (before - taken - len(label)), guide),
            *self._bar(rate, row.expected, max(0, width - before - _FIGURES)),
            *self._figures(rate, row.expected),
        ]
        return Strip(segments).adjust_cell_length(width, guide)

    def _bar(self, rate: float, expected: float | None, room: int) -> Iterator[Segment]:
        """The rate as a bar, and a mark where the expected one ends."""
        bar, hot = gauge(rate, room), self._style("hot")
        if expected is None or not room:
            yield Segment(bar, hot)
            return
        at = min(room - 1, round(expected * room))
        yield Segment(bar[:at], hot)
        yield Segment("┃", self._style("mark"))
        yield Segment(bar[at + 1 :], hot)

    def _figures(self, rate: float, expected: float | None) -> Iterator[Segment]:
        less = expected is not None and rate < expected
        yield Segment(f" {rate:.2f}", self._style("less" if less else "more"))
        wanted = "–" if expected is None else f"{expected:.2f}"
        mark = " " if expected is None else "▼" if less else "▲"
        yield Segment(f" {wanted:>9} {mark} ", self._style("text"))

    def _shade(self, rate: float) -> Style:
        """The higher the rate, the more of the accepted colour in the background."""
        if not self._shades:
            hot = self.get_component_styles("acceptance--hot").color
            cold = self.background_colors[1]
            text = self._style("text").color
            mixes = hot.ansi is None and cold.ansi is None  # a terminal's own colours do not
            for at in range(_SHADES):
                mixed = cold.blend(hot, at / (_SHADES - 1) * _HOTTEST, alpha=1.0) if mixes else None
                self._shades.append(Style(color=text, bgcolor=mixed and mixed.rich_color))
        return self._shades[round(rate * (_SHADES - 1))]

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"acceptance--{name}")
