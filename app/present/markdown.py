"""Markdown as lines of a terminal, one chunk of a document at a time (see `chunks`)."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax, SyntaxTheme
from rich.text import Text
from rich.theme import Theme
from typing_extensions import override

from ..state.sanitize import visible
from .chunks import lexer
from .markdown_dialect import markdown_parser
from .markdown_elements import (
    LEAST_WIDTH,
    Formula,
    NumberedItem,
    NumberedList,
    Quote,
    WrappedTable,
)

Lines = list[list[Segment]]


@dataclass(frozen=True, slots=True)
class MarkdownStyles:
    """Styles of a theme.

    Attributes:
        strong: headings, list numbers and bullets.
        code: code within text.
        quiet: rules, quotes and links' addresses.
        code_background: of code blocks; "default" is the terminal's own.
        code_theme: their colours, or the name of a Pygments style.
    """

    strong: Style
    code: Style
    quiet: Style
    code_background: str
    code_theme: SyntaxTheme | str


class MarkdownRenderer:
    """Draws Markdown in the styles of one theme."""

    def __init__(self, styles: MarkdownStyles) -> None:
        # One document for all, since Rich makes a parser for each, which takes longer than most
        # chunks.
        self._document = _Document(markdown_parser(), styles)
        self._console = _console(styles)

    def draw(self, source: str, width: int) -> Lines:
        """The lines of a document or a chunk at a width in cells, none blank at either end."""
        if not source.strip():
            return []
        self._document.read(source)
        options = self._console.options.update(width=max(LEAST_WIDTH, width), height=None)
        lines = self._console.render_lines(self._document, options, pad=False)
        while lines and _is_blank(lines[0]):
            lines.pop(0)
        while lines and _is_blank(lines[-1]):
            lines.pop()
        return lines


def _is_blank(line: list[Segment]) -> bool:
    """Whether a line shows nothing; a blank line of code has a background."""
    return not any(
        part.text.strip() or (part.style is not None and part.style.bgcolor) for part in line
    )


def _console(styles: MarkdownStyles) -> Console:
    named = {f"markdown.h{level}": styles.strong for level in range(1, 7)}
    named |= {
        "markdown.item.number": styles.strong, "markdown.item.bullet": styles.strong,
        "markdown.code": styles.code, "markdown.code_block": styles.code,
        "markdown.hr": styles.quiet, "markdown.block_quote": styles.quiet,
        "markdown.link": styles.strong, "markdown.link_url": styles.quiet,
        "markdown.table.border": styles.quiet, "markdown.table.header": styles.strong,
    }  # fmt: skip
    return Console(
        file=io.StringIO(), theme=Theme(named), color_system="truecolor",
        force_terminal=True, legacy_windows=False, no_color=False, highlight=False,
    )  # fmt: skip


class _LeftHeading(Heading):
    """Rich centres the first headings and boxes the very first; here they are plain lines."""

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        # An answer may be no more than its mark.
        yield self.text if self.text else Text("#" * int(self.tag[1:]), self.text.style)


class _Fence(CodeBlock):
    """A code block on the theme's background, which Rich takes from the code theme.

    Args:
        info: what stands behind the fence; shown unless it is only the name of a language.
        styles: of the document.
    """

    def __init__(self, info: str, styles: MarkdownStyles) -> None:
        super().__init__(info.partition(" ")[0] or "text", "default")
        self._info = "" if lexer(info) is not None else info
        self._styles = styles

    @classmethod
    @override
    def create(cls, markdown: Markdown, token: Token) -> "_Fence":
        assert isinstance(markdown, _Document)
        return cls(visible(token.info).strip(), markdown.styles)

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._info:
            yield Text(self._info, self._styles.quiet, overflow="fold")
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=self._styles.code_theme,
            word_wrap=True, padding=(0, 1), background_color=self._styles.code_background,
        )  # fmt: skip


class _Document(Markdown):
    """Rich's Markdown with this package's parser and elements."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "fence": _Fence,
        "code_block": _Fence,
        "formula": Formula,
        "list_item_open": NumberedItem,
        "bullet_list_open": NumberedList,
        "ordered_list_open": NumberedList,
        "blockquote_open": Quote,
        "table_open": WrappedTable,
    }
    inlines = Markdown.inlines | {"link", "link_url"}

    def __init__(self, parser: MarkdownIt, styles: MarkdownStyles) -> None:
        super().__init__("", hyperlinks=False)
        self.styles = styles
        self._parser = parser

    def read(self, text: str) -> None:
        """Become the document of another text."""
        self.markup = text
        self.parsed = self._parser.parse(text)
        for token in self.parsed:
            if token.children:
                token.children = list(_with_addresses(token.children))


def _with_addresses(tokens: Iterable[Token]) -> Iterator[Token]:
    """Links and images as text with addresses and titles behind them; lines end as written.

    Rich draws images before the text that they stand in, and leaves titles out. Models write poems
    and addresses as lines of one paragraph.
    """
    opened: list[tuple[Token, str]] = []
    for token in tokens:
        if opened:
            link, text = opened[-1]
            opened[-1] = link, text + token.content
        if token.type == "image":
            yield _text("🌆 ")
            yield from _with_addresses(token.children or [])
            yield from _address(token, "src", "")
        elif token.type == "link_open":
            opened.append((token, ""))
            yield Token("anchor_open", "link", 1)
        elif token.type == "link_close":
            yield Token("anchor_close", "link", -1)
            link, text = opened.pop()
            yield from _address(link, "href", text)
        elif token.type == "softbreak":
            yield Token("hardbreak", "br", 0)
        else:
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
