"""One answer as the screen holds it: its text, its steps, and the statistics after each of them."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, MutableSequence, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from sequoia_core import events
from sequoia_core.errors import counted
from sequoia_core.files import Record

from .figures import figures
from .sanitize import visible

GIVEN = -1  # rank of text that was not decoded
HISTORY = 120  # steps in the sparklines; more than a terminal is wide
_SHOWN_SECONDS = 0.005  # shorter times would read 0.00 s
_TIMED = 4  # steps from which an answer is compared with plain decoding
ENDINGS: dict[events.FinishReason, list[str]] = {
    events.FinishReason.STOP: [],
    events.FinishReason.LENGTH: ["cut at max_new_tokens"],
    events.FinishReason.CONTEXT: ["context window full"],
    events.FinishReason.CANCELLED: ["stopped"],
}
"""How an answer ended, in words; nothing for the usual end."""


class Chosen(Record, frozen=True):
    """A tree shape, and the first step that is decoded with it."""

    tree: events.TreeChosen
    since: int = 1


class Rate(Record, frozen=True):
    """How often something that could happen did."""

    hits: int = 0
    trials: int = 0

    def plus(self, hit: bool) -> "Rate":
        return Rate(self.hits + hit, self.trials + 1)

    @property
    def value(self) -> float | None:
        """The share of hits, or None before the first trial."""
        return self.hits / self.trials if self.trials else None


class Statistics(Record, frozen=True):
    """The statistics of an answer up to one of its steps.

    Nodes that were looked up count in `accepted`, but not by depth and rank, which are compared
    with what the tree shape expects of the draft's nodes.
    """

    totals: events.Totals = events.Totals()
    measured: bool = True  # every step's plain time was known, so the speed-ups mean something
    # draft tokens of the last steps, oldest first; plain steps that the speed-up is measured
    # against are left out
    accepted: tuple[int, ...] = ()
    speedups: tuple[float, ...] = ()  # of the same steps; 0 where not measured
    by_depth: tuple[Rate, ...] = ()  # [d - 1]: of those that drafted d deep, d or more accepted
    by_rank: tuple[Rate, ...] = ()  # [k - 1]: of visited nodes with k drafted children, the k-th

    def plus(self, step: events.Step) -> "Statistics":
        speedup = step_speedup(step)
        drafted = [node for node in step.nodes if node.origin is events.Origin.DRAFT]
        depth = max(node.depth for node in drafted)
        reached = sum(map(_accepted, drafted)) - 1
        by_rank = self.by_rank
        for place in step.path:
            children = map(step.nodes.__getitem__, step.children[place])
            tried = [_accepted(node) for node in children if node.origin is events.Origin.DRAFT]
            by_rank = _count(by_rank, tried)
        accepted, speedups = self.accepted, self.speedups
        if not step.baseline:
            accepted = (*accepted, step.accepted)[-HISTORY:]
            speedups = (*speedups, speedup or 0.0)[-HISTORY:]
        return Statistics(
            totals=self.totals.plus(step),
            measured=self.measured and speedup is not None,
            accepted=accepted,
            speedups=speedups,
            by_depth=_count(self.by_depth, [reached > d for d in range(depth)]),
            by_rank=by_rank,
        )

    @property
    def speedup(self) -> float | None:
        """Running speed-up over plain decoding.

        None where it was not measured, of plain decoding itself, and of the first steps, whose
        times say little.
        """
        totals = self.totals
        plain = not totals.num_drafts and totals.tokens <= totals.steps
        known = self.measured and totals.seconds and not plain and totals.steps >= _TIMED
        return totals.speedup if known else None


def step_speedup(step: events.Step) -> float | None:
    """The step's speed-up, or None when its plain time was not measured."""
    return step.speedup if step.plain_ms > 0 and step.timings.total_ms > 0 else None


def _accepted(node: events.TreeNode) -> bool:
    return node.outcome is events.Outcome.ACCEPTED


def _count(rates: tuple[Rate, ...], hits: Sequence[bool]) -> tuple[Rate, ...]:
    """One more trial for each of `hits`; rates past its end stay."""
    rates += (Rate(),) * (len(hits) - len(rates))
    tried = (rate.plus(hit) for rate, hit in zip(rates, hits, strict=False))
    return (*tried, *rates[len(hits) :])


@dataclass(frozen=True, slots=True)
class Span:
    """A token's printable text, where it came from and in which step."""

    text: str
    rank: int  # as in `Piece`, or GIVEN
    step: int


def _step_of(span: Span) -> int:
    return span.step


class PackedSpans(Sequence[Span]):
    """Spans that do not change any more: each takes a dozen bytes and its text."""

    __slots__ = ("_ends", "_ranks", "_steps", "text")

    def __init__(self, spans: Iterable[Span]) -> None:
        known = list(spans)
        self.text = text_of(known)
        self._ends = array("I", accumulate(len(span.text) for span in known))
        self._ranks = array("i", (span.rank for span in known))
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
    start: events.AnswerStart | None = None
    trees: list[Chosen] = field(default_factory=list)
    prefill: events.PrefillProgress | events.PrefillDone | None = None
    spans: Sequence[Span] = field(default_factory=list)  # control characters made visible
    lookups: list[int] = field(default_factory=list)  # indices of those that were looked up
    deltas: list[events.TextDelta] = field(default_factory=list)  # the text as the model wrote it
    token_ids: MutableSequence[int] = field(default_factory=list)
    steps: list[events.Step] = field(default_factory=list)
    statistics: list[Statistics] = field(default_factory=list)  # after each of `steps`
    finished: events.Finished | None = None  # also None if it failed
    failure: str | None = None

    def add(self, event: events.Event) -> None:
        """Take in the next event; an answer does not keep a `Notice`."""
        match event:
            case events.AnswerStart(text=text, token_ids=token_ids):
                self.start = event
                self.spans = [Span(line, GIVEN, 0) for line in visible(text).splitlines(True)]
                self.token_ids.extend(token_ids)
            case events.TreeChosen():
                self.trees.append(Chosen(event, self.step_count + 1))
            case events.PrefillProgress() | events.PrefillDone():
                self.prefill = event
            case events.TextDelta(step, _, pieces):
                self.deltas.append(event)
                self.spans = self.spans if isinstance(self.spans, list) else list(self.spans)
                self.spans += [Span(visible(piece.text), piece.rank, step) for piece in pieces]
            case events.Step():
                before = self.statistics[-1] if self.statistics else Statistics()
                self.steps.append(event)
                self.token_ids.extend(event.token_ids)
                self.statistics.append(before.plus(event))
                self._note_lookups(event)
            case events.Finished():
                self.finished = event
            case events.Failed(message):
                self.failure = message

    def _note_lookups(self, step: events.Step) -> None:
        """Note which of the step's tokens were looked up; their text came before it."""
        places = step.path[1 : 1 + len(step.token_ids)]
        looked_up = [step.nodes[at].origin is events.Origin.LOOKUP for at in places]
        if any(looked_up):
            first = bisect_left(self.spans, step.index, key=_step_of)
            last = bisect_right(self.spans, step.index, key=_step_of)
            spans = zip(range(first, last), looked_up, strict=False)
            self.lookups += [at for at, found in spans if found]

    def recall(self, steps: Sequence[tuple[events.Step, Statistics]]) -> None:
        """Take back the steps that were forgotten, each with the statistics after it."""
        self.steps[:] = [step for step, _ in steps]
        self.statistics[:] = [statistics for _, statistics in steps]
        self.lookups.clear()
        for step, _ in steps:
            self._note_lookups(step)

    def tree_at(self, step: int) -> Chosen | None:
        return next((each for each in reversed(self.trees) if each.since <= step), None)

    def forget_steps(self) -> None:
        """Keep only the text and the last statistics, to save memory."""
        self.steps.clear()
        del self.statistics[:-1]
        if self.done and not isinstance(self.spans, PackedSpans):
            text = "".join(delta.text for delta in self.deltas)
            self.spans = packed = PackedSpans(self.spans)
            self.deltas = [events.TextDelta(0, packed.text if packed.text == text else text, ())]
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
        return self.given + "".join(delta.text for delta in self.deltas)

    @property
    def given(self) -> str:
        """The text that it begins with and that was not decoded for it."""
        return self.start.text if self.start is not None else ""

    @property
    def known_ids(self) -> tuple[int, ...]:
        """The tokens of all of its text; none if those of its beginning are not known."""
        given = self.start is not None and self.start.text and not self.start.token_ids
        return () if given else tuple(self.token_ids)

    @property
    def complete(self) -> bool:
        """Whether the model itself, or a stop string, has ended it."""
        ended = self.finished is not None and self.finished.reason is events.FinishReason.STOP
        return ended and self.step_count > 0

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
            case events.PrefillProgress(done, total):
                return f"reading the prompt: {done} of {total} tokens"
            case events.PrefillDone(prompt_tokens, cached_tokens, seconds):
                fresh = prompt_tokens - cached_tokens
                read = f"read {counted(fresh, 'prompt token')}"
                read += f" in {seconds:.2f} s" if seconds >= _SHOWN_SECONDS else ""
                cached = [f"{cached_tokens} cached"] * bool(cached_tokens)
                return ", ".join([read, *cached, *self._left_out])
        return "reading the prompt" if self.trees else "waiting for the model"

    def footer(self) -> str:
        """Its statistics in one line, and how it ended unless that is usual."""
        parts = self._special
        if self.statistics:
            last = self.statistics[-1]
            tokens = counted(last.totals.tokens, "token")
            parts += [*figures(last.totals, last.speedup), tokens]
        parts += self._left_out
        if self.finished is not None:
            parts += ENDINGS[self.finished.reason]
        return " · ".join(parts)

    @property
    def _special(self) -> list[str]:
        start = self.start or events.AnswerStart()
        words = ["edited"] * start.edited
        words += ["continued"] * bool(start.text and (self.statistics or not self.done))
        named = (visible(f"{name} {value}").split() for name, value in start.settings.items())
        return [*words, *map(" ".join, named)]

    @property
    def left_out(self) -> int:
        """How many of the oldest turns were left out of its prompt, since they did not fit."""
        return self.prefill.left_out if isinstance(self.prefill, events.PrefillDone) else 0

    @property
    def _left_out(self) -> list[str]:
        return [f"{counted(self.left_out, 'earlier turn')} left out"] if self.left_out else []

    def context_tokens(self, statistics: Statistics | None = None) -> int | None:
        """Tokens of the prompt and of the answer, up to these statistics or so far.

        None while the prompt is read.
        """
        if not isinstance(self.prefill, events.PrefillDone):
            return None
        upto = statistics or (self.statistics[-1] if self.statistics else Statistics())
        return self.prefill.prompt_tokens + upto.totals.tokens
