"""The heat map: how often each place of the tree was accepted, beside what it was made for.

Drawn line by line like the tree it stands in for. What is counted is `heat`.
"""

from typing import ClassVar

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ..present.acceptance_map import HeatMap, HeatRow
from ..present.accessible import is_accessible
from ..present.tree_rows import MAX_GUIDE_CELLS, ordinal
from ..state.sanitize import fit
from .statistics import gauge

_HEADINGS = 2
_FIGURES = 18
_LABEL, _LEAST_BAR = 5, 6
_MOST_GUIDES = MAX_GUIDE_CELLS // 3
_SHADES = 16
_HOTTEST = 0.55
"""Share of the colour in the background of what is always accepted; text stays readable on it."""


class HeatView(ScrollView, can_focus=True, inherit_bindings=False):
    """Places in preorder with a bar each, got and expected in columns at the right."""

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_up", "Scroll up", show=False, id="heat.up"),
        Binding("down", "scroll_down", "Scroll down", show=False, id="heat.down"),
        Binding("pageup", "page_up", "Page up", show=False, id="heat.page_up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="heat.page_down"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "heat-view--heading", "heat-view--guide", "heat-view--text", "heat-view--hot",
        "heat-view--mark", "heat-view--more", "heat-view--less",
    }  # fmt: skip
    DEFAULT_CSS = """
    HeatView {
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & .heat-view--heading { color: $notice; }
        & .heat-view--guide { color: $unreached; }
        & .heat-view--text { color: $foreground; }
        & .heat-view--hot { color: $accepted; }
        & .heat-view--mark { color: $bonus; }
        & .heat-view--more { color: $accepted; text-style: bold; }
        & .heat-view--less { color: $bonus; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="heat")
        self._map = HeatMap()
        self._rows: list[HeatRow] = []
        self._deepest = 0
        self._shades: list[Style] = []

    def show(self, heat: HeatMap) -> None:
        """Draw what is counted now."""
        self._map = heat
        self._rows = heat.rows()
        levels = min(_MOST_GUIDES, max((len(row.guides) for row in self._rows), default=0))
        self._deepest = 1 + 3 * levels
        size = Size(self.size.width, len(self._rows) + _HEADINGS)
        if self.virtual_size.height != size.height:
            self.virtual_size = size
        self.refresh()

    def notify_style_update(self) -> None:
        """Repaint in the new theme's colours."""
        super().notify_style_update()
        self._shades = []
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One visible line: headings at the top, whatever the scrolling."""
        width = self.scrollable_content_region.width
        heading = self.get_component_rich_style("heat-view--heading")
        if y == 0:
            return Strip([Segment(fit(f" {self._told()}", width), heading)], width)
        if y == 1 and is_accessible(self):
            return Strip.blank(width, heading)
        if y == 1:
            text = fit(" child rank", max(0, width - _FIGURES)) + f"{'got':>5} {'expected':>9}   "
            return Strip([Segment(fit(text, width), heading)], width)
        at = y - _HEADINGS + self.scroll_offset.y
        if at >= len(self._rows):
            return Strip.blank(width, heading)
        return self._draw(self._rows[at], width)

    def _told(self) -> str:
        """What is counted."""
        heat = self._map
        if not heat.steps:
            return "how often each place of the tree is accepted appears here"
        name = heat.chosen.tree.growmap if heat.chosen is not None else ""
        steps = f"step {heat.last}" if heat.steps == 1 else f"steps {heat.first} to {heat.last}"
        if not self._rows:
            return f"{steps}: decoded plainly, no tree"
        return f"accepted in {steps}, {name or 'this tree'}"

    def _draw(self, row: HeatRow, width: int) -> Strip:
        if is_accessible(self):
            text = self.get_component_rich_style("heat-view--text")
            return Strip([Segment(fit(f" {_in_words(row)}", width), text)], width)
        guide = self.get_component_rich_style("heat-view--guide")
        guides = row.guides[-_MOST_GUIDES:]
        segments = [Segment(" ", guide), *(Segment(part.text, guide) for part in guides)]
        taken = sum(segment.cell_length for segment in segments)
        label = ordinal(row.place[-1])
        # All bars begin at one column, so that they can be compared.
        before = max(taken, min(self._deepest, width - _FIGURES - _LEAST_BAR)) + _LABEL
        room = max(0, width - before - _FIGURES)
        segments += [
            Segment(fit(label, min(len(label), max(0, before - taken))), self._shade(row.got)),
            Segment(" " * (before - taken - len(label)), guide),
            *self._bar(row, room),
            *self._figures(row),
        ]
        return Strip(segments).adjust_cell_length(width, guide)

    def _bar(self, row: HeatRow, room: int) -> list[Segment]:
        """How often it was accepted as a bar, and a mark where that was expected to end."""
        hot = self.get_component_rich_style("heat-view--hot")
        bar = gauge(row.got, room)
        if row.expected is None or not room:
            return [Segment(bar, hot)]
        at = min(room - 1, round(row.expected * room))
        mark = self.get_component_rich_style("heat-view--mark")
        return [Segment(bar[:at], hot), Segment("┃", mark), Segment(bar[at + 1 :], hot)]

    def _figures(self, row: HeatRow) -> list[Segment]:
        """What happened, what was expected, and which is more."""
        less = row.expected is not None and row.got < row.expected
        style = self.get_component_rich_style(f"heat-view--{'less' if less else 'more'}")
        text = self.get_component_rich_style("heat-view--text")
        wanted = "–" if row.expected is None else f"{row.expected:.2f}"
        mark = " " if row.expected is None else "▼" if less else "▲"
        return [Segment(f" {row.got:.2f}", style), Segment(f" {wanted:>9} {mark} ", text)]

    def _shade(self, share: float) -> Style:
        """The hotter, the more of the accepted colour in the background."""
        if not self._shades:
            hot = self.get_component_styles("heat-view--hot").color
            front = self.get_component_rich_style("heat-view--text").color
            cold = self.background_colors[1]
            mixes = hot.ansi is None and cold.ansi is None  # a terminal's own colours do not
            self._shades = [
                Style(color=front, bgcolor=_mixed(cold, hot, at / (_SHADES - 1)) if mixes else None)
                for at in range(_SHADES)
            ]
        return self._shades[round(share * (_SHADES - 1))]


def _in_words(row: HeatRow) -> str:
    """A row as a sentence that needs neither guides nor columns."""
    place = ", ".join(map(ordinal, row.place))
    wanted = "" if row.expected is None else f", expected {row.expected:.2f}"
    return f"child {place}: accepted {row.got:.2f}{wanted}"


def _mixed(cold: Color, hot: Color, share: float) -> RichColor:
    return cold.blend(hot, share * _HOTTEST, alpha=1.0).rich_color
