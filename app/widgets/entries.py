"""The entries of the transcript: messages, answers and notes, each as blocks of lines."""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from rich.segment import Segment
from rich.text import Text
from typing_extensions import override

from ..present.chunks import Chunks
from ..present.markdown import Lines
from ..state.answer import Answer, text_of
from ..state.sanitize import visible
from ..store.text_search import Term, answers
from .blocks import Block, estimate_height, find_densest, highlight, indent, match_line, wrap
from .transcript_styles import Look

_INDENT = "  "
_TEXT_LINES = 100  # in a block of plain text
_LEAST_TOKENS, _MOST_TOKENS = 60, 1500
"""In a block of marked tokens; cut at a new line where there is one."""


class Entry(ABC):
    """Text, and blocks of it from when it comes into view until it is released."""

    _heads = 1  # blocks before those of the text, which are followed by one more
    _terms: tuple[Term, ...] = ()

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

    def search(self, terms: tuple[Term, ...]) -> None:
        """Highlight these terms in its text."""
        if terms != self._terms:
            self._terms = terms
            self.release()

    def count_found(self) -> int:
        """How many of the terms occur in its text as it was written."""
        source = "\n".join(block.text for block in self.blocks()[self._heads : -1])
        return sum(answers(source, (term,)) for term in self._terms)

    def find_match(self, width: int, look: Look) -> tuple[int, int] | None:
        """Index of the block with the most matches close together, and their line in it."""
        body = self.blocks()[self._heads : -1]
        found = find_densest([block.text for block in body], self._terms)
        if found is None:
            return None
        at, share = found
        return self._heads + at, match_line(body[at].lines(width, look), self._terms, share)

    def _highlighted(self, lines: Lines, look: Look) -> Lines:
        return highlight(lines, self._terms, look.styles["match"]) if self._terms else lines


class TextEntry(Entry):
    """Plain text, with or without a name above it: a person's message, or a note."""

    def __init__(
        self, text: str, style: str, *, name: str = "", mark: str = _INDENT, hang: int = 0
    ) -> None:
        self._hang = hang
        self._text = visible(text).expandtabs(4)
        self._style, self._name, self._mark = style, name, mark
        self._heads = int(bool(name))
        self.remark = self._drawn_remark = ""  # next to the name
        self._blocks: list[Block] = []

    @override
    def estimate_height(self, width: int) -> int:
        return estimate_height(self._text, width) + self._heads

    @override
    def release(self) -> None:
        self._blocks = []

    @override
    def blocks(self) -> Sequence[Block]:
        if not self._blocks:
            head = [Block(self._name, self._draw_name)] if self._name else []
            self._blocks = [*head, *self._body(), Block("", lambda *_: [[]])]
        if self.remark != self._drawn_remark:
            self._drawn_remark = self.remark
            self._blocks[0].become(self._name, self._draw_name)
        return self._blocks

    def _body(self) -> list[Block]:
        return self._text_blocks(self._text)

    def _text_blocks(self, text: str) -> list[Block]:
        rows = text.split("\n")
        parts = [rows[at : at + _TEXT_LINES] for at in range(0, len(rows), _TEXT_LINES)]
        return [Block("\n".join(part), self._draw) for part in parts]

    def _draw_name(self, name: str, width: int, look: Look) -> Lines:
        line = Text.assemble((name, look.styles["user"]))
        if self.remark:
            line.append(f"  {self.remark}", look.styles["figures"])
        return wrap(line, width)[:1]

    def _draw(self, text: str, width: int, look: Look) -> Lines:
        style = look.styles[self._style]
        body = wrap(Text(text, style=style), width - len(self._mark), self._hang)
        return indent(self._highlighted(body, look), self._mark, style)


class MessageEntry(TextEntry):
    """A person's message in parts, of which those with a label show only that until opened."""

    def __init__(self, parts: Sequence[tuple[str, str]]) -> None:
        super().__init__("".join(text for text, _ in parts), "text", name="You")
        self._parts = parts
        self._opened: set[str] = set()  # labels
        self._places: list[str] = []  # by block of the body, the label of a fold's first block

    @property
    def folds(self) -> bool:
        """Whether there is anything to open or close."""
        return any(label for _, label in self._parts)

    def toggle(self, block: int | None = None) -> bool:
        """Open or close the fold whose line is a block, or all; whether there is one."""
        if block is None:
            labels = {label for _, label in self._parts}
        else:
            labels = {*self._places[max(0, block - self._heads) :][:1]}
        if not (labels := labels - {""}):
            return False
        whole = self._opened.issuperset(labels)
        self._opened = self._opened - labels if whole else self._opened | labels
        self.release()
        return True

    @override
    def search(self, terms: tuple[Term, ...]) -> None:
        super().search(terms)
        self._opened |= {
            label for text, label in self._parts if any(answers(text, (term,)) for term in terms)
        }

    @override
    def estimate_height(self, width: int) -> int:
        shown = (
            text if not label or label in self._opened else label for text, label in self._parts
        )
        return sum(estimate_height(text, width) for text in shown) + self._heads

    @override
    def _body(self) -> list[Block]:
        blocks: list[Block] = []
        self._places = []
        for text, label in self._parts:
            around_folds = "\n" if label or not self.folds else " \n"
            text = visible(text).expandtabs(4).strip(around_folds)
            if label:
                mark = "▾" if label in self._opened else "▸"
                blocks.append(Block(f"{mark} {visible(label.strip('[]'))}", self._draw_label))
                self._places.append(label)
            if text and (not label or label in self._opened):
                blocks += self._text_blocks(text)
            self._places += [""] * (len(blocks) - len(self._places))
        return blocks

    def _draw_label(self, label: str, width: int, look: Look) -> Lines:
        style = look.styles["fold"]
        lines = wrap(Text(label, style=style), width - len(_INDENT))[:1]
        return indent(lines, _INDENT, look.styles["text"])


def note_entry(text: str, *, error: bool = False, hang: int = 0) -> TextEntry:
    """A note; what is wrapped goes on at the column `hang`."""
    return TextEntry(text, "error" if error else "note", mark="▌ ", hang=hang)


class _Stretch(NamedTuple):
    """Tokens `start` to `end` of an answer, as they are marked in one block."""

    start: int
    end: int
    tinted: bool
    walked: int | None
    last: bool
    lookups: tuple[int, ...]  # of its tokens, those that were looked up


class AnswerEntry(Entry):
    """An answer: Markdown, or its plain text with tokens marked; and its figures."""

    def __init__(self, answer: Answer, name: str) -> None:
        self.answer = answer  # it may grow between calls of `blocks`
        self.name = name  # of the model, above the text
        self.tinted = False  # by the rank of the drafted child
        self.walked_step: int | None = None  # whose tokens are highlighted
        self.release()

    @override
    def release(self) -> None:
        self._heading, self._footing = Block("", _draw_name), Block("", _draw_figures)
        self._chunks, self._taken = Chunks(), 0
        self._markdown: list[Block] = []
        self._tail = Block("", self._draw_chunk)
        self._cuts, self._seen = [0], 0
        self._marked: dict[_Stretch, Block] = {}

    @property
    @override
    def growing(self) -> bool:
        return not self.answer.done

    @override
    def estimate_height(self, width: int) -> int:
        figures = estimate_height(self.answer.footer(), width)
        return 1 + figures + estimate_height(self.answer.text, width)

    @override
    def blocks(self) -> Sequence[Block]:
        name, figures = visible(self.name), self.answer.waiting or self.answer.footer()
        if name != self._heading.text:
            self._heading.become(name, _draw_name)
        if figures != self._footing.text:
            self._footing.become(figures, _draw_figures)
        marked = self.tinted or self.walked_step is not None
        body = self._marked_blocks() if marked else self._markdown_blocks()
        return [self._heading, *body, self._footing]

    def walked_place(self, width: int) -> tuple[int, int]:
        """Index of the block where the walked step's text begins, and the line in it."""
        self._marked_blocks()
        for at, stretch in enumerate(self._marked, 1):
            if stretch.walked is not None:
                spans = self.answer.spans[stretch.start : stretch.end]
                before = "".join(span.text for span in spans if span.step < stretch.walked)
                return at, max(0, len(wrap(Text(before), width - len(_INDENT))) - 1)
        return 0, 0

    def _markdown_blocks(self) -> list[Block]:
        spans = self.answer.spans
        if len(spans) > self._taken:
            self._chunks.add(text_of(spans[self._taken :] if self._taken else spans))
            self._taken = len(spans)
            for chunk in self._chunks.final[len(self._markdown) :]:
                draw = self._draw_chunk if chunk.ends_block else self._draw_part
                self._markdown.append(Block(chunk.source, draw))
            if self._chunks.tail != self._tail.text:
                self._tail.become(self._chunks.tail, self._draw_chunk)
        return [*self._markdown, self._tail]

    def _draw_chunk(self, source: str, width: int, look: Look) -> Lines:
        lines = self._draw_part(source, width, look)
        return [*lines, []] if lines else lines

    def _draw_part(self, source: str, width: int, look: Look) -> Lines:
        lines = look.markdown.draw(source, width - len(_INDENT))
        return indent(self._highlighted(lines, look), _INDENT, look.styles["text"])

    def _marked_blocks(self) -> list[Block]:
        spans = self.answer.spans
        for at, span in enumerate(spans[self._seen :], self._seen + 1):
            length = at - self._cuts[-1]
            if length >= _MOST_TOKENS or (length >= _LEAST_TOKENS and span.text.endswith("\n")):
                self._cuts.append(at)
        self._seen = len(spans)
        before, self._marked = self._marked, {}
        for start, end in pairwise([*self._cuts, len(spans)]):
            if start == end:
                break  # the last one, which has no tokens yet
            here = range(spans[start].step, spans[end - 1].step + 1)
            walked = self.walked_step if self.walked_step in here else None
            lookups = self._lookups(start, end) if self.tinted else ()
            stretch = _Stretch(start, end, self.tinted, walked, end == len(spans), lookups)
            draw = partial(self._draw_tokens, stretch)
            known = before.get(stretch) or Block(text_of(spans[start:end]), draw)
            self._marked[stretch] = known
        return [*self._marked.values()]

    def _lookups(self, start: int, end: int) -> tuple[int, ...]:
        known = self.answer.lookups
        return tuple(known[bisect_left(known, start) : bisect_left(known, end)])

    def _draw_tokens(self, stretch: _Stretch, _text: str, width: int, look: Look) -> Lines:
        text, lookups = Text(style=look.styles["text"]), set(stretch.lookups)
        for at, token in enumerate(self.answer.spans[stretch.start : stretch.end], stretch.start):
            word = token.text.lstrip()
            if token.step == self.walked_step:
                text.append(token.text, look.styles["walked" if token.rank else "walked-bonus"])
            elif self.tinted and token.rank >= 0:
                # Blanks stay as they are, since an underlined one reads as a character.
                text.append(token.text[: len(token.text) - len(word)])
                writer = "looked-up" if at in lookups else f"rank-{min(token.rank, 3)}"
                text.append(word, look.styles[writer])
            else:
                text.append(token.text)
        if stretch.last:
            text.rstrip()
        elif text.plain.endswith("\n"):
            text.right_crop(1)
        lines = self._highlighted(wrap(text, width - len(_INDENT)), look)
        lines = indent(lines, _INDENT, look.styles["text"])
        return [*lines, []] if stretch.last else lines


def _draw_name(name: str, _width: int, look: Look) -> Lines:
    return [[Segment(name, look.styles["name"])]]


def _draw_figures(figures: str, width: int, look: Look) -> Lines:
    style = look.styles["figures"]
    lines = wrap(Text(figures, style=style), width - len(_INDENT))
    return [*indent(lines, _INDENT, style), []]
