"""The token tree of one step, a row per node, drawn line by line.

Owns how rows look; what they say is `tree_rows`. Only the visible rows are ever drawn, and a new
step of the same shape repaints this widget alone: nothing is laid out.
"""

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from sequoia_core.events import Step

from ..tree_rows import GLYPHS, Row, Verdict, guide_width, tree_rows
from ..visible import fit

_COLUMN = 7
_HEADINGS = 1
_CLASSES = {
    Verdict.ROOT: "tree-view--root",
    Verdict.ACCEPTED: "tree-view--accepted",
    Verdict.REJECTED: "tree-view--rejected",
    Verdict.NOT_REACHED: "tree-view--unreached",
    Verdict.BONUS: "tree-view--bonus",
}


class TreeView(ScrollView, can_focus=True):
    """Rows in preorder with draft and target probabilities in columns at the right."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"tree-view--heading", "tree-view--path", "tree-view--guide"} | set(
        _CLASSES.values()
    )
    DEFAULT_CSS = """
    TreeView {
        overflow-x: hidden;
        scrollbar-size-vertical: 1;
        & .tree-view--heading { color: $notice; }
        & .tree-view--guide { color: $unreached; }
        & .tree-view--path { color: $accepted; text-style: bold; }
        & .tree-view--root { color: $root; text-style: bold; }
        & .tree-view--accepted { color: $accepted; text-style: bold; background: $accepted 12%; }
        & .tree-view--rejected { color: $rejected; }
        & .tree-view--unreached { color: $unreached; }
        & .tree-view--bonus { color: $bonus; text-style: bold; background: $bonus 12%; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="tree")
        self._step: Step | None = None
        self._rows: tuple[Row, ...] | None = None
        self._rows_width = 0

    @property
    def step(self) -> Step | None:
        """The step on show."""
        return self._step

    def show(self, step: Step | None, *, reveal: bool = False) -> None:
        """Draw another step's tree.

        Args:
            step: the step, or None for an empty panel.
            reveal: scroll so that the end of the path is in view; not while decoding, when a
                picture that jumps could not be read.
        """
        if step is self._step:
            return
        before, self._step, self._rows = self._rows, step, None
        height = len(step.nodes) + 1 + _HEADINGS if step else 0
        if self.virtual_size.height != height:
            self.virtual_size = Size(self.size.width, height)
        if reveal and self.size:
            self._reveal_bonus()
        if before is None or step is None or height != len(before) + _HEADINGS:
            self.refresh()
        else:
            self._refresh_changed(before, self._current_rows(step))

    def _refresh_changed(self, before: tuple[Row, ...], rows: tuple[Row, ...]) -> None:
        """Repaint only visible rows that differ; with a fixed shape, guides and blanks stay."""
        top = self.scroll_offset.y
        for at in range(top, min(len(rows), top + self.size.height - _HEADINGS)):
            if rows[at] != before[at]:
                self.refresh_line(at + _HEADINGS)

    def notify_style_update(self) -> None:
        """Repaint in the new theme's colours."""
        super().notify_style_update()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One visible line: headings at the top, whatever the scrolling."""
        width = self.scrollable_content_region.width
        if self._step is None:
            text = "  the token tree of each step appears here" if y == _HEADINGS else ""
            style = self.get_component_rich_style("tree-view--heading")
            return Strip([Segment(fit(text, width), style)], width)
        if y < _HEADINGS:
            style = self.get_component_rich_style("tree-view--heading")
            text = fit("", max(0, width - 2 * _COLUMN)) + f"{'draft':>6} {'target':>6} "
            return Strip([Segment(fit(text, width), style)], width)
        at = y - _HEADINGS + self.scroll_offset.y
        rows = self._current_rows(self._step)
        if at >= len(rows):
            return Strip.blank(width, self.get_component_rich_style("tree-view--guide"))
        return self._draw(rows[at], width)

    def _current_rows(self, step: Step) -> tuple[Row, ...]:
        width = self.scrollable_content_region.width
        if self._rows is None or self._rows_width != width:
            self._rows = tree_rows(step, guide_width(step, width - 2 * _COLUMN))
            self._rows_width = width
        return self._rows

    def _reveal_bonus(self) -> None:
        rows = self._current_rows(self._step) if self._step else ()
        at = next((i for i, row in enumerate(rows) if row.verdict is Verdict.BONUS), 0)
        room = max(1, self.size.height - _HEADINGS)
        top = self.scroll_offset.y
        if not top <= at < top + room:
            self.scroll_to(y=max(0, at - room // 2), animate=False, force=True)

    def _draw(self, row: Row, width: int) -> Strip:
        style = self.get_component_rich_style(_CLASSES[row.verdict])
        path = self.get_component_rich_style("tree-view--path")
        light = self.get_component_rich_style("tree-view--guide")
        segments = [Segment(" ", light)]
        taken = 1
        for part in row.guides:
            segments.append(Segment(part.text, path if part.heavy else light))
            taken += cell_len(part.text)
        label = f"{GLYPHS[row.verdict]} {row.token}"
        if row.verdict is Verdict.BONUS:
            label += " bonus"
        columns = min(2 * _COLUMN, max(0, width - taken))
        segments.append(Segment(fit(label, width - taken - columns), style))
        draft = "lookup " if row.looked_up else _probability(row.draft_prob)
        figures = draft + _probability(row.target_prob)
        segments.append(Segment(figures[:columns], style))
        return Strip(segments).adjust_cell_length(width, light)


def _probability(value: float | None) -> str:
    """Two digits, so that a column of them can be compared at a glance."""
    return " " * _COLUMN if value is None else f"{value:>{_COLUMN - 1}.2f} "
