"""The dialect of Markdown that models write."""

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.table import escapedSplit, getLine, table
from markdown_it.rules_inline import StateInline

_ENDS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}  # openings of formulas, and their ends
_BEGIN = re.compile(r"\\begin(\{[A-Za-z]+\*?\})")
_DEEPEST = 30  # levels of nested blocks, of which a list takes two; each takes frames of the stack
_WRITTEN = re.compile(
    r"\$(?![\s$])(?:\\[^\n]|\*(?!\*)|[^$\\\n`*])+?(?<!\s)\$(?![\d$])"  # $x_1$
    # a backslash of TeX, a path or a regular expression; full stops, pluses and dashes are
    # escaped where they would begin a list
    r"|\\(?:\\|(?![*_`#~|<>$\n]|(?<=[0-9]\\)\.(?=\s|$)|(?<!\S\\)[+-](?=\s|$)))"
    r"|(?<=[0-9A-Za-z)\]])\*(?=[0-9A-Za-z])|(?<=[0-9)])\*(?=[(\\])"  # a*b
    r"|(?<=[0-9A-Za-z)\]])\*\*(?=[0-9])"  # a**2
    r"|(?<=[(\[{<,/\\'\"=:])[*_](?=[)\]}>,./\\'\"=:])"  # COUNT(*), src/*.py, Some(_)
    r"|(?<=/)\*+(?=\s)|(?<=\s)\*+(?=/)"  # /* comment */
    r"|\*{1,2}(?:kw)?args\b|__[a-z][a-z0-9_]*__"  # **kwargs, __init__
    r"|(?<=[0-9A-Za-z_)\]])\[|\[(?=[&=]?\]\()"  # handlers[name](event), [](){ return 1; }
)
"""What CommonMark would take for markup, and models mean as written."""


def markdown_parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough; formulas, entities and HTML stay as written."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
    # A decoded entity may be invisible, or reorder its neighbours.
    parser.disable(["entity", "reference"])
    parser.normalizeLink = str  # type: ignore[assignment,method-assign]  # as written
    parser.inline.ruler.before("escape", "written", _as_written)
    parser.options["maxNesting"] = 2 * _DEEPEST
    parser.block.ruler.before("table", "deep", _deep)
    parser.block.ruler.before(
        "fence", "formula", _formula_block, {"alt": ["paragraph", "blockquote", "list"]}
    )
    parser.block.ruler.at("table", _table, {"alt": ["paragraph"]})
    return parser


def _as_written(state: StateInline, silent: bool) -> bool:
    """A formula, or characters that are no markup, are text."""
    closing = _closing(state.src, state.pos)
    end = state.src.find(closing, state.pos + 3, state.posMax) if closing else -1
    if closing and end > 0:
        end += len(closing)
    elif found := _WRITTEN.match(state.src, state.pos, state.posMax):
        end = found.end()
    else:
        return False
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _closing(text: str, at: int = 0) -> str | None:
    """The end mark of a formula that begins at a place, or None."""
    if begun := _BEGIN.match(text, at):
        return f"\\end{begun[1]}"
    return _ENDS.get(text[at : at + 2])


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula of several lines; it ends at its end mark, a blank line or the document's end."""
    line = getLine(state, start)
    closing = None if state.is_code_block(start) else _closing(line)
    if closing is None or closing in line[2:] or line.startswith(("$$$", "\\(")):
        return False
    if silent:
        return True
    last = start + 1
    while last < end and getLine(state, last).strip() and state.sCount[last] >= state.blkIndent:
        last += 1
        if closing in getLine(state, last - 1):
            break
    _push_formula(state, start, last, state.getLines(start, last, state.sCount[start], False))
    return True


def _deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Blocks nested too deep are text; the library would leave them out."""
    if silent or state.level < _DEEPEST:
        return False
    text = state.getLines(start, end, state.blkIndent, False)
    _push_formula(state, start, end, text.strip("\n"))
    return True


def _push_formula(state: StateBlock, start: int, end: int, text: str) -> None:
    token = state.push("formula", "formula", 0)
    token.content = text
    token.map = [start, end]
    state.line = end


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table whose rows keep cells without a heading."""
    before = len(state.tokens)
    if not table(state, start, end, silent):
        return False
    tokens, state.tokens[before:] = state.tokens[before:], []
    headings = sum(token.type == "th_open" for token in tokens)
    row, outside = start, state.level
    for token in tokens:
        if token.type == "tr_open" and token.map:
            row = token.map[0]
        elif token.type == "tr_close" and row > start:
            *cells, last = escapedSplit(getLine(state, row).strip().removeprefix("|"))
            cells += [last] if last else []
            state.level = token.level + 1
            for text in cells[headings:]:
                state.push("td_open", "td", 1)
                cell = state.push("inline", "", 0)
                cell.content, cell.children, cell.map = text.strip(), [], [row, row + 1]
                state.push("td_close", "td", -1)
        state.tokens.append(token)
    state.level = outside
    return True
