"""What stands in the transcript: messages, answers and notes, each as lines of a given width.

An entry keeps its lines until its text, the width or the theme changes. Nothing here is ever read
as markup of the terminal's or the widget library's; only answers are read as Markdown.
"""

from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from sequoia_core.events import PrefillDone, PrefillProgress

from ..answer import Answer
from ..markdown import Lines, MarkdownLines, MarkdownLook
from ..visible import visible

_INDENT = 2


@dataclass(frozen=True, slots=True)
class Look:
    """Styles of a theme, and the console that wraps text.

    Attributes:
        styles: by name; see `Transcript.COMPONENT_CLASSES`.
        markdown: of answers.
        console: wraps plain text.
    """

    styles: dict[str, Style] = field(hash=False)
    markdown: MarkdownLook
    console: Console = field(hash=False, compare=False)


class Entry(Protocol):
    """Something in the transcript."""

    def lines(self, width: int, look: Look) -> Lines:
        """Its lines, with a blank one at the end."""
        ...


class TextEntry:
    """Plain text under a name, or without one: what a person wrote, or a note.

    Args:
        text: shown as it is, control characters made visible.
        style: of the text.
        name: over the text, in the style of the same name.
        mark: in front of every line.

    Attributes:
        remark: said beside the name.
    """

    def __init__(self, text: str, style: str, *, name: str = "", mark: str = "  ") -> None:
        self._text = visible(text).expandtabs(4)
        self._style, self._name, self._mark = style, name, mark
        self.remark = ""
        self._key: tuple[int, int, str] | None = None
        self._lines: Lines = []

    def lines(self, width: int, look: Look) -> Lines:
        """Its lines."""
        if self._key != (width, id(look), self.remark):
            self._key = (width, id(look), self.remark)
            style = look.styles[self._style]
            name: Lines = [[Segment(self._name, look.styles["user"])]] if self._name else []
            if self.remark:
                name[0].append(Segment(f"  {self.remark}", look.styles["figures"]))
            body = wrap(Text(self._text, style=style), width - len(self._mark), look)
            self._lines = [*name, *_indent(body, self._mark, style), []]
        return self._lines


class AnswerEntry:
    """An answer: Markdown, or its plain text with tokens marked, and its figures.

    Attributes:
        answer: what is shown; it may grow between calls of `lines`.
        tinted: tokens are tinted by where they came from.
        walked_step: the step whose tokens are highlighted, or None.
        walked_line: where they begin among the lines last made, or None.
    """

    def __init__(self, answer: Answer, name: str) -> None:
        self.answer = answer
        self.tinted = False
        self.walked_step: int | None = None
        self.walked_line: int | None = None
        self._name = visible(name)
        self._markdown = MarkdownLines()
        self._key: tuple[object, ...] | None = None
        self._body: Lines = []

    @property
    def plain(self) -> bool:
        """Whether the text is shown plainly, with tokens marked."""
        return self.tinted or self.walked_step is not None

    def lines(self, width: int, look: Look) -> Lines:
        """Its lines; the figures are new each time, the body only when the text is."""
        key = (width, id(look), len(self.answer.spans), self.tinted, self.walked_step)
        if self._key != key:
            self._key, self.walked_line = key, None
            room = width - _INDENT
            if self.plain:
                body = wrap(self._marked(look), room, look)
                self.walked_line = self._line_of_walked(room, look)
            else:
                body = self._markdown.lines(self.answer.text, room, look.markdown)
            self._body = [*_indent(body, " " * _INDENT, look.styles["text"]), []]
        name = [Segment(self._name, look.styles["name"])]
        body = self._body if self.answer.spans else []
        style = look.styles["figures"]
        figures = wrap(Text(self._figures(), style=style), width - _INDENT, look)
        return [name, *body, *_indent(figures, " " * _INDENT, style), []]

    def _line_of_walked(self, room: int, look: Look) -> int | None:
        if self.walked_step is None:
            return None
        before = (token.text for token in self.answer.spans if token.step < (self.walked_step or 0))
        text = "".join(before)
        return 1 + max(0, len(wrap(Text(text), room, look)) - 1)  # below the name

    def _figures(self) -> str:
        if self.answer.statistics or self.answer.done:
            return self.answer.footer()
        match self.answer.prefill:
            case PrefillProgress(done, total):
                return f"reading the prompt: {done} of {total} tokens"
            case PrefillDone(prompt_tokens, cached_tokens, seconds):
                fresh = prompt_tokens - cached_tokens
                return f"read {fresh} prompt tokens in {seconds:.2f} s, {cached_tokens} cached"
        return "reading the prompt"

    def _marked(self, look: Look) -> Text:
        text = Text(style=look.styles["text"])
        for token in self.answer.spans:
            word = token.text.lstrip()
            if token.step == self.walked_step:
                text.append(token.text, look.styles["walked" if token.rank else "walked-bonus"])
            elif self.tinted:
                # Blanks stay as they are, since an underlined one reads as a character.
                text.append(token.text[: len(token.text) - len(word)])
                text.append(word, look.styles[f"rank-{min(token.rank, 3)}"])
            else:
                text.append(token.text)
        text.rstrip()
        return text


def wrap(text: Text, width: int, look: Look) -> Lines:
    """The text's lines, none wider than `width` cells."""
    text.expand_tabs(4)
    lines = text.wrap(look.console, max(1, width), overflow="fold", no_wrap=False)
    return [list(line.render(look.console)) for line in lines]


def _indent(lines: Lines, mark: str, style: Style) -> Lines:
    return [[Segment(mark, style), *Segment.apply_style(line, style)] for line in lines]
