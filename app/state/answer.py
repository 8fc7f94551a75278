"""One answer as the screen holds it: its text, its steps, and the statistics after each of them."""

from array import array
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field

from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    PrefillDone,
    PrefillProgress,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.files import Record

from .sanitize import visible
from .spans import PackedSpans, Span, text_of
from .stats import Statistics

__all__ = ["ENDINGS", "Answer", "Chosen", "Span"]


class Chosen(Record, frozen=True):
    """A tree shape, and the first step that is decoded with it."""

    tree: TreeChosen
    since: int = 1


@dataclass(slots=True)
class Answer:
    """One answer, which grows by `add`; what it holds does not change.

    Attributes:
        prompt: the question.
        trees: the tree shapes it is decoded with, in order.
        prefill: how much of the prompt was read.
        spans: the text so far, token by token, control characters made visible.
        parts: the text so far as the model wrote it.
        token_ids: of the text so far.
        steps: so far.
        statistics: after each of `steps`.
        finished: how it ended, or None while it runs or if it failed.
        failure: the error it ended by.
    """

    prompt: str
    trees: list[Chosen] = field(default_factory=list)
    prefill: PrefillProgress | PrefillDone | None = None
    spans: Sequence[Span] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    token_ids: MutableSequence[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)
    finished: Finished | None = None
    failure: str | None = None

    def add(self, event: Event) -> None:
        """Take in the next event; an answer does not keep a `Notice`."""
        match event:
            case TreeChosen():
                self.trees.append(Chosen(event, len(self.steps) + 1))
            case PrefillProgress() | PrefillDone():
                self.prefill = event
            case TextDelta(step, text, pieces):
                self.parts.append(text)
                self.spans = self.spans if isinstance(self.spans, list) else list(self.spans)
                self.spans += [Span(visible(piece.text), piece.rank, step) for piece in pieces]
            case Step():
                before = self.statistics[-1] if self.statistics else Statistics()
                self.steps.append(event)
                self.token_ids.extend(event.token_ids)
                self.statistics.append(before.plus(event))
            case Finished():
                self.finished = event
            case Failed(message):
                self.failure = message

    def tree_at(self, step: int) -> Chosen | None:
        """The tree shape of a step, or None if it is not known."""
        return next((each for each in reversed(self.trees) if each.since <= step), None)

    def forget_steps(self) -> None:
        """Keep only the text and the last statistics, to save memory."""
        self.steps.clear()
        del self.statistics[:-1]
        if self.done and not isinstance(self.spans, PackedSpans):
            packed = PackedSpans(self.spans)
            verbatim = self.verbatim
            self.spans = packed
            self.parts = [packed.text if packed.text == verbatim else verbatim]
            self.token_ids = array("L", self.token_ids)

    @property
    def done(self) -> bool:
        """Whether no more events will come."""
        return self.finished is not None or self.failure is not None

    @property
    def text(self) -> str:
        """The visible text so far."""
        return text_of(self.spans)

    @property
    def verbatim(self) -> str:
        """The text so far as the model wrote it, for the engine and for files."""
        return "".join(self.parts)

    @property
    def waiting(self) -> str:
        """What happens before the first step, in one line; "" from then on."""
        if self.statistics or self.done:
            return ""
        match self.prefill:
            case PrefillProgress(done, total):
                return f"reading the prompt: {done} of {total} tokens"
            case PrefillDone(prompt_tokens, cached_tokens, seconds):
                fresh = prompt_tokens - cached_tokens
                return f"read {fresh} prompt tokens in {seconds:.2f} s, {cached_tokens} cached"
        return "reading the prompt" if self.trees else "waiting for the model"

    def footer(self) -> str:
        """Its statistics in one line, and how it ended unless that is usual."""
        parts: list[str] = []
        if self.statistics:
            last = self.statistics[-1]
            parts = [
                f"{last.totals.tokens} tokens",
                f"{last.totals.tokens_per_second:.1f} tok/s",
                f"{last.totals.tokens_per_step:.2f} tokens/step",
            ]
            if last.speedup is not None:
                parts.append(f"{last.speedup:.2f}x plain")
        if self.finished is not None:
            parts += ENDINGS[self.finished.reason]
        return " · ".join(parts)


ENDINGS: dict[FinishReason, list[str]] = {
    FinishReason.STOP: [],
    FinishReason.LENGTH: ["cut at max_new_tokens"],
    FinishReason.CONTEXT: ["context window full"],
    FinishReason.CANCELLED: ["stopped"],
}
"""How an answer ended, in words; nothing for the usual end."""
