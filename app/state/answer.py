"""One answer as the screen holds it: its text, its steps, and the statistics after each of them."""

from array import array
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

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
from .stats import Statistics

ENDINGS: dict[FinishReason, list[str]] = {
    FinishReason.STOP: [],
    FinishReason.LENGTH: ["cut at max_new_tokens"],
    FinishReason.CONTEXT: ["context window full"],
    FinishReason.CANCELLED: ["stopped"],
}
"""How an answer ended, in words; nothing for the usual end."""


class Chosen(Record, frozen=True):
    """A tree shape, and the first step that is decoded with it."""

    tree: TreeChosen
    since: int = 1


@dataclass(frozen=True, slots=True)
class Span:
    """A token's printable text, where it came from and in which step."""

    text: str
    rank: int
    step: int


class PackedSpans(Sequence[Span]):
    """Spans that do not change any more: each takes a dozen bytes and its text."""

    __slots__ = ("_ends", "_ranks", "_steps", "text")

    def __init__(self, spans: Iterable[Span]) -> None:
        known = list(spans)
        self.text = text_of(known)
        self._ends = array("I", accumulate(len(span.text) for span in known))
        self._ranks = array("I", (span.rank for span in known))
        self._steps = array("I", (span.step for span in known))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        start = self._ends[at - 1] if at else 0
        return Span(self.text[start : self._ends[at]], self._ranks[at], self._steps[at])


def text_of(spans: Sequence[Span]) -> str:
    return spans.text if isinstance(spans, PackedSpans) else "".join(span.text for span in spans)


@dataclass(slots=True)
class Answer:
    """One answer, which grows by `add`; what it holds does not change."""

    prompt: str
    trees: list[Chosen] = field(default_factory=list)
    prefill: PrefillProgress | PrefillDone | None = None
    spans: Sequence[Span] = field(default_factory=list)  # control characters made visible
    deltas: list[TextDelta] = field(default_factory=list)  # the text as the model wrote it
    token_ids: MutableSequence[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)  # after each of `steps`
    finished: Finished | None = None  # also None if it failed
    failure: str | None = None

    def add(self, event: Event) -> None:
        """Take in the next event; an answer does not keep a `Notice`."""
        match event:
            case TreeChosen():
                self.trees.append(Chosen(event, self.step_count + 1))
            case PrefillProgress() | PrefillDone():
                self.prefill = event
            case TextDelta(step, _, pieces):
                self.deltas.append(event)
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
        return next((each for each in reversed(self.trees) if each.since <= step), None)

    def forget_steps(self) -> None:
        """Keep only the text and the last statistics, to save memory."""
        self.steps.clear()
        del self.statistics[:-1]
        if self.done and not isinstance(self.spans, PackedSpans):
            text = self.verbatim
            self.spans = packed = PackedSpans(self.spans)
            self.deltas = [TextDelta(0, packed.text if packed.text == text else text, ())]
            self.token_ids = array("L", self.token_ids)

    @property
    def done(self) -> bool:
        """Whether no more events will come."""
        return self.finished is not None or self.failure is not None

    @property
    def text(self) -> str:
        return text_of(self.spans)

    @property
    def verbatim(self) -> str:
        """The text so far as the model wrote it, for the engine and for files."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def step_count(self) -> int:
        """Of all its steps, forgotten ones too."""
        return self.statistics[-1].totals.steps if self.statistics else 0

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
