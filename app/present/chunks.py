"""Markdown cut into chunks that are drawn one by one while it streams in."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from .markdown_dialect import markdown_parser

LEAST_LINES = 30  # in a part of a long block
MOST_LINES = 2 * LEAST_LINES
MOST_CHARACTERS = 6000  # in a part of a paragraph; the next part begins a new line
_LOOK_AHEAD = 8
_TRIALS = 4


class Chunk(NamedTuple):
    source: str  # Markdown that can be drawn by itself
    ends_block: bool = True  # the next chunk is another block, after a blank line


class Chunks:
    """Top-level blocks, or parts of long ones, cut alike in whatever pieces the text comes in.

    All but the last are final, so a token costs the same in a long answer as in a short one.
    """

    def __init__(self) -> None:
        self.final: list[Chunk] = []  # they do not change any more; the list only grows
        self.tail = ""  # source of the last chunk, which is still growing
        self._parser = _block_parser()

    def add(self, text: str) -> None:
        self.tail += text
        # An incomplete line may turn out to continue the block before it.
        complete = self.tail.count("\n")
        tokens = [token for token in self._parser.parse(self.tail) if token.level == 0]
        blocks = [(token, token.map[0]) for token in tokens if token.map]
        blocks = [(token, start) for token, start in blocks if start < complete] or blocks[:1]
        lines = self.tail.splitlines(keepends=True)
        ends = [*(start for _, start in blocks[1:]), len(lines)]
        start = 0
        for (token, _), end in zip(blocks, ends, strict=False):
            *parts, self.tail = self._parts(token, lines[start:end])
            self.final += [Chunk(part, ends_block=False) for part in parts]
            if end < len(lines):
                self.final.append(Chunk(self.tail))
            start = end

    def _parts(self, block: Token, lines: list[str]) -> Iterable[str]:
        """A block's parts: the whole block if it is short or cannot be cut."""
        match block.type:
            case "paragraph_open":
                return _paragraph_parts("".join(lines))
            case "fence" if len(lines) > MOST_LINES:
                return _fence_parts(block, lines)
            case "bullet_list_open" | "ordered_list_open" if len(lines) > MOST_LINES:
                return self._list_parts(lines)
            case "table_open":
                return _table_parts(lines)
        return ["".join(lines)]

    def _list_parts(self, lines: list[str]) -> Iterator[str]:
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


@lru_cache(maxsize=1)  # it has no state, and takes 150 KB and some milliseconds
def _block_parser() -> MarkdownIt:
    """Parses blocks only, which do not depend on the text within lines."""
    parser = markdown_parser()
    parser.core.ruler.enableOnly(["normalize", "block"])
    return parser


def _paragraph_parts(text: str) -> Iterator[str]:
    while len(text) > MOST_CHARACTERS:
        # Before a letter, so that the rest cannot read as a list, a heading or a quote.
        letters = (
            at
            for at in range(MOST_CHARACTERS, 1, -1)
            if text[at].isalpha() and text[at - 1].isspace()
        )
        cut = next(letters, MOST_CHARACTERS)
        yield text[:cut]
        text = text[cut:]
    yield text


def _table_parts(lines: list[str]) -> Iterator[str]:
    heading, rows = "".join(lines[:2]), lines[2:]
    while len(rows) > MOST_LINES:
        yield heading + "".join(rows[:MOST_LINES])
        rows = rows[MOST_LINES:]
    yield heading + "".join(rows)


def _fence_parts(fence: Token, lines: list[str]) -> Iterator[str]:
    """Code blocks that look like one when drawn one below another."""
    opening = lines[0]
    written = fence.content.count("\n")
    body, after = lines[1 : 1 + written], lines[1 + written :]
    known = lexer(fence.info.partition(" ")[0])
    while len(body) > MOST_LINES:
        cut = _code_cut(body[:MOST_LINES], known)
        yield f"{opening}{''.join(body[:cut])}{fence.markup}\n"
        body = body[cut:]
    yield opening + "".join(body + after)


def _code_cut(lines: list[str], lexer: Lexer | None) -> int:
    """A line before which code can be cut without changing the colours below.

    Blank lines are tried first, from the last one; where none will do (a long comment or string),
    the code is cut anyway.
    """
    if lexer is None:
        return LEAST_LINES
    filled = [bool(line.strip()) for line in lines]
    places = [at for at in range(len(lines) - _LOOK_AHEAD, LEAST_LINES, -1) if filled[at - 1]]
    blank = [at for at in places if not filled[at]]
    whole = list(lexer.get_tokens_unprocessed("".join(lines)))
    for at in [*blank[:_TRIALS], *places[::_LOOK_AHEAD][:_TRIALS]]:
        above = sum(map(len, lines[:at]))
        inside = [(place - above, kind, text) for place, kind, text in whole if place >= above]
        if inside == list(lexer.get_tokens_unprocessed("".join(lines[at:]))):
            return at
    return places[-1] if places else LEAST_LINES


@lru_cache(maxsize=32)
def lexer(name: str) -> Lexer | None:
    try:
        return get_lexer_by_name(name, stripnl=False) if name else None
    except ClassNotFound:
        return None
