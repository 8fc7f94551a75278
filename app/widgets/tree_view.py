"""The token tree of one step, one row per node."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from typing_extensions import override

from sequoia_core.events import Step

from ..config.actions import bindings
from ..present.accessible import is_accessible, row_in_words
from ..present.tree_rows import BONUS_NODE, GLYPHS, NodeVerdict, TreeRow, guide_width, tree_rows
from ..state.sanitize import fit
from .line_view import LineView

_COLUMN = 7
_GLYPH = 2  # cells of a verdict's glyph and the blank after it
_HEADINGS = 1
_CLASSES = {verdict: f"tree-view--{verdict.value}" for verdict in NodeVerdict}
_CLASSES[NodeVerdict.NOT_REACHED] = "tree-view--unreached"


class TreeView(LineView[TreeRow], can_focus=True, inherit_bindings=False):
    """Rows in preorder with draft and target probabilities in columns at the right."""

    ALLOW_SELECT = False
    BORDER_TITLE = "Tree"
    BINDINGS = bindings("tree")
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tree-view--heading", "tree-view--path", "tree-view--guide", "tree-view--pointed",
        *_CLASSES.values(),
    }  # fmt: skip
    pinned = reactive(False)  # the selected node is marked without the focus too

    @dataclass
    class Pointed(Message):
        """A node is selected, or an explanation of it is asked for."""

        node: int
        asked: bool

    def __init__(self) -> None:
        super().__init__("tree")
        self.step: Step | None = None
        self._node: int | None = None
        self._rows: tuple[TreeRow, ...] | None = None
        self._rows_width = 0

    def show(self, step: Step | None, *, scroll: bool = False) -> None:
        """Draw another step's tree, or an empty panel.

        `scroll` brings the bonus token into view; not while decoding, since a tree that jumps
        cannot be read.
        """
        if step is self.step:
            return
        before, self.step, self._rows = self._rows, step, None
        height = len(step.nodes) + 1 + _HEADINGS if step else 0
        if self.virtual_size.height != height:
            self.virtual_size = Size(self.size.width, height)
        if scroll and self.size:
            at = self._row_of(BONUS_NODE)
            self._bring_into_view(at, at - self._room // 2)
        if before is None or step is None or height != len(before) + _HEADINGS:
            self.refresh()
            return
        # With a fixed shape most rows stay as they are.
        rows, top = self._current_rows(), self.scroll_offset.y
        for at in range(top, min(len(rows), top + self._room)):
            if rows[at] != before[at]:
                self.refresh_line(at + _HEADINGS)

    @property
    def node(self) -> int:
        """The selected node; while there is none, the end of the accepted path."""
        if self.step is None:
            return BONUS_NODE
        if self._node is not None and self._node < len(self.step.nodes):
            return self._node
        return self.step.path[-1]

    @property
    def _marked(self) -> int | None:
        return self.node if self.has_focus or self.pinned else None

    def point(self, node: int, *, asked: bool = False) -> None:
        if self.step is None:
            return
        self._node = node
        at = self._row_of(node)
        self._bring_into_view(at, at if at < self.scroll_offset.y else at - self._room + 1)
        self.refresh()
        self.post_message(self.Pointed(node, asked))

    def action_point(self, by: int) -> None:
        if rows := self._current_rows():
            self.point(rows[min(max(0, self._row_of(self.node) + by), len(rows) - 1)].node)

    def action_page(self, by: int) -> None:
        self.action_point(by * max(1, self._room - 1))

    def action_explain(self) -> None:
        self.point(self.node, asked=True)

    def on_click(self, event: events.Click) -> None:
        """Select the node of the row; explain it if it is selected already."""
        place = event.get_content_offset(self)
        row = self.item_at(place.y) if place is not None else None
        if row is not None:
            self.point(row.node, asked=row.node == self._node)

    @on(events.Focus)
    @on(events.Blur)
    def _mark(self) -> None:
        self.refresh()

    @property
    def _room(self) -> int:
        return max(1, self.size.height - _HEADINGS)

    def _current_rows(self) -> tuple[TreeRow, ...]:
        if self.step is None:
            return ()
        width = self.scrollable_content_region.width
        if self._rows is None or self._rows_width != width:
            self._rows = tree_rows(self.step, guide_width(self.step, width - 2 * _COLUMN))
            self._rows_width = width
        return self._rows

    def _row_of(self, node: int) -> int:
        return next((at for at, row in enumerate(self._current_rows()) if row.node == node), 0)

    def _bring_into_view(self, at: int, top: int) -> None:
        """Scroll to `top` unless row `at` is in view."""
        if not 0 <= at - self.scroll_offset.y < self._room:
            self.scroll_to(y=max(0, top), animate=False, force=True)

    @property
    @override
    def look(self) -> Hashable:
        return self._marked, is_accessible(self)

    @property
    @override
    def blank(self) -> Style:
        return self.get_component_rich_style("tree-view--guide")

    @override
    def item_at(self, y: int) -> TreeRow | None:
        rows, at = self._current_rows(), y - _HEADINGS + self.scroll_offset.y
        return rows[at] if y >= _HEADINGS and at < len(rows) else None

    @override
    def render_line(self, y: int) -> Strip:
        if self.item_at(y) is not None:
            return super().render_line(y)
        width = self.scrollable_content_region.width
        text = ""
        if self.step is None and y == _HEADINGS:
            text = "  the token tree of each step appears here"
        elif self.step is not None and y < _HEADINGS and not is_accessible(self):
            text = f"{'draft':>6} {'target':>6} ".rjust(width)
        style = self.get_component_rich_style("tree-view--heading")
        return Strip([Segment(fit(text, width), style)], width)

    @override
    def segments(self, item: TreeRow, width: int) -> Strip:
        marked = item.node == self._marked
        if is_accessible(self):
            style = self.get_component_rich_style(_CLASSES[item.verdict])
            text = ("> " if marked else "  ") + row_in_words(item)
            return Strip([Segment(fit(text, width), style)], width)
        light = self.blank
        strip = Strip([Segment("▸" if marked else " ", light), *self._drawn(item, width - 1)])
        strip = strip.adjust_cell_length(width, light)
        if not marked:
            return strip
        pointed = self.get_component_rich_style("tree-view--pointed")
        colors = Style(color=pointed.color, bgcolor=pointed.bgcolor)
        return Strip(Segment.apply_style(strip, post_style=colors))

    def _drawn(self, row: TreeRow, width: int) -> Iterator[Segment]:
        """Guides, token and figures of a row."""
        style = self.get_component_rich_style(_CLASSES[row.verdict])
        light, heavy = self.blank, self.get_component_rich_style("tree-view--path")
        guides = [Segment(part.text, heavy if part.heavy else light) for part in row.guides]
        yield from guides
        width = max(0, width - Segment.get_line_length(guides))
        columns = min(2 * _COLUMN, width)
        bonus = " bonus" if row.verdict is NodeVerdict.BONUS else ""
        label = fit(f"{GLYPHS[row.verdict]} {row.token}{bonus}", width - columns)
        if style.strike:  # the token alone: figures that are struck out cannot be read
            token, style = style, style + Style(strike=False)
            text = label[_GLYPH:].rstrip()
            yield from (Segment(label[:_GLYPH], style), Segment(text, token))
            label = label[_GLYPH + len(text) :]
        draft = "lookup " if row.looked_up else _probability(row.draft_prob)
        yield Segment(label + (draft + _probability(row.target_prob))[:columns], style)


def _probability(value: float | None) -> str:
    """Two digits, so that a column of them can be compared at a glance."""
    return " " * _COLUMN if value is None else f"{value:>{_COLUMN - 1}.2f} "
