"""An answer in the transcript: streaming Markdown, or plain text with tokens marked.

Owns how an answer's text is drawn; what the answer is, and which step is looked at, comes from
outside. Model text is never read as markup: Markdown runs without HTML, the rest is plain content.
"""

from markdown_it import MarkdownIt
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content, Span
from textual.widgets import Markdown, Static

from sequoia_core.events import PrefillDone, PrefillProgress

from ..answer import Answer
from ..visible import visible
from .line import Line


def _parser() -> MarkdownIt:
    """Without HTML, which Textual would drop: a model's `<tag>` must be seen."""
    return MarkdownIt("gfm-like", {"html": False})


class AnswerView(Vertical):
    """Name, text and a footer line with the figures."""

    DEFAULT_CSS = """
    AnswerView { height: auto; }
    """

    def __init__(self, answer: Answer, name: str) -> None:
        super().__init__(classes="answer")
        self.answer = answer
        self._flushed = 0
        self._tinted = False
        self._walked_step: int | None = None
        self._heading = Line(Content.styled(visible(name), "bold $primary"))
        # The parser takes a while to make; one serves all appends.
        parser = _parser()
        self._markdown = Markdown(parser_factory=lambda: parser, open_links=False)
        self._plain = Static(classes="plain", markup=False)
        self._footer = Line()

    def compose(self) -> ComposeResult:
        """Both ways to show the text; only one is displayed."""
        yield self._heading
        yield self._markdown
        yield self._plain
        yield self._footer

    def on_mount(self) -> None:
        """Begin with Markdown."""
        self._plain.display = False
        self._footer.add_class("figures")

    @property
    def plain(self) -> bool:
        """Whether the text is shown plainly, with tokens marked."""
        return self._tinted or self._walked_step is not None

    async def flush(self) -> None:
        """Show the text that came since the last flush."""
        fresh = "".join(span.text for span in self.answer.spans[self._flushed :])
        self._flushed = len(self.answer.spans)
        if fresh:
            await self._markdown.append(fresh)
            if self.plain:
                self._plain.update(self._marked())

    def mark(self, tinted: bool, walked_step: int | None) -> None:
        """Tint tokens by origin, highlight a step's tokens, or neither (back to Markdown)."""
        if (tinted, walked_step) == (self._tinted, self._walked_step):
            return
        self._tinted, self._walked_step = tinted, walked_step
        self._markdown.display = not self.plain
        self._plain.display = self.plain
        if self.plain:
            self._plain.update(self._marked())

    def show_figures(self) -> None:
        """Bring the footer line up to date."""
        self._footer.show(Content.styled(self._figures(), "$notice"))

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

    def _marked(self) -> Content:
        spans: list[Span] = []
        at = 0
        for token in self.answer.spans:
            end = at + len(token.text)
            if token.text and token.step == self._walked_step:
                color = "$accepted" if token.rank else "$bonus"
                spans.append(Span(at, end, f"bold {color} on {color} 25%"))
            elif token.text and self._tinted:
                spans.append(Span(at, end, _TINTS[min(token.rank, len(_TINTS) - 1)]))
            at = end
        return Content(self.answer.text, spans=spans)


# Weight and underline tell the origins apart where colour cannot.
_TINTS = ("bold $bonus", "$rank-1", "underline $rank-2", "underline italic $rank-3")
