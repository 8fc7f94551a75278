"""Parts of a document that Rich would draw with a loss where they do not fit.

Lists and quotes give up their indentation before the text has no room; tables that have no room for
their columns become records. Owns how these look; Rich's `Markdown` puts them together.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from markdown_it.token import Token
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
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
from rich.style import Style
from rich.table import Table
from rich.text import Text

LEAST_WIDTH = 8
"""Rich cannot draw lists and code in less; narrower terminals cut the lines."""
_LEAST_COLUMN = 6
"""Of a table, in cells, where there is more to show."""


class Item(ListItem):
    """An item that knows its number.

    Args:
        number: as it was written; "" in a bullet list.
        mark: what stands behind the number, or the bullet that was written.
    """

    def __init__(self, number: str, mark: str) -> None:
        super().__init__()
        self.number = number
        self.mark = mark

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> "Item":
        """One for a token."""
        del markdown
        return cls(token.info, token.markup)


class Items(ListElement):
    """A list with the numbers that were written."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        items = [item for item in self.items if isinstance(item, Item)]
        ordered = self.list_type == "ordered_list_open"
        kind = "markdown.item.number" if ordered else "markdown.item.bullet"
        style = console.get_style(kind, default="none")
        width = max((len(item.number) for item in items), default=0) + 2 if ordered else 3
        for item in items:
            if _is_empty(item.elements):  # an answer may be no more than "-" or "1."
                yield from (Segment(f" {item.number}{item.mark}", style), Segment.line())
                continue
            mark = f"{item.number.rjust(width - 1)} " if ordered else " • "
            yield from _indented(
                (console, options), item.elements, item.style, (mark, " " * width), style
            )


def _is_empty(elements: Renderables) -> bool:
    return not any(True for _ in elements.__iter__())  # Rich types it as no iterator


class Quote(BlockQuote):
    """A quote behind a bar."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = ("▌ ", "▌ ")
        if _is_empty(self.elements):
            yield from (Segment("▌", self.style), Segment.line())
        yield from _indented((console, options), self.elements, self.style, bar, self.style)


def _indented(
    where: tuple[Console, ConsoleOptions],
    inside: RenderableType,
    style: Style,
    marks: tuple[str, str],
    mark_style: Style,
) -> Iterator[Segment]:
    """Something behind a mark; below the mark where there is no room after it.

    Args:
        where: it is drawn.
        inside: what is drawn.
        style: of it.
        marks: before the first line and before the others.
        mark_style: of these.
    """
    console, options = where
    first, rest = marks
    room = options.max_width - cell_len(first)
    if room < LEAST_WIDTH:
        yield Segment(first.strip(), mark_style)
        yield Segment.line()
        room, first, rest = options.max_width, "", ""
    for line in console.render_lines(inside, options.update(width=room), style=style):
        if first:
            yield Segment(first, mark_style)
        yield from line
        yield Segment.line()
        first = rest


class Formula(TextElement):
    """A formula of several lines, as it stands."""

    def on_enter(self, context: MarkdownContext) -> None:
        """Begin."""
        super().on_enter(context)
        self.text.overflow = "fold"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        yield self.text


class Cells(TableElement):
    """A table whose cells wrap; where its columns have no room, one record below another."""

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
        else:
            border = console.get_style("markdown.table.border", default="none")
            rule = Text("─" * options.max_width, border)
            for number, record in enumerate(rows or [[]]):
                yield from [rule] if number else []
                yield from _record(headings, record)


def _fits(headings: Sequence[Text], rows: Sequence[Sequence[Text]], width: int) -> bool:
    """Whether each column has a few cells, or all that it needs."""
    wanted: list[int] = []
    for row in (headings, *rows):
        wanted += [1] * (len(row) - len(wanted))
        for at, cell in enumerate(row):
            wanted[at] = max(wanted[at], min(_LEAST_COLUMN, cell.cell_len))
    return sum(wanted) + 2 * len(wanted) <= width


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


def _record(headings: Sequence[Text], cells: Sequence[Text]) -> Iterator[Text]:
    """A row of a table as lines of a heading and a cell each."""
    for heading, cell in zip_longest(headings, cells, fillvalue=Text()):
        between = ": " if heading.plain and cells else ""
        yield Text.assemble(heading, between, cell, overflow="fold")
