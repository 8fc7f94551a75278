"""A race as the screen remembers it: both lanes, where their texts part, and what it came to.

Owns what may be said of two answers to one prompt. Grows by `add`; knows no widget and no thread.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from sequoia_core.chat.race import Lane, Raced, RaceEvent, RaceTerms
from sequoia_core.config import Lookup
from sequoia_core.events import FinishReason, Notice, PrefillDone, TreeChosen
from sequoia_core.files import Record, decode, parse_json

from .answer import Answer
from .sanitize import quote_token, visible


class Agreement(StrEnum):
    """What comparing the two texts, token by token, has shown."""

    EQUAL = "equal"
    """Both lanes ended, and every token is the same."""
    SO_FAR = "equal so far"
    """As far as both lanes got; at least one was stopped before its end."""
    PARTED = "parted"
    DRAWN = "drawn"
    """Above temperature 0 each lane draws for itself: nothing to compare."""


class LaneResult(Record, frozen=True):
    """What one lane came to.

    Attributes:
        text: its answer, control characters made visible.
        tokens: of the answer.
        steps: it took.
        seconds: wall time of decoding, on the lane's own clock.
        reading_seconds: wall time of reading the prompt, which is not in `seconds`.
        ended: how, or None where it failed.
        raced_tokens: of `tokens`, those while the other lane was running too.
        raced_seconds: of `seconds`, likewise.
    """

    text: str
    tokens: int
    steps: int
    seconds: float
    reading_seconds: float
    ended: FinishReason | None
    raced_tokens: int
    raced_seconds: float

    @property
    def tokens_per_second(self) -> float:
        """While both lanes ran; 0 before the first step."""
        return self.raced_tokens / self.raced_seconds if self.raced_seconds else 0.0


class RaceResult(Record, frozen=True):
    """What a race came to; plain values, to be kept with the session.

    Attributes:
        prompt: what both were asked.
        temperature: of both.
        threads: that each forward was computed with.
        tree: what the speculative lane decoded with, as the screen names it.
        plain: the lane without speculation.
        speculative: the other.
        agreement: of the texts.
        common_tokens: from the start that are the same in both.
        must_agree: the arithmetic allows no difference between the texts.
    """

    prompt: str
    temperature: float
    threads: int
    tree: str
    plain: LaneResult
    speculative: LaneResult
    agreement: Agreement
    common_tokens: int
    must_agree: bool

    @property
    def speedup(self) -> float | None:
        """Tokens a second over plain decoding's, wall clock both, while both lanes ran.

        What slows the machine down after one has ended would slow only the other.
        """
        if not self.plain.tokens_per_second or not self.speculative.tokens_per_second:
            return None
        return self.speculative.tokens_per_second / self.plain.tokens_per_second

    def note(self) -> str:
        """Two lines for the transcript."""
        plain, trees = self.plain, self.speculative
        speedup = f"{self.speedup:.2f}x, " if self.speedup is not None else ""
        rates = f"{trees.tokens_per_second:.1f} against {plain.tokens_per_second:.1f} tokens/s"
        return (
            f"Race, {self.tree} against plain decoding: {speedup}{rates}; {_whole(trees)} against "
            f"{_whole(plain)}.\n{agreement_told(self)}"
        )


@dataclass(slots=True)
class LaneRun:
    """A lane under way.

    Attributes:
        answer: so far.
        seconds: on its clock.
        raced_tokens: tokens while the other lane was running too.
        raced_seconds: on its clock, likewise.
    """

    answer: Answer
    seconds: float = 0.0
    raced_tokens: int = 0
    raced_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """So far."""
        return len(self.answer.token_ids)

    @property
    def tokens_per_second(self) -> float:
        """While both lanes ran; 0 before the first step."""
        return self.raced_tokens / self.raced_seconds if self.raced_seconds else 0.0

    def result(self) -> LaneResult:
        """What it came to."""
        answer, prefill = self.answer, self.answer.prefill
        return LaneResult(
            text=answer.text,
            tokens=self.tokens,
            steps=answer.statistics[-1].totals.steps if answer.statistics else 0,
            seconds=self.seconds,
            reading_seconds=prefill.seconds if isinstance(prefill, PrefillDone) else 0.0,
            ended=answer.finished.reason if answer.finished else None,
            raced_tokens=self.raced_tokens,
            raced_seconds=self.raced_seconds,
        )


@dataclass(slots=True)
class RaceRun:
    """A race under way, or over.

    Attributes:
        prompt: what both lanes are asked.
        exchange: id of the exchange whose prompt it is, or None for one that was not asked before.
        terms: what both have in common; None until the race has begun.
        lanes: how far each is.
        common: tokens from the start that are the same in both lanes.
        notices: what the engine had to say, each once.
        ended: no more events will come.
        failure: the error it ended by.
    """

    prompt: str
    exchange: str | None = None
    terms: RaceTerms | None = None
    lanes: dict[Lane, LaneRun] = field(default_factory=dict)
    common: int = 0
    notices: list[str] = field(default_factory=list)
    ended: bool = False
    failure: str | None = None

    def __post_init__(self) -> None:
        self.lanes = {lane: LaneRun(Answer(self.prompt)) for lane in Lane}

    def add(self, event: RaceEvent) -> None:
        """Take in the next event."""
        if isinstance(event, RaceTerms):
            self.terms = event
        else:
            self._add(event.lane, event)

    def _add(self, lane: Lane, raced: Raced) -> None:
        run, event = self.lanes[lane], raced.event
        run.answer.add(event)
        run.seconds = raced.seconds
        if not any(each.answer.done for each in self.lanes.values() if each is not run):
            run.raced_tokens, run.raced_seconds = run.tokens, run.seconds
        if isinstance(event, Notice) and event.message not in self.notices:
            self.notices.append(event.message)
        ours, theirs = (self.lanes[each].answer.token_ids for each in Lane)
        most = min(len(ours), len(theirs))
        while self.common < most and ours[self.common] == theirs[self.common]:
            self.common += 1

    def end(self, failure: str | None) -> None:
        """No more events will come."""
        self.ended, self.failure = True, failure

    @property
    def plain(self) -> LaneRun:
        """The lane without speculation."""
        return self.lanes[Lane.PLAIN]

    @property
    def speculative(self) -> LaneRun:
        """The other lane."""
        return self.lanes[Lane.SPECULATIVE]

    @property
    def tree(self) -> str:
        """What the speculative lane decodes with."""
        trees = self.speculative.answer.trees
        return tree_name(trees[-1].tree) if trees else "speculative"

    @property
    def parted(self) -> bool:
        """Whether both lanes have a token where they differ."""
        return self.common < min(self.plain.tokens, self.speculative.tokens)

    @property
    def agreement(self) -> Agreement:
        """Of the texts, as far as they go."""
        if self.terms is None or self.terms.temperature > 0.0:
            return Agreement.DRAWN
        if self.parted:
            return Agreement.PARTED
        complete = all(_complete(run.answer) for run in self.lanes.values())
        if complete and self.plain.tokens != self.speculative.tokens:
            return Agreement.PARTED  # one went on where the other ended
        return Agreement.EQUAL if complete else Agreement.SO_FAR

    def result(self) -> RaceResult | None:
        """What it came to; None while it runs, or if it has shown nothing."""
        if not self.ended or self.terms is None or not self.plain.tokens:
            return None
        return RaceResult(
            prompt=visible(self.prompt),
            temperature=self.terms.temperature,
            threads=self.terms.threads,
            tree=self.tree,
            plain=self.plain.result(),
            speculative=self.speculative.result(),
            agreement=self.agreement,
            common_tokens=self.common,
            must_agree=self.terms.must_agree,
        )

    def parting(self) -> str:
        """The two tokens at which the texts part, each with the probability its lane gave it."""
        if not self.parted:
            return ""
        return ", ".join(
            f"{lane.value} {quote_token(text)} {prob:.4f}"
            for lane, run in self.lanes.items()
            if (found := _token_at(run.answer, self.common)) is not None
            for text, prob in [found]
        )


def kept_note(kept: str) -> str:
    """What is said of a race that was kept as JSON; "" where it cannot be read."""
    try:
        result: RaceResult = decode(RaceResult, parse_json(kept))
    except ValueError:  # of another version
        return ""
    return result.note()


def tree_name(tree: TreeChosen) -> str:
    """A tree shape in a few words."""
    looks_up = tree.lookup != Lookup.OFF
    if tree.nodes <= 1:
        return "lookup only" if looks_up else "plain decoding"
    return f"{tree.mode} tree {tree.nodes}x{tree.depth}{' + lookup' if looks_up else ''}"


def agreement_told(result: RaceResult) -> str:
    """One line on whether the texts are equal, and why they may not be."""
    match result.agreement:
        case Agreement.EQUAL:
            return f"Both texts are equal, token for token: {_tokens(result.plain)}."
        case Agreement.SO_FAR:
            return (
                f"Stopped; both texts are equal as far as both got: {result.common_tokens} tokens."
            )
        case Agreement.DRAWN:
            return (
                f"At temperature {result.temperature:g} each draws its own text from the same "
                "distribution; at temperature 0 they could be compared."
            )
        case Agreement.PARTED:
            place = f"The texts part after {result.common_tokens} tokens"
            if result.must_agree:
                return f"{place}, which these numbers do not allow: please report it."
            return f"{place}: rounding decided a near-tie; see --dtype float32."


def _complete(answer: Answer) -> bool:
    return answer.finished is not None and answer.finished.reason is not FinishReason.CANCELLED


def _token_at(answer: Answer, place: int) -> tuple[str, float] | None:
    """A token of the answer and the target's probability of it."""
    for step in answer.steps:
        if place < len(step.token_ids):
            if place == step.accepted:
                return step.bonus_text, step.bonus_prob
            node = step.nodes[step.path[place + 1]]
            return node.text, node.target_prob or 0.0
        place -= len(step.token_ids)
    return None


def _tokens(lane: LaneResult) -> str:
    return f"{lane.tokens} tokens" if lane.tokens != 1 else "1 token"


def _whole(lane: LaneResult) -> str:
    return f"{_tokens(lane)} in {lane.seconds:.2f} s"
