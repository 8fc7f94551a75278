"""Elements of a Markdown document that Rich would cut where they do not fit.

Lists and quotes give up their indentation before the text has no room; tables without room for
their columns become records.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from markdown_it.token import Token
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.containers import Renderables
from rich.markdown import (
    BlockQuote,
    ListElement,
    ListItem,
    Markdown,
    MarkdownContext,
    TableElement,
    TextElement,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from typing_extensions import override

LEAST_WIDTH = 8
"""Rich cannot draw lists and code in less; narrower terminals cut the lines."""
_LEAST_COLUMN = 6
"""Cells of a table's column, unless its content takes less."""


class NumberedItem(ListItem):
    """An item that keeps its number.

    Args:
        number: as it was written; "" in a bullet list.
        mark: what stands behind the number, or the bullet that was written.
    """

    def __init__(self, number: str, mark: str) -> None:
        super().__init__()
        self.number = number
        self.mark = mark

    @classmethod
    @override
    def create(cls, markdown: Markdown, token: Token) -> "NumberedItem":
        return cls(token.info, token.markup)


class NumberedList(ListElement):
    """A list with the numbers that were written."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        items = [item for item in self.items if isinstance(item, NumberedItem)]
        ordered = self.list_type == "ordered_list_open"
        kind = "markdown.item.number" if ordered else "markdown.item.bullet"
        style = console.get_style(kind, default="none")
        width = max((len(item.number) for item in items), default=0) + 2 if ordered else 3
        for item in items:
            if _is_empty(item.elements):  # an answer may be no more than "-" or "1."
                yield from (Segment(f" {item.number}{item.mark}", style), Segment.line())
                continue
            first = Segment(f"{item.number.rjust(width - 1)} " if ordered else " • ", style)
            lines, marked = _lines(console, options, item, first.cell_length)
            yield from _behind(lines, first, Segment(" " * width, style), marked=marked)


class Quote(BlockQuote):
    """A quote behind a bar."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Segment("▌ ", self.style)
        if _is_empty(self.elements):
            yield from (Segment("▌", self.style), Segment.line())
        lines, marked = _lines(console, options, self, bar.cell_length)
        yield from _behind(lines, bar, bar, marked=marked)


def _is_empty(elements: Renderables) -> bool:
    return not any(True for _ in elements.__iter__())  # Rich types it as no iterator


def _lines(
    console: Console, options: ConsoleOptions, element: ListItem | BlockQuote, indent: int
) -> tuple[list[list[Segment]], bool]:
    """An element's lines, and whether there is room for them behind the indent."""
    room = options.max_width - indent
    marked = room >= LEAST_WIDTH
    narrowed = options.update(width=room if marked else options.max_width)
    return console.render_lines(element.elements, narrowed, style=element.style), marked


def _behind(
    lines: list[list[Segment]], first: Segment, rest: Segment, *, marked: bool
) -> Iterator[Segment]:
    """Lines behind a mark; below the mark where there is no room after it."""
    if not marked:
        yield from (Segment(first.text.strip(), first.style), Segment.line())
    for at, line in enumerate(lines):
        if marked:
            yield rest if at else first
        yield from line
        yield Segment.line()


class Formula(TextElement):
    """A formula of several lines, as it was written."""

    @override
    def on_enter(self, context: MarkdownContext) -> None:
        super().on_enter(context)
        self.text.overflow = "fold"

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class WrappedTable(TableElement):
    """A table whose cells wrap; where its columns have no room, one record below another."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        style = console.get_style("markdown.table.header", default="none")
        header = self.header.row.cells if self.header and self.header.row else []
        headings = [cell.content.copy() for cell in header]
        for heading in headings:
            heading.stylize(style)
        body = self.body.rows if self.body else []
        rows = [[cell.content for cell in row.cells] for row in body]
        if _fits(headings, rows, options.max_width):
            yield _table(headings, rows)
            return
        border = console.get_style("markdown.table.border", default="none")
        rule = Text("─" * options.max_width, border)
        for number, cells in enumerate(rows or [[]]):
            if number:
                yield rule
            for heading, cell in zip_longest(headings, cells, fillvalue=Text()):
                between = ": " if heading.plain and cells else ""
                yield Text.assemble(heading, between, cell, overflow="fold")


def _fits(headings: Sequence[Text], rows: Sequence[Sequence[Text]], width: int) -> bool:
    """Whether each column has a few cells, or all that it needs."""
    columns = zip_longest(headings, *rows, fillvalue=Text())
    needed = [max(1, *(min(_LEAST_COLUMN, cell.cell_len) for cell in each)) for each in columns]
    return sum(needed) + 2 * len(needed) <= width


def _table(headings: Sequence[Text], rows: Sequence[Sequence[Text]]) -> Table:
    table = Table(
        box=box.SIMPLE, pad_edge=False, style="markdown.table.border", show_edge=True,
        collapse_padding=True,
    )  # fmt: skip
    for at in range(max(map(len, (headings, *rows)))):
        table.add_column(headings[at] if at < len(headings) else "", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
