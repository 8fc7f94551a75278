"""Markdown as lines of a terminal, one chunk of a document at a time; nothing is cut to fit."""

import io
from collections.abc import Iterable, Iterator
from itertools import zip_longest

from markdown_it.token import Token
from rich import box
from rich import markdown as md
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax, SyntaxTheme
from rich.table import Table
from rich.text import Text
from rich.theme import Theme
from typing_extensions import override

from ..state.sanitize import visible
from .chunks import lexer
from .markdown_dialect import markdown_parser

_LEAST_WIDTH = 8  # Rich cannot draw lists and code in less; narrower terminals cut the lines
_LEAST_COLUMN = 6  # cells of a table's column, unless its content takes less
Lines = list[list[Segment]]


class _Heading(md.Heading):
    """Rich centres the first headings; here they are plain lines."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        # An answer may be no more than its mark.
        yield self.text if self.text else Text("#" * int(self.tag[1:]), self.text.style)


class _Fence(md.CodeBlock):
    """A code block on the theme's background, which Rich takes from the code theme."""

    info = ""
    renderer: "MarkdownRenderer"

    @classmethod
    @override
    def create(cls, markdown: md.Markdown, token: Token) -> "_Fence":
        assert isinstance(markdown, MarkdownRenderer)
        info = visible(token.info).strip()
        fence = cls(info.partition(" ")[0] or "text", "default")
        fence.renderer = markdown
        if lexer(info) is None:  # more than the name of a language
            fence.info = info
        return fence

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.info:
            yield Text(self.info, self.renderer.quiet, overflow="fold")
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=self.renderer.fence_theme,
            word_wrap=True, padding=(0, 1), background_color=self.renderer.fence_background,
        )  # fmt: skip


class _Item(md.ListItem):
    number = ""  # as it was written; "" in a bullet list
    mark = ""  # behind the number, or the bullet that was written

    @classmethod
    @override
    def create(cls, markdown: md.Markdown, token: Token) -> "_Item":
        item = cls()
        item.number, item.mark = token.info, token.markup
        return item


class _List(md.ListElement):
    """A list with the numbers that were written, which Rich counts anew."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        items = [item for item in self.items if isinstance(item, _Item)]
        ordered = self.list_type == "ordered_list_open"
        kind = "markdown.item.number" if ordered else "markdown.item.bullet"
        style = console.get_style(kind, default="none")
        width = max((len(item.number) for item in items), default=0) + 2 if ordered else 3
        for item in items:
            alone = Segment(f" {item.number}{item.mark}", style)
            first = Segment(f"{item.number.rjust(width - 1)} " if ordered else " • ", style)
            yield from _marked(console, options, item, alone, first, Segment(" " * width, style))


class _Quote(md.BlockQuote):
    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar = Segment("▌ ", self.style)
        yield from _marked(console, options, self, Segment("▌", self.style), bar, bar)


def _marked(
    console: Console, options: ConsoleOptions, element: md.ListItem | md.BlockQuote, alone: Segment,
    first: Segment, rest: Segment,
) -> Iterator[Segment]:  # fmt: skip
    """An element's lines behind a mark, below it where there is no room; or the mark `alone`."""
    if not [*element.elements.__iter__()]:  # an answer may be no more than "-", "1." or ">"
        yield from (alone, Segment.line())
        return
    room = options.max_width - first.cell_length
    fits = room >= _LEAST_WIDTH
    narrowed = options.update(width=room if fits else options.max_width)
    if not fits:
        yield from (Segment(first.text.strip(), first.style), Segment.line())
    lines = console.render_lines(element.elements, narrowed, style=element.style)
    for at, line in enumerate(lines):
        if fits:
            yield rest if at else first
        yield from line
        yield Segment.line()


class _Table(md.TableElement):
    """A table whose cells wrap; where its columns have no room, one record below another."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = self.header.row.cells if self.header and self.header.row else []
        headings = [cell.content.copy() for cell in header]
        for heading in headings:
            heading.stylize("markdown.table.header")
        body = self.body.rows if self.body else []
        rows = [[cell.content for cell in row.cells] for row in body]
        # Each column needs a few cells, or all that its content takes.
        columns = list(zip_longest(headings, *rows, fillvalue=Text()))
        needed = [max(1, *(min(_LEAST_COLUMN, cell.cell_len) for cell in each)) for each in columns]
        if sum(needed) + 2 * len(needed) <= options.max_width:
            table = Table(
                box=box.SIMPLE, pad_edge=False, style="markdown.table.border", show_edge=True,
                collapse_padding=True,
            )  # fmt: skip
            for heading, *_ in columns:
                table.add_column(heading, overflow="fold")
            for row in rows:
                table.add_row(*row)
            yield table
            return
        for number, cells in enumerate(rows or [[]]):
            if number:
                yield Text("─" * options.max_width, "markdown.table.border")
            for heading, cell in zip_longest(headings, cells, fillvalue=Text()):
                between = ": " if heading.plain and cells else ""
                yield Text.assemble(heading, between, cell, overflow="fold")


class MarkdownRenderer(md.Markdown):
    """Draws Markdown in the styles of one theme: Rich's, with this package's parser and elements.

    One for all documents, since Rich makes a parser for each, which takes longer than most chunks.
    """

    elements = md.Markdown.elements | {
        "heading_open": _Heading,
        "fence": _Fence,
        "code_block": _Fence,
        "formula": md.Paragraph,
        "list_item_open": _Item,
        "bullet_list_open": _List,
        "ordered_list_open": _List,
        "blockquote_open": _Quote,
        "table_open": _Table,
    }
    inlines = md.Markdown.inlines | {"link", "link_url"}

    def __init__(
        self, strong: Style, code: Style, quiet: Style, fence_background: str,
        fence_theme: SyntaxTheme | str,
    ) -> None:  # fmt: skip
        """A background is "default" for the terminal's own; a theme may be a Pygments style."""
        super().__init__("", hyperlinks=False)
        self.quiet = quiet
        self.fence_background, self.fence_theme = fence_background, fence_theme
        self._parser = markdown_parser()
        roles = (
            (strong, "h1 h2 h3 h4 h5 h6 item.number item.bullet link table.header"),
            (code, "code code_block"),
            (quiet, "hr block_quote link_url table.border"),
        )
        named = {f"markdown.{name}": style for style, names in roles for name in names.split()}
        self._console = Console(
            file=io.StringIO(), theme=Theme(named), color_system="truecolor",
            force_terminal=True, legacy_windows=False, no_color=False, highlight=False,
        )  # fmt: skip

    def draw(self, source: str, width: int) -> Lines:
        """The lines of a document or a chunk at a width in cells, none blank at either end."""
        self.parsed = self._parser.parse(source)
        for token in self.parsed:
            if token.children:
                token.children = list(_with_addresses(token.children))
        options = self._console.options.update(width=max(_LEAST_WIDTH, width), height=None)
        lines = self._console.render_lines(self, options, pad=False)
        shown = [
            at
            for at, line in enumerate(lines)  # a blank line of code has a background
            if any(part.text.strip() or (part.style and part.style.bgcolor) for part in line)
        ]
        return lines[shown[0] : shown[-1] + 1] if shown else []


def _with_addresses(tokens: Iterable[Token]) -> Iterator[Token]:
    """Links and images as text with addresses and titles behind them; lines end as written.

    Rich draws images before the text that they stand in, and leaves titles out. Models write poems
    and addresses as lines of one paragraph.
    """
    link, text = Token("link_open", "a", 1), ""
    for token in tokens:
        text += token.content
        match token.type:
            case "image":
                yield _text("🌆 ")
                yield from _with_addresses(token.children or [])
                yield from _address(token, "src", "")
            case "link_open":
                link, text = token, ""
                yield Token("anchor_open", "link", 1)
            case "link_close":
                yield Token("anchor_close", "link", -1)
                yield from _address(link, "href", text)
            case "softbreak":
                yield Token("hardbreak", "br", 0)
            case _:
                yield token


def _address(token: Token, name: str, text: str) -> Iterator[Token]:
    """A link's address and title, unless its text says the same."""
    where, title = (visible(str(token.attrs.get(each, ""))) for each in (name, "title"))
    parts = [where] if where and text not in (where, where.removeprefix("mailto:")) else []
    parts += [f'"{title}"'] if title else []
    if parts:
        yield _text(" (")
        yield Token("address_open", "link_url", 1)
        yield _text(" ".join(parts))
        yield Token("address_close", "link_url", -1)
        yield _text(")")


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)
