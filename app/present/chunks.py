"""Markdown cut into chunks that are drawn one by one while it streams in.

A chunk is a top-level block, or a part of a long one: a code block of thousands of lines, an
endless list, a paragraph that a model repeats for ever. All chunks but the last are final, so a
token costs the same in a long answer as in a short one. The cuts depend on the text alone, not on
the pieces it came in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from .markdown_dialect import markdown_parser

LEAST_LINES = 30
"""In a part of a long block."""
MOST_LINES = 2 * LEAST_LINES
MOST_CHARACTERS = 6000
"""In a part of a paragraph; the next part begins a new line."""
_LOOK_AHEAD = 8
_TRIALS = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document.

    Attributes:
        source: Markdown that can be drawn by itself.
        ends_block: the next chunk is another block, after a blank line.
    """

    source: str
    ends_block: bool = True


class Chunks:
    """The chunks of one growing document."""

    def __init__(self) -> None:
        self._parser = _block_parser()
        self._final: list[Chunk] = []
        self._tail = ""
        self._fresh = False

    def add(self, text: str) -> None:
        """Append to the document."""
        self._tail += text
        self._fresh = self._fresh or bool(text)

    @property
    def final(self) -> list[Chunk]:
        """Chunks that do not change any more; the list only grows."""
        self._settle()
        return self._final

    @property
    def tail(self) -> str:
        """Source of the last chunk, which is still growing, or ""."""
        self._settle()
        return self._tail

    def _settle(self) -> None:
        if not self._fresh:
            return
        self._fresh = False
        # An incomplete line may turn out to continue the block before it.
        complete = self._tail.count("\n")
        blocks = [t for t in self._parser.parse(self._tail) if t.level == 0 and t.map]
        starts = [token.map[0] for token in blocks if token.map and token.map[0] < complete]
        lines = self._tail.splitlines(keepends=True)
        ends = [*starts[1:], len(lines)]
        for at, (token, end) in enumerate(zip(blocks, ends, strict=False)):
            *parts, rest = self._parts(token, lines[starts[at] if at else 0 : end])
            self._final += [Chunk(part, ends_block=False) for part in parts]
            if at + 1 == len(ends):
                self._tail = rest
            else:
                self._final.append(Chunk(rest))

    def _parts(self, block: Token, lines: list[str]) -> list[str]:
        """A block's parts: the whole block if it is short or cannot be cut."""
        match block.type:
            case "paragraph_open":
                return list(_paragraph_parts("".join(lines)))
            case _ if len(lines) <= MOST_LINES:
                return ["".join(lines)]
            case "fence":
                return list(_fence_parts(block, lines))
            case "bullet_list_open" | "ordered_list_open":
                return list(self._list_parts(lines))
            case "table_open":
                return list(_table_parts(lines))
        return ["".join(lines)]

    def _list_parts(self, lines: list[str]) -> Iterator[str]:
        """Parts that begin with an item."""
        tokens = self._parser.parse("".join(lines))
        items = [t.map[0] for t in tokens if t.type == "list_item_open" and t.level == 1 and t.map]
        begun = 0
        while len(lines) - begun > MOST_LINES:
            fit = [at for at in items if begun + LEAST_LINES <= at <= begun + MOST_LINES]
            if not fit:
                break
            yield "".join(lines[begun : fit[-1]])
            begun = fit[-1]
        yield "".join(lines[begun:])


@lru_cache(maxsize=1)
def _block_parser() -> MarkdownIt:
    """Parses blocks only, which do not depend on the text within lines.

    One for all documents: it has no state, and takes 150 KB and some milliseconds.
    """
    parser = markdown_parser()
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _paragraph_parts(text: str) -> Iterator[str]:
    while len(text) > MOST_CHARACTERS:
        # Before a letter, so that the rest cannot read as a list, a heading or a quote.
        cut = MOST_CHARACTERS
        while cut > 1 and not (text[cut].isalpha() and text[cut - 1].isspace()):
            cut -= 1
        if cut == 1:
            cut = MOST_CHARACTERS
        yield text[:cut]
        text = text[cut:]
    yield text


def _table_parts(lines: list[str]) -> Iterator[str]:
    """Parts with the heading above each."""
    heading, rows = "".join(lines[:2]), lines[2:]
    while len(rows) > MOST_LINES:
        yield heading + "".join(rows[:MOST_LINES])
        rows = rows[MOST_LINES:]
    yield heading + "".join(rows)


def _fence_parts(fence: Token, lines: list[str]) -> Iterator[str]:
    """Code blocks that look like one when drawn one below another."""
    opening = lines[0] if lines[0].endswith("\n") else lines[0] + "\n"
    written = fence.content.count("\n")
    body, after = lines[1 : 1 + written], lines[1 + written :]
    known = lexer(fence.info.partition(" ")[0])
    while len(body) > MOST_LINES:
        cut = _code_cut(body[:MOST_LINES], known)
        yield f"{opening}{''.join(body[:cut])}{fence.markup}\n"
        body = body[cut:]
    yield opening + "".join(body) + "".join(after)


def _code_cut(lines: list[str], lexer: Lexer | None) -> int:
    """A line before which code can be cut without changing the colours below.

    Blank lines are tried first, from the last one; where none will do (a long comment or string),
    the code is cut anyway.
    """
    if lexer is None:
        return LEAST_LINES
    last = len(lines) - _LOOK_AHEAD
    filled = [bool(line.strip()) for line in lines]
    blank = [at for at in range(LEAST_LINES, last) if filled[at - 1] and not filled[at]]
    others = [at for at in range(last, LEAST_LINES, -_LOOK_AHEAD) if filled[at - 1]]
    whole = list(lexer.get_tokens_unprocessed("".join(lines)))
    for at in [*reversed(blank[-_TRIALS:]), *others[:_TRIALS]]:
        above = sum(map(len, lines[:at]))
        inside = [(place - above, kind, text) for place, kind, text in whole if place >= above]
        if inside == list(lexer.get_tokens_unprocessed("".join(lines[at:]))):
            return at
    return next((at for at in range(LEAST_LINES, last) if filled[at - 1]), LEAST_LINES)


@lru_cache(maxsize=32)
def lexer(name: str) -> Lexer | None:
    """The lexer of a language, or None."""
    try:
        return get_lexer_by_name(name, stripnl=False) if name else None
    except ClassNotFound:
        return None
