"""The entries of the transcript: messages, answers and notes, each as blocks of lines.

An entry makes blocks of its text when it comes into view and drops them when it is released; only
its text remains. Only answers are read as Markdown.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rich.segment import Segment
from rich.text import Text
from typing_extensions import override

from ..present.chunks import Chunk, Chunks
from ..present.markdown import Lines
from ..state.answer import Answer, Span, text_of
from ..state.sanitize import visible
from ..store.text_search import Term
from .blocks import Block, estimate_height, indent, wrap
from .look import Look
from .search_highlight import find_densest, highlight, match_line

_INDENT = 2
_TEXT_LINES = 100
"""In a block of plain text."""
_LEAST_TOKENS = 60
_MOST_TOKENS = 1500
"""In a block of marked tokens; cut at a new line where there is one."""


class Entry(ABC):
    """Something in the transcript."""

    _heads = 1
    """Blocks before those of the text, which are followed by one more."""
    _search_terms: tuple[Term, ...] = ()

    @property
    def growing(self) -> bool:
        """Whether it may change by itself."""
        return False

    @abstractmethod
    def blocks(self) -> Sequence[Block]:
        """Its blocks now, the last one ends with a blank line; the same objects if unchanged."""

    @abstractmethod
    def estimate_height(self, width: int) -> int:
        """About how many lines it takes, computed without its blocks."""

    @abstractmethod
    def release(self) -> None:
        """Drop all blocks."""

    @abstractmethod
    def _drawn(self) -> Sequence[Block]:
        """The blocks of its text made so far."""

    @property
    def search_terms(self) -> tuple[Term, ...]:
        """Highlighted in its text."""
        return self._search_terms

    @search_terms.setter
    def search_terms(self, terms: tuple[Term, ...]) -> None:
        if terms != self._search_terms:
            self._search_terms = terms
            for block in self._drawn():
                block.release()

    @property
    def _body(self) -> Sequence[Block]:
        return self.blocks()[self._heads : -1]

    @property
    def source(self) -> str:
        """Its text as it was written."""
        return "\n".join(block.text for block in self._body)

    def find_match(self, width: int, look: Look) -> tuple[int, int] | None:
        """Index of the block with the most matches close together, and their line in it."""
        body = self._body
        found = find_densest([block.text for block in body], self._search_terms)
        if found is None:
            return None
        at, share = found
        lines = body[at].lines(width, look)
        return self._heads + at, match_line(lines, self._search_terms, share)

    def _highlighted(self, lines: Lines, look: Look) -> Lines:
        if not self._search_terms:
            return lines
        return highlight(lines, self._search_terms, look.styles["match"])

    def lines(self, width: int, look: Look) -> Lines:
        """All its lines."""
        return [line for block in self.blocks() for line in block.lines(width, look)]


class TextEntry(Entry):
    """Plain text, with or without a name above it: a person's message, or a note.

    Args:
        text: shown as it is, control characters made visible.
        style: of the text.
        name: above the text, in the style of the same name.
        mark: in front of every line.
    """

    def __init__(self, text: str, style: str, *, name: str = "", mark: str = "  ") -> None:
        self._text = visible(text).expandtabs(4)
        self._style, self._name, self._mark = style, name, mark
        self._heads = int(bool(name))
        self._remark = ""
        self._blocks: list[Block] = []

    @property
    def remark(self) -> str:
        """Shown next to the name."""
        return self._remark

    @remark.setter
    def remark(self, remark: str) -> None:
        if remark != self._remark:
            self._remark = remark
            for block in self._blocks[:1]:
                block.release()

    @override
    def estimate_height(self, width: int) -> int:
        return estimate_height(self._text, width) + self._heads

    @override
    def _drawn(self) -> Sequence[Block]:
        return self._blocks[self._heads : -1]

    @override
    def release(self) -> None:
        self._blocks = []

    @override
    def blocks(self) -> Sequence[Block]:
        if not self._blocks:
            rows = self._text.split("\n")
            parts = [rows[at : at + _TEXT_LINES] for at in range(0, len(rows), _TEXT_LINES)]
            blocks = [Block("\n".join(part), partial(self._draw, part)) for part in parts]
            name = [Block(self._name, self._draw_name)] if self._name else []
            self._blocks = [*name, *blocks, Block("", lambda _width, _look: [[]])]
        return self._blocks

    def _draw_name(self, width: int, look: Look) -> Lines:
        line = Text.assemble((self._name, look.styles["user"]))
        if self._remark:
            line.append(f"  {self._remark}", look.styles["figures"])
        return wrap(line, width)[:1]

    def _draw(self, rows: list[str], width: int, look: Look) -> Lines:
        style = look.styles[self._style]
        body = wrap(Text("\n".join(rows), style=style), width - len(self._mark))
        return indent(self._highlighted(body, look), self._mark, style)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Tokens `start` to `end` of an answer, as they are marked in one block."""

    start: int
    end: int
    tinted: bool
    walked: int | None
    last: bool


class AnswerEntry(Entry):
    """An answer: Markdown, or its plain text with tokens marked; and its figures.

    Attributes:
        answer: what is shown; it may grow between calls of `blocks`.
        tinted: tokens are tinted by the rank of the drafted child.
        walked_step: the step whose tokens are highlighted, or None.
    """

    def __init__(self, answer: Answer, name: str) -> None:
        self.answer = answer
        self.tinted = False
        self.walked_step: int | None = None
        self._name = visible(name)
        self.release()

    @property
    def name(self) -> str:
        """Of the model, above the text."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = visible(name)
        self._heading.become(self._name, self._draw_name)

    @override
    def release(self) -> None:
        self._heading = Block(self._name, self._draw_name)
        self._footing = Block("", partial(self._draw_figures, ""))
        self._chunks, self._taken = Chunks(), 0
        self._markdown: list[Block] = []
        self._tail = Block("", _nothing)
        self._cuts, self._seen = [0], 0
        self._stretches: list[_Stretch] = []
        self._marked: list[Block] = []

    @property
    @override
    def growing(self) -> bool:
        return not self.answer.done

    @override
    def estimate_height(self, width: int) -> int:
        return 3 + estimate_height(self.answer.text, width)

    @override
    def _drawn(self) -> Sequence[Block]:
        return [*self._markdown, self._tail, *self._marked]

    @override
    def blocks(self) -> Sequence[Block]:
        figures = self.answer.waiting or self.answer.footer()
        if figures != self._footing.text:
            self._footing.become(figures, partial(self._draw_figures, figures))
        marked = self.tinted or self.walked_step is not None
        body = self._marked_blocks() if marked else self._markdown_blocks()
        return [self._heading, *body, self._footing]

    def walked_place(self, width: int) -> tuple[int, int] | None:
        """Index of the block where the walked step's text begins, and the line in it."""
        if self.walked_step is None or not self.answer.spans:
            return None
        self._marked_blocks()
        at = next((i for i, each in enumerate(self._stretches) if each.walked is not None), None)
        if at is None:
            return 0, 0
        spans = self.answer.spans[self._stretches[at].start : self._stretches[at].end]
        before = "".join(span.text for span in spans if span.step < self.walked_step)
        return 1 + at, max(0, len(wrap(Text(before), width - _INDENT)) - 1)

    # Markdown

    def _markdown_blocks(self) -> list[Block]:
        spans = self.answer.spans
        if len(spans) > self._taken:
            self._chunks.add(text_of(spans[self._taken :] if self._taken else spans))
            self._taken = len(spans)
            for chunk in self._chunks.final[len(self._markdown) :]:
                self._markdown.append(Block(chunk.source, partial(self._draw_chunk, chunk)))
            tail = self._chunks.tail
            if tail != self._tail.text:
                self._tail.become(tail, partial(self._draw_chunk, Chunk(tail)))
        return [*self._markdown, self._tail]

    def _draw_chunk(self, chunk: Chunk, width: int, look: Look) -> Lines:
        lines = look.markdown.draw(chunk.source, width - _INDENT)
        lines = indent(self._highlighted(lines, look), " " * _INDENT, look.styles["text"])
        return [*lines, []] if lines and chunk.ends_block else lines

    # Tokens

    def _marked_blocks(self) -> list[Block]:
        self._cut()
        ends = [*self._cuts[1:], len(self.answer.spans)]
        for at, (start, end) in enumerate(zip(self._cuts, ends, strict=True)):
            if start == end:
                break  # the last one, which has no tokens yet
            stretch = self._stretch(start, end)
            if at == len(self._stretches):
                self._stretches.append(stretch)
                self._marked.append(Block("", _nothing))
            elif self._stretches[at] == stretch:
                continue
            self._stretches[at] = stretch
            text = text_of(self.answer.spans[start:end])
            self._marked[at].become(text, partial(self._draw_tokens, stretch))
        return self._marked

    def _stretch(self, start: int, end: int) -> _Stretch:
        first, last = self.answer.spans[start].step, self.answer.spans[end - 1].step
        step = self.walked_step
        walked = step if step is not None and first <= step <= last else None
        return _Stretch(start, end, self.tinted, walked, end == len(self.answer.spans))

    def _cut(self) -> None:
        """Find the ends of stretches among the new tokens."""
        for at, span in enumerate(self.answer.spans[self._seen :], self._seen + 1):
            length = at - self._cuts[-1]
            if length >= _MOST_TOKENS or (length >= _LEAST_TOKENS and span.text.endswith("\n")):
                self._cuts.append(at)
        self._seen = len(self.answer.spans)

    def _draw_tokens(self, stretch: _Stretch, width: int, look: Look) -> Lines:
        text = self._mark(self.answer.spans[stretch.start : stretch.end], look)
        if stretch.last:
            text.rstrip()
        elif text.plain.endswith("\n"):
            text.right_crop(1)
        lines = self._highlighted(wrap(text, width - _INDENT), look)
        lines = indent(lines, " " * _INDENT, look.styles["text"])
        return [*lines, []] if stretch.last else lines

    def _mark(self, spans: Sequence[Span], look: Look) -> Text:
        text = Text(style=look.styles["text"])
        for token in spans:
            word = token.text.lstrip()
            if token.step == self.walked_step:
                text.append(token.text, look.styles["walked" if token.rank else "walked-bonus"])
            elif self.tinted:
                # Blanks stay as they are, since an underlined one reads as a character.
                text.append(token.text[: len(token.text) - len(word)])
                text.append(word, look.styles[f"rank-{min(token.rank, 3)}"])
            else:
                text.append(token.text)
        return text

    # Name and figures

    def _draw_name(self, _width: int, look: Look) -> Lines:
        return [[Segment(self._name, look.styles["name"])]]

    def _draw_figures(self, figures: str, width: int, look: Look) -> Lines:
        style = look.styles["figures"]
        lines = wrap(Text(figures, style=style), width - _INDENT)
        return [*indent(lines, " " * _INDENT, style), []]


def _nothing(_width: int, _look: Look) -> Lines:
    return []
