"""Markdown as lines of a terminal, with only the last block drawn anew while text streams in.

Owns parsing and drawing; knows no widget. Blocks before the last one cannot change any more (the
parser says where the last one begins), so their lines are kept and a long answer costs no more per
token than a short one. HTML is not parsed: a model's `<tag>` must be seen, not swallowed.
"""

import io
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.theme import Theme

Lines = list[list[Segment]]
_LEAST_WIDTH = 8
"""Rich cannot draw lists and code in less; narrower terminals cut the lines."""


@dataclass(frozen=True, slots=True)
class MarkdownLook:
    """Styles of a theme.

    Attributes:
        strong: headings, list numbers and bullets.
        code: code within text.
        quiet: rules, quotes and links' addresses.
        code_background: of code blocks.
        dark: whether the theme is dark.
    """

    strong: Style
    code: Style
    quiet: Style
    code_background: str
    dark: bool

    def console(self) -> Console:
        """A console that draws nothing by itself and knows the styles."""
        styles = {f"markdown.h{level}": self.strong for level in range(1, 7)}
        styles |= {
            "markdown.item.number": self.strong, "markdown.item.bullet": self.strong,
            "markdown.code": self.code, "markdown.code_block": self.code,
            "markdown.hr": self.quiet, "markdown.block_quote": self.quiet,
            "markdown.link": self.strong, "markdown.link_url": self.quiet,
            "markdown.table.border": self.quiet, "markdown.table.header": self.strong,
        }  # fmt: skip
        return Console(
            file=io.StringIO(), theme=Theme(styles), color_system="truecolor",
            force_terminal=True, legacy_windows=False, no_color=False, highlight=False,
        )  # fmt: skip


class MarkdownLines:
    """The lines of one growing document."""

    def __init__(self) -> None:
        self._parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self._key: tuple[int, MarkdownLook] | None = None
        self._settled: Lines = []
        self._settled_chars = 0
        self._console: Console | None = None

    def lines(self, text: str, width: int, look: MarkdownLook) -> Lines:
        """All lines of the document.

        Args:
            text: the document; while width and look stay, the last one with something appended.
            width: in cells.
            look: styles.
        """
        if self._console is None or self._key != (width, look):
            self._key, self._settled, self._settled_chars = (width, look), [], 0
            self._console = look.console()
        tail = text[self._settled_chars :]
        last = _last_block_line(self._parser, tail)
        if last:
            settled = "".join(tail.splitlines(keepends=True)[:last])
            self._settled += [*self._draw(settled, width, look), []]
            self._settled_chars += len(settled)
            tail = tail[len(settled) :]
        return self._settled + self._draw(tail, width, look)

    def _draw(self, text: str, width: int, look: MarkdownLook) -> Lines:
        if not text.strip() or self._console is None:
            return []
        document = _Document(text, self._parser, look)
        options = self._console.options.update(width=max(_LEAST_WIDTH, width), height=None)
        lines = self._console.render_lines(document, options, pad=False)
        while lines and not any(segment.text.strip() for segment in lines[0]):
            lines.pop(0)
        while lines and not any(segment.text.strip() for segment in lines[-1]):
            lines.pop()
        return lines


class _LeftHeading(Heading):
    """Rich centres the first headings and boxes the very first; here they are plain lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        self.text.justify = "left"
        yield self.text


class _Fence(CodeBlock):
    """A code block on the theme's own background, which Rich takes from the code theme."""

    def __init__(self, lexer_name: str, theme: str, background: str) -> None:
        super().__init__(lexer_name, theme)
        self._background = background

    @classmethod
    def create(cls, markdown: Markdown, token: Token) -> "_Fence":
        """One for a token; the document knows the background."""
        background = markdown.look.code_background if isinstance(markdown, _Document) else "default"
        lexer = token.info.partition(" ")[0] or "text"
        return cls(lexer, markdown.code_theme, background)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True,
            padding=(0, 1), background_color=self._background,
        )  # fmt: skip


class _Document(Markdown):
    """Rich's Markdown with this module's parser, headings and code blocks."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "fence": _Fence,
        "code_block": _Fence,
    }

    def __init__(self, text: str, parser: MarkdownIt, look: MarkdownLook) -> None:
        code_theme = "github-dark" if look.dark else "friendly"
        super().__init__("", code_theme=code_theme, hyperlinks=False)
        self.look = look
        self.markup = text
        self.parsed = parser.parse(text)


def _last_block_line(parser: MarkdownIt, text: str) -> int:
    """The line on which the last top-level block begins; 0 when there is but one."""
    starts = [token.map[0] for token in parser.parse(text) if token.level == 0 and token.map]
    return starts[-1] if starts else 0
