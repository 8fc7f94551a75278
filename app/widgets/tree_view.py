"""The token tree of one step, one row per node."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events, on
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from typing_extensions import override

from sequoia_core.events import Step

from ..config.actions import bindings
from ..present.accessible import is_accessible, row_in_words
from ..present.minimap import TreeMap, tree_map
from ..present.tree_outline import TreeOutline
from ..present.tree_rows import (
    BONUS_NODE,
    FIGURES_CELLS,
    FIGURES_HEADING,
    GLYPHS,
    NODE_STYLES,
    NodeVerdict,
    TreeRow,
    is_fold,
)
from ..state.sanitize import fit
from .line_view import LineView

_GLYPH = 2  # cells of a verdict's glyph and the blank after it
_HEADINGS = 1
_CLASSES = {verdict: f"tree-view--{verdict.color}" for verdict in NodeVerdict}
_MAP_CLASSES = _CLASSES | dict.fromkeys((NodeVerdict.ROOT, NodeVerdict.ACCEPTED), "tree-view--path")
_LEAST_MAP, _MOST_MAP = 6, 12  # cells of the minimap, with the line in front of it
_LEAST_MAP_HEIGHT = 6
_BESIDE_LEGEND = 4  # cells of the border next to a legend


def _legend(gap: str, own: str = NodeVerdict.BONUS.words) -> Content:
    """The glyphs with their words."""
    words = {each: each.words for each in list(NodeVerdict)[1:]} | {NodeVerdict.BONUS: own}
    return Content(gap).join(
        Content.assemble((GLYPHS[verdict], NODE_STYLES[verdict]), f" {word}")
        for verdict, word in words.items()
    )


_LEGENDS = _legend("   "), _legend("  "), _legend(" ", "own")


class TreeView(LineView[TreeRow], can_focus=True, inherit_bindings=False):
    """Rows in preorder with draft and target probabilities in columns at the right.

    In a tree that does not fit, what was not reached is folded, and a minimap shows the whole.
    """

    ALLOW_SELECT = False
    BORDER_TITLE = "Tree"
    BINDINGS = bindings("tree")
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "tree-view--heading", "tree-view--path", "tree-view--guide", "tree-view--pointed",
        "tree-view--fold", "tree-view--in-view", *_CLASSES.values(),
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
        self._outline = TreeOutline()
        self._rows: tuple[TreeRow, ...] = ()
        self._map: TreeMap | None = None
        self._mapped = False  # there is a minimap; it stays, so that rows keep their width

    def show(self, step: Step | None, *, scroll: bool = False) -> None:
        """Draw another step's tree, or an empty panel.

        `scroll` brings the bonus token into view; not while decoding, since a tree that jumps
        cannot be read.
        """
        if step is self.step:
            return
        before, width = self._rows, self.text_width
        empty, self.step = self.step is None or step is None, step
        self._lay_out()
        if scroll and self.size:
            at = self._outline.row_of(BONUS_NODE)
            self._bring_into_view(at, at - self._room // 2)
        if empty or width != self.text_width:
            self.refresh()
            return
        # With a fixed shape most rows stay as they are.
        rows, top = self._rows, self.scroll_offset.y
        for at in range(top, min(max(len(rows), len(before)), top + self._room)):
            if rows[at : at + 1] != before[at : at + 1]:
                self.refresh_line(at + _HEADINGS)
        if self.side_width:
            self.refresh(Region(self.text_width, 0, self.side_width, self.size.height))

    def _lay_out(self) -> None:
        """Make the rows of the step for the size there is; none while the panel is not on show."""
        step, height = self.step, self.size.height
        self._map = None
        self._outline.use(step, self._room if height else 0)
        larger = step is not None and len(step.nodes) + 1 > self._room
        self._mapped = step is not None and height >= _LEAST_MAP_HEIGHT and (self._mapped or larger)
        self._make_rows()
        # no less than the panel, so that it changes as seldom as possible
        size = Size(self.size.width, max(height, len(self._rows) + _HEADINGS))
        if height and self.virtual_size.height != size.height:
            self.virtual_size = size

    @on(events.Resize)
    def _resized(self) -> None:
        self._mapped = False
        self._lay_out()
        room = 0 if is_accessible(self) else self.size.width - _BESIDE_LEGEND
        self.border_subtitle = next((each for each in _LEGENDS if each.cell_length <= room), None)

    def _make_rows(self) -> None:
        self._rows = self._outline.rows(self.text_width - FIGURES_CELLS)

    @property
    def node(self) -> int:
        """The selected node, or the fold it is in; none selected: the end of the accepted path."""
        return self._outline.shown(self._node)

    @property
    def folded(self) -> tuple[int, ...]:
        """The nodes that the selected fold stands for, without those below them."""
        return self._outline.folded(self.node)

    @property
    def _marked(self) -> int | None:
        return self.node if self.has_focus or self.pinned else None

    def point(self, node: int, *, asked: bool = False) -> None:
        """Select a node; folds that it is in are opened."""
        if self.step is None:
            return
        if self._outline.shown(node) != node:
            self._outline.reveal(node)
            self._lay_out()
        self._node = node
        at = self._outline.row_of(node)
        self._bring_into_view(at, at if at < self.scroll_offset.y else at - self._room + 1)
        self.refresh()
        self.post_message(self.Pointed(node, asked))

    def action_point(self, by: int) -> None:
        if rows := self._rows:
            at = self._outline.row_of(self.node) + by
            self.point(rows[min(max(0, at), len(rows) - 1)].node)

    def action_page(self, by: int) -> None:
        self.action_point(by * max(1, self._room - 1))

    def action_explain(self) -> None:
        self.point(self.node, asked=True)

    def action_choose(self) -> None:
        """Explain the selected node, or open or close the selected fold."""
        if is_fold(self.node):
            self.action_fold()
        else:
            self.action_explain()

    def action_fold(self) -> None:
        """Open or close the selected fold, the one below the selected node, or the one it is in."""
        before = len(self._rows)
        fold = self._outline.toggle(self.node)
        if fold is None:
            return
        self._lay_out()
        self.point(fold)
        at = self._outline.row_of(fold)
        opened = min(len(self._rows) - before, self._room - 1)
        if at + opened >= self.scroll_offset.y + self._room:
            self.scroll_to(y=at + opened + 1 - self._room, animate=False, force=True)

    def action_fold_all(self) -> None:
        self._outline.toggle_all()
        self._lay_out()
        self.point(self.node)

    def on_click(self, event: events.Click) -> None:
        """Select the node of the row, or explain it if it is selected; open or close a fold."""
        place = event.get_content_offset(self)
        if place is None:
            return
        if self._map_here is not None and place.x > self.text_width:
            self.point(self._map_here.node_at(place.x - self.text_width - 1, place.y))
            return
        row = self.item_at(place.y)
        if row is not None and row.folded:
            self._node = row.node
            self.action_fold()
        elif row is not None:
            self.point(row.node, asked=row.node == self._node)

    @on(events.Focus)
    @on(events.Blur)
    def _mark(self) -> None:
        self.refresh()

    @property
    def _room(self) -> int:
        return max(1, self.size.height - _HEADINGS)

    def _bring_into_view(self, at: int, top: int) -> None:
        """Scroll to `top` unless row `at` is in view."""
        if not 0 <= at - self.scroll_offset.y < self._room:
            self.scroll_to(y=max(0, top), animate=False, force=True)

    # The minimap

    @property
    @override
    def side_width(self) -> int:
        if not self._mapped or is_accessible(self):
            return 0
        return max(_LEAST_MAP, min(_MOST_MAP, self.scrollable_content_region.width // 6))

    @property
    def _map_here(self) -> TreeMap | None:
        """The minimap of the step on show."""
        if self._map is None and self.side_width and self.step is not None:
            self._map = tree_map(self.step, self.side_width - 1, self.size.height)
        return self._map

    @override
    def side_at(self, y: int) -> Strip:
        shown = self._map_here
        if shown is None or y >= len(shown.lines):
            return Strip.blank(self.side_width, self.blank)
        in_view = y in self._lines_in_view(shown)
        line = Segment("┃", self.get_component_rich_style("tree-view--in-view"))
        return Strip([
            line if in_view else Segment("│", self.blank),
            *(Segment(run.text, self.blank if run.verdict is None
                      else self.get_component_rich_style(_MAP_CLASSES[run.verdict]))
              for run in shown.lines[y]),
        ], self.side_width)  # fmt: skip

    def _lines_in_view(self, shown: TreeMap) -> range:
        """The lines of the minimap whose nodes are in view; none if all are."""
        rows = self._rows
        if len(rows) <= self._room:
            return range(0)
        top = min(self.scroll_offset.y, len(rows) - 1)  # the tree before may have been longer
        first, last = rows[top], rows[min(len(rows), top + self._room) - 1]
        ends = [
            shown.line_of(self._outline.folded(row.node)[at] if row.folded else row.node)
            for row, at in ((first, 0), (last, 0 if last.opened else -1))
        ]
        return range(ends[0], ends[1] + 1)

    @property
    @override
    def look(self) -> Hashable:
        return self._marked, is_accessible(self)

    @property
    @override
    def blank(self) -> Style:
        return self.get_component_rich_style("tree-view--guide")

    @override
    def render_lines(self, crop: Region) -> list[Strip]:
        self._make_rows()  # the scroll bar may have taken a cell
        return super().render_lines(crop)

    @override
    def item_at(self, y: int) -> TreeRow | None:
        rows, at = self._rows, y - _HEADINGS + self.scroll_offset.y
        return rows[at] if y >= _HEADINGS and at < len(rows) else None

    @override
    def blank_line(self, y: int) -> Strip:
        width = self.text_width
        text = ""
        if self.step is None and y == _HEADINGS:
            text = "  the token tree of each step appears here"
        elif self.step is not None and y < _HEADINGS and not is_accessible(self):
            text = FIGURES_HEADING.rjust(width)
        style = self.get_component_rich_style("tree-view--heading")
        return Strip([Segment(fit(text, width), style)], width)

    @override
    def segments(self, item: TreeRow, width: int) -> Strip:
        marked = item.node == self._marked
        if is_accessible(self):
            style = self.get_component_rich_style(self._class_of(item))
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

    def _class_of(self, row: TreeRow) -> str:
        return "tree-view--fold" if row.folded else _CLASSES[row.verdict]

    def _drawn(self, row: TreeRow, width: int) -> Iterator[Segment]:
        """Guides, token and figures of a row."""
        style = self.get_component_rich_style(self._class_of(row))
        light, heavy = self.blank, self.get_component_rich_style("tree-view--path")
        guides = [Segment(part.text, heavy if part.heavy else light) for part in row.guides]
        yield from guides
        width = max(0, width - Segment.get_line_length(guides))
        columns = min(FIGURES_CELLS, width)
        own = f" {row.verdict.words}" if row.verdict is NodeVerdict.BONUS else ""
        if cell_len(row.token + own) > width - columns - _GLYPH:
            own = ""  # its glyph says it
        label = fit(row.label + own, width - columns)
        if style.strike:  # the token alone: figures that are struck out cannot be read
            token, style = style, style + Style(strike=False)
            text = label[_GLYPH:].rstrip()
            yield from (Segment(label[:_GLYPH], style), Segment(text, token))
            label = label[_GLYPH + len(text) :]
        yield Segment(label + row.figures[:columns], style)
