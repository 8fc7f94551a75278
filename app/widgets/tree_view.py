"""The token tree of one step, a row per node, drawn line by line.

Owns how rows look and which node is pointed at; what they say is `tree_rows`. Only the visible rows
are ever drawn, and a new step of the same shape repaints this widget alone: nothing is laid out.
"""

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.strip import Strip

from sequoia_core.events import Step

from ..present.accessible import is_accessible, row_in_words
from ..present.tree_rows import BONUS_NODE, GLYPHS, Row, Verdict, guide_width, tree_rows
from ..state.sanitize import fit
from .framed import FramedView
from .painted import Painted

_COLUMN = 7
_GLYPH = 2
"""Cells of a verdict's sign and the blank behind it."""
_HEADINGS = 1
_CLASSES = {
    Verdict.ROOT: "tree-view--root",
    Verdict.ACCEPTED: "tree-view--accepted",
    Verdict.REJECTED: "tree-view--rejected",
    Verdict.NOT_REACHED: "tree-view--unreached",
    Verdict.BONUS: "tree-view--bonus",
}


class TreeView(FramedView, can_focus=True, inherit_bindings=False):
    """Rows in preorder with draft and target probabilities in columns at the right.

    Attributes:
        pinned: the node pointed at is marked without the focus too, since something tells of it.
    """

    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "point(-1)", "Node before", show=False, id="tree.up"),
        Binding("down", "point(1)", "Node after", show=False, id="tree.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="tree.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="tree.page_down"),
        Binding("enter", "explain", "Why this node", show=False, id="tree.why"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tree-view--heading", "tree-view--path", "tree-view--guide", "tree-view--pointed",
        *_CLASSES.values(),
    }  # fmt: skip
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
        & .tree-view--pointed {
            color: $block-cursor-foreground;
            background: $block-cursor-background;
        }
    }
    """

    class Pointed(Message):
        """Another node is pointed at.

        Attributes:
            node: index in the step, or `BONUS_NODE`.
            asked: the person wants to know why it came out so.
        """

        def __init__(self, node: int, *, asked: bool) -> None:
            super().__init__()
            self.node = node
            self.asked = asked

    def __init__(self) -> None:
        super().__init__("tree")
        self._node: int | None = None
        self._pinned = False
        self._step: Step | None = None
        self._rows: tuple[Row, ...] | None = None
        self._rows_width = 0
        self._painted = Painted[Row]()

    @property
    def step(self) -> Step | None:
        """The step on show."""
        return self._step

    @property
    def node(self) -> int:
        """The node pointed at: as long as there is none such, the end of the accepted path."""
        if self._step is None:
            return BONUS_NODE
        known = self._node is not None and self._node < len(self._step.nodes)
        return self._node if known and self._node is not None else self._step.path[-1]

    @property
    def pinned(self) -> bool:
        """See the class."""
        return self._pinned

    @pinned.setter
    def pinned(self, pinned: bool) -> None:
        if pinned != self._pinned:
            self._pinned = pinned
            self.refresh()

    def point(self, node: int, *, asked: bool = False) -> None:
        """Point at a node and bring it into view."""
        if self._step is None:
            return
        self._node = node
        at, room = self._row_of(node), max(1, self.size.height - _HEADINGS)
        top = self.scroll_offset.y
        if not top <= at < top + room:
            self.scroll_to(y=at if at < top else at - room + 1, animate=False, force=True)
        self.refresh()
        self.post_message(self.Pointed(node, asked=asked))

    def action_point(self, by: int) -> None:
        """Point at a row so many below."""
        if self._step is not None:
            rows = self._current_rows(self._step)
            at = min(max(0, self._row_of(self.node) + by), len(rows) - 1)
            self.point(rows[at].node)

    def action_page(self, by: int) -> None:
        """Point at a row a page below."""
        self.action_point(by * max(1, self.size.height - _HEADINGS - 1))

    def action_explain(self) -> None:
        """Ask why the node came out so."""
        self.point(self.node, asked=True)

    def on_click(self, event: events.Click) -> None:
        """Point at the row; at the row pointed at already, ask why."""
        place = event.get_content_offset(self)
        if place is None or self._step is None or place.y < _HEADINGS:
            return
        at = place.y - _HEADINGS + self.scroll_offset.y
        rows = self._current_rows(self._step)
        if at < len(rows):
            self.point(rows[at].node, asked=rows[at].node == self._node)

    def on_focus(self) -> None:
        """Mark the node pointed at."""
        self.refresh()

    def on_blur(self) -> None:
        """Mark it no more."""
        self.refresh()

    def _row_of(self, node: int) -> int:
        rows = self._current_rows(self._step) if self._step is not None else ()
        return next((at for at, row in enumerate(rows) if row.node == node), 0)

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
        self._painted = Painted()
        self.refresh()

    def render_lines(self, crop: Region) -> list[Strip]:
        """What is painted."""
        return self.framed(crop, self._lines)

    def _lines(self, at: range) -> list[Strip]:
        brush, blank = self.brush, self.get_component_rich_style("tree-view--guide")
        self._painted.use((brush.look, self._marked, is_accessible(self)))

        def paint(row: Row) -> Strip:
            return brush.paint(self._draw(row, brush.text_width), blank)

        def line(y: int) -> Strip:
            row = self._row_at(y)
            if row is None:
                return brush.paint(self.render_line(y), blank)
            return self._painted.line(row, paint)

        return [line(y) for y in at]

    def render_line(self, y: int) -> Strip:
        """One visible line: headings at the top, whatever the scrolling."""
        width = self.scrollable_content_region.width
        row = self._row_at(y)
        if row is not None:
            return self._draw(row, width)
        style = self.get_component_rich_style("tree-view--heading")
        if self._step is None:
            text = "  the token tree of each step appears here" if y == _HEADINGS else ""
        elif y >= _HEADINGS or is_accessible(self):
            text = ""
        else:
            text = fit("", max(0, width - 2 * _COLUMN)) + f"{'draft':>6} {'target':>6} "
        return Strip([Segment(fit(text, width), style)], width)

    @property
    def _marked(self) -> int | None:
        """The node that is marked as pointed at."""
        return self.node if self.has_focus or self._pinned else None

    def _row_at(self, y: int) -> Row | None:
        if self._step is None or y < _HEADINGS:
            return None
        rows, at = self._current_rows(self._step), y - _HEADINGS + self.scroll_offset.y
        return rows[at] if at < len(rows) else None

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

    def _tell(self, row: Row, width: int, *, marked: bool) -> Strip:
        """A row in words."""
        assert self._step is not None
        style = self.get_component_rich_style(_CLASSES[row.verdict])
        at = self._step.path[-1] if row.node == BONUS_NODE else row.node
        depth = self._step.nodes[at].depth + (row.node == BONUS_NODE)
        text = ("> " if marked else "  ") + row_in_words(row, depth)
        return Strip([Segment(fit(text, width), style)], width)

    def _draw(self, row: Row, width: int) -> Strip:
        marked = row.node == self._marked
        if is_accessible(self):
            return self._tell(row, width, marked=marked)
        style = self.get_component_rich_style(_CLASSES[row.verdict])
        path = self.get_component_rich_style("tree-view--path")
        light = self.get_component_rich_style("tree-view--guide")
        segments = [Segment("▸" if marked else " ", light)]
        taken = 1
        for part in row.guides:
            segments.append(Segment(part.text, path if part.heavy else light))
            taken += cell_len(part.text)
        label = f"{GLYPHS[row.verdict]} {row.token}"
        if row.verdict is Verdict.BONUS:
            label += " bonus"
        columns = min(2 * _COLUMN, max(0, width - taken))
        label = fit(label, width - taken - columns)
        if style.strike:  # the token alone: figures that are struck out cannot be read
            token, style = style, style + Style(strike=False)
            glyph, text = label[:_GLYPH], label[_GLYPH:].rstrip()
            segments += [Segment(glyph, style), Segment(text, token)]
            label = label[_GLYPH + len(text) :]
        segments.append(Segment(label, style))
        draft = "lookup " if row.looked_up else _probability(row.draft_prob)
        figures = draft + _probability(row.target_prob)
        segments.append(Segment(figures[:columns], style))
        strip = Strip(segments).adjust_cell_length(width, light)
        if not marked:
            return strip
        pointed = self.get_component_rich_style("tree-view--pointed")
        colors = Style(color=pointed.color, bgcolor=pointed.bgcolor)
        return Strip(Segment.apply_style(strip, post_style=colors))


def _probability(value: float | None) -> str:
    """Two digits, so that a column of them can be compared at a glance."""
    return " " * _COLUMN if value is None else f"{value:>{_COLUMN - 1}.2f} "
