"""The dialect of Markdown that models write.

CommonMark with tables and strikethrough. Formulas, entities, HTML and definitions of links stay as
they were written: models write TeX and name HTML in their answers.
"""

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import escapedSplit, getLine, table
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.escape import escape
from markdown_it.token import Token

_ENDS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
"""Openings of formulas, and their ends."""
_BEGIN = re.compile(r"\\begin(\{[A-Za-z]+\*?\})")
_DOLLARS = re.compile(r"\$(?![\s$])(?:\\[^\n]|\*(?!\*)|[^$\\\n`*])+?(?<!\s)\$(?![\d$])")
_ESCAPED = re.compile(r"\\(?:[*_`#~|<>$\n]|(?<=[0-9]\\)\.(?=\s|$)|(?<!\S\\)[+-](?=\s|$))")
"""Where a backslash is markup; elsewhere it is TeX, a path or a regular expression.

Full stops, pluses and dashes are escaped where they would begin a list.
"""
_DEEPEST = 30
"""Levels of nested blocks, of which a list takes two; each takes frames of the stack."""
_LITERAL = re.compile(
    r"(?<=[0-9A-Za-z)\]])\*(?=[0-9A-Za-z])|(?<=[0-9)])\*(?=[(\\])"  # a*b
    r"|(?<=[0-9A-Za-z)\]])\*\*(?=[0-9])"  # a**2
    r"|(?<=[(\[{<,/\\'\"=:])[*_](?=[)\]}>,./\\'\"=:])"  # COUNT(*), src/*.py, Some(_)
    r"|(?<=/)\*+(?=\s)|(?<=\s)\*+(?=/)"  # /* comment */
    r"|\*{1,2}(?:kw)?args\b|__[a-z][a-z0-9_]*__"  # **kwargs, __init__
    r"|(?<=[0-9A-Za-z_)\]])\[|\[(?=[&=]?\]\()"  # handlers[name](event), [](){ return 1; }
)
"""Asterisks, underscores and brackets that are not markup."""


def markdown_parser() -> MarkdownIt:
    """A parser of this dialect."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    # A decoded entity may be invisible, or reorder its neighbours.
    parser.disable(["entity", "reference"])
    parser.normalizeLink = str  # type: ignore[assignment,method-assign]  # as written
    parser.inline.ruler.before("escape", "formula", _formula)
    parser.inline.ruler.at("escape", _escape)
    parser.inline.ruler.before("emphasis", "literal", _literal)
    parser.options["maxNesting"] = 2 * _DEEPEST
    parser.block.ruler.before("table", "deep", _deep)
    parser.block.ruler.before(
        "fence", "formula", _formula_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    parser.block.ruler.at("table", _table, {"alt": ["paragraph"]})
    return parser


def _formula(state: StateInline, silent: bool) -> bool:
    """A formula within a line is text."""
    start = state.pos
    closing = _closing(state.src, start)
    if closing is None:
        found = _DOLLARS.match(state.src, start, state.posMax)
        end = found.end() if found is not None else -1
    else:
        end = state.src.find(closing, start + 3, state.posMax)
        end += len(closing) * (end > 0)
    if end < 0:
        return False
    if not silent:
        state.pending += state.src[start:end]
    state.pos = end
    return True


def _closing(text: str, at: int = 0) -> str | None:
    """The end mark of a formula that begins at a place, or None."""
    if begun := _BEGIN.match(text, at):
        return f"\\end{begun[1]}"
    return _ENDS.get(text[at : at + 2])


def _escape(state: StateInline, silent: bool) -> bool:
    """A backslash that is not markup is text."""
    if state.src[state.pos] != "\\":
        return False
    if _ESCAPED.match(state.src, state.pos):
        return escape(state, silent)
    text = "\\\\" if state.src.startswith("\\\\", state.pos) else "\\"
    if not silent:
        state.pending += text
    state.pos += len(text)
    return True


def _literal(state: StateInline, silent: bool) -> bool:
    """CommonMark would take it for emphasis; models mean the character."""
    found = _LITERAL.match(state.src, state.pos, state.posMax)
    if found is None:
        return False
    if not silent:
        state.pending += found.group()
    state.pos = found.end()
    return True


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula of several lines; it ends at its end mark, a blank line or the document's end."""
    if state.is_code_block(start):
        return False
    line = _line(state, start)
    closing = _closing(line)
    if closing is None or closing in line[2:] or line.startswith(("$$$", "\\(")):
        return False
    if silent:
        return True
    last = start + 1
    while last < end and _line(state, last).strip() and state.sCount[last] >= state.blkIndent:
        last += 1
        if closing in _line(state, last - 1):
            break
    token = state.push("formula", "formula", 0)
    token.content = state.getLines(start, last, state.sCount[start], False)
    token.map = [start, last]
    state.line = last
    return True


def _deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Blocks nested too deep are text; the library would leave them out."""
    if silent or state.level < _DEEPEST:
        return False
    token = state.push("formula", "formula", 0)
    token.content = state.getLines(start, end, state.blkIndent, False).strip("\n")
    token.map = [start, end]
    state.line = end
    return True


def _line(state: StateBlock, at: int) -> str:
    return state.src[state.bMarks[at] + state.tShift[at] : state.eMarks[at]]


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table whose rows keep cells without a heading."""
    before = len(state.tokens)
    if not table(state, start, end, silent):
        return False
    tokens, state.tokens[before:] = state.tokens[before:], []
    headings = sum(token.type == "th_open" for token in tokens)
    row = start
    for token in tokens:
        if token.type == "tr_open" and token.map:
            row = token.map[0]
        elif token.type == "tr_close" and row > start:
            for cell in _cells(getLine(state, row))[headings:]:
                state.tokens += _cell(cell, row, token.level + 1)
        state.tokens.append(token)
    return True


def _cells(line: str) -> list[str]:
    cells = escapedSplit(line.strip())
    if cells and not cells[0]:
        cells.pop(0)
    if cells and not cells[-1]:
        cells.pop()
    return cells


def _cell(text: str, row: int, level: int) -> list[Token]:
    inline = Token("inline", "", 0, content=text.strip(), level=level + 1, children=[])
    inline.map = [row, row + 1]
    return [
        Token("td_open", "td", 1, level=level, block=True),
        inline,
        Token("td_close", "td", -1, level=level, block=True),
    ]
