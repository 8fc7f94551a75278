"""A race: both lanes, where their texts diverge, and its result."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from sequoia_core.chat.race import PLAIN_AND_CHOSEN, Lane, RaceEvent, RaceSide, RaceTerms
from sequoia_core.config import Lookup, Mode
from sequoia_core.errors import counted
from sequoia_core.events import (
    Event,
    FinishReason,
    Notice,
    Origin,
    PrefillDone,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.files import Record, decode, parse_json

from .answer import Answer
from .figures import per_pass, speed_words, tree_size
from .sanitize import quote_token, visible

LATE_GUESS, LOOKED_UP = 3, 4
_Lane = TypeVar("_Lane", "LaneState", "LaneResult")


class LanePart(NamedTuple):
    """A piece of a lane's text, its control characters made visible.

    Its writer is 0 for the target, 1 and 2 for the draft's first and second guess, `LATE_GUESS` for
    a later one, or `LOOKED_UP`.
    """

    text: str
    writer: int


class Agreement(StrEnum):
    """The result of comparing both texts token by token; recorded with the race."""

    EQUAL = "equal"  # both lanes ended
    SO_FAR = "equal so far"  # as far as both lanes got; at least one was stopped
    DIVERGED = "parted"
    SAMPLED = "drawn"  # above temperature 0 each lane samples for itself: nothing to compare


class LaneResult(Record, frozen=True):
    """The result of one lane; its times are wall times on the lane's own clock."""

    name: str  # what it decoded with
    label: str  # the same, short
    plain: bool  # whether it decoded plainly
    text: str  # control characters made visible
    tokens: int
    steps: int
    seconds: float  # of decoding
    reading_seconds: float  # of reading the prompt, which is not in `seconds`
    ended: FinishReason | None  # None if it failed
    raced_tokens: int  # those while the other lane was running too
    raced_seconds: float  # the same

    @property
    def tokens_per_second(self) -> float:
        """While both lanes ran; 0 before the first step."""
        return self.raced_tokens / self.raced_seconds if self.raced_seconds else 0.0

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.steps if self.steps else 0.0


class RaceResult(Record, frozen=True):
    """The result of a race; recorded as JSON."""

    prompt: str
    temperature: float
    threads: int  # of each forward pass
    first: LaneResult
    second: LaneResult
    agreement: Agreement
    common_tokens: int  # from the start that are the same in both
    must_agree: bool  # the arithmetic allows no difference between the texts

    def note(self) -> str:
        """Two lines for the transcript."""
        lanes = compared(self.first, self.second)
        subject, other = lanes
        passes = [f"{each.tokens_per_pass:.2f}" for each in lanes]
        words = [f"{' against '.join(passes)} tokens per pass"]
        if other.plain:
            words = [per_pass(subject.tokens_per_pass)] if subject.steps else []
        if (ratio := speed_ratio(subject, other)) is not None:
            words.append(speed_words(ratio, other=other.label))
        rates = " against ".join(f"{each.tokens_per_second:.1f}" for each in lanes)
        times = " against ".join(
            f"{counted(each.tokens, 'token')} in {each.seconds:.2f} s" for each in lanes
        )
        return (
            f"Race, {subject.name} against {other.name}: {', '.join([*words, rates])} tokens/s; "
            f"{times}.\n"
            f"{agreement_line(self)}"
        )


@dataclass(slots=True)
class LaneState:
    """A running lane; attributes are as in `LaneResult`."""

    side: RaceSide
    answer: Answer
    seconds: float = 0.0
    raced_tokens: int = 0
    raced_seconds: float = 0.0
    parts: list[LanePart] = field(default_factory=list)  # the text
    _delta: tuple[int, int] = (0, 0)  # step of the last text, and index of its first part

    def add(self, event: Event) -> None:
        self.answer.add(event)
        if isinstance(event, TextDelta):
            self._delta = event.step, len(self.parts)
            self.parts += [
                LanePart(visible(piece.text), min(piece.rank, LATE_GUESS)) for piece in event.pieces
            ]
        elif isinstance(event, Step) and self._delta[0] == event.index:
            first = self._delta[1]
            for at, node in enumerate(event.path[1 : 1 + len(event.token_ids)], first):
                if event.nodes[node].origin is Origin.LOOKUP:
                    self.parts[at] = self.parts[at]._replace(writer=LOOKED_UP)

    @property
    def tree(self) -> TreeChosen | None:
        return self.answer.trees[-1].tree if self.answer.trees else None

    @property
    def plain(self) -> bool:
        tree = self.tree
        if tree is None:
            return self.side.plain
        return tree.mode == Mode.AR and tree.lookup == Lookup.OFF

    @property
    def label(self) -> str:
        return self.side.label

    @property
    def name(self) -> str:
        """The label, and the tree as far as it is known."""
        if self.tree is None:
            return self.label
        name = tree_name(self.tree)
        known = self.side in PLAIN_AND_CHOSEN or name.startswith(self.label)
        return name if known else f"{self.label}: {name}"

    @property
    def tokens(self) -> int:
        return len(self.answer.token_ids)

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.answer.step_count if self.answer.step_count else 0.0

    @property
    def complete(self) -> bool:
        """Whether the answer ended by itself."""
        finished = self.answer.finished
        return finished is not None and finished.reason is not FinishReason.CANCELLED

    @property
    def tokens_per_second(self) -> float:
        return self.raced_tokens / self.raced_seconds if self.raced_seconds else 0.0

    def result(self) -> LaneResult:
        answer, prefill = self.answer, self.answer.prefill
        return LaneResult(
            name=self.name,
            label=self.label,
            plain=self.plain,
            text=answer.text,
            tokens=self.tokens,
            steps=answer.step_count,
            seconds=self.seconds,
            reading_seconds=prefill.seconds if isinstance(prefill, PrefillDone) else 0.0,
            ended=answer.finished.reason if answer.finished else None,
            raced_tokens=self.raced_tokens,
            raced_seconds=self.raced_seconds,
        )

    def token_at(self, place: int) -> tuple[str, float] | None:
        """Text of a token of the answer, and the target's probability of it."""
        for step in self.answer.steps:
            if place < len(step.token_ids):
                if place == step.accepted:
                    return step.bonus_text, step.bonus_prob
                node = step.nodes[step.path[place + 1]]
                return node.text, node.target_prob or 0.0
            place -= len(step.token_ids)
        return None


@dataclass(slots=True)
class RaceState:
    prompt: str
    exchange: str | None = None  # id of the exchange that asked the prompt, or None for a new one
    sides: tuple[RaceSide, RaceSide] = PLAIN_AND_CHOSEN
    terms: RaceTerms | None = None  # None until the race has begun
    lanes: dict[Lane, LaneState] = field(init=False)
    common: int = 0  # tokens from the start that are the same in both lanes
    notices: list[str] = field(default_factory=list)  # each once
    loading: str = ""  # what is loaded before the race begins
    ended: bool = False
    failure: str | None = None

    def __post_init__(self) -> None:
        sides = zip(Lane, self.sides, strict=True)
        self.lanes = {lane: LaneState(side, Answer(self.prompt)) for lane, side in sides}

    def add(self, raced: RaceEvent) -> None:
        if isinstance(raced, RaceTerms):
            self.terms = raced
            return
        run, event = self.lanes[raced.lane], raced.event
        run.add(event)
        run.seconds = raced.seconds
        if not self.lanes[raced.lane.other].answer.done:
            run.raced_tokens, run.raced_seconds = run.tokens, run.seconds
        if isinstance(event, Notice) and event.message not in self.notices:
            self.notices.append(event.message)
        ours, theirs = (self.lanes[each].answer.token_ids for each in Lane)
        most = min(len(ours), len(theirs))
        while self.common < most and ours[self.common] == theirs[self.common]:
            self.common += 1

    def end(self, failure: str | None) -> None:
        self.ended, self.failure = True, failure

    @property
    def first(self) -> LaneState:
        return self.lanes[Lane.FIRST]

    @property
    def second(self) -> LaneState:
        return self.lanes[Lane.SECOND]

    @property
    def greedy(self) -> bool:
        """Whether the texts can be compared."""
        return self.terms is not None and self.terms.temperature == 0.0

    @property
    def diverged(self) -> bool:
        """Whether both lanes have a token where they differ."""
        return self.common < min(self.first.tokens, self.second.tokens)

    @property
    def agreement(self) -> Agreement:
        """Of the texts so far."""
        if not self.greedy:
            return Agreement.SAMPLED
        complete = all(run.complete for run in self.lanes.values())
        if self.diverged or (complete and self.first.tokens != self.second.tokens):
            return Agreement.DIVERGED
        return Agreement.EQUAL if complete else Agreement.SO_FAR

    def result(self) -> RaceResult | None:
        """The result; None while it runs, and if there is none."""
        if not self.ended or self.terms is None:
            return None
        if not self.first.tokens and not self.second.tokens:
            return None
        return RaceResult(
            prompt=visible(self.prompt),
            temperature=self.terms.temperature,
            threads=self.terms.threads,
            first=self.first.result(),
            second=self.second.result(),
            agreement=self.agreement,
            common_tokens=self.common,
            must_agree=self.terms.must_agree,
        )

    def divergence(self) -> str:
        """The two tokens at which the texts diverge, each with its probability in its lane."""
        if not self.diverged:
            return ""
        return ", ".join(
            f"{run.label} {quote_token(found[0])} {found[1]:.4f}"
            for run in self.lanes.values()
            if (found := run.token_at(self.common)) is not None
        )


def recorded_note(recorded: str) -> str:
    """The note of a race that was recorded as JSON; "" if it cannot be read."""
    try:
        value = parse_json(recorded)
        if isinstance(value, dict) and "speculative" in value:
            value = _of_two_sides(value)
        result: RaceResult = decode(RaceResult, value)
    except ValueError:  # of another version
        return ""
    return result.note()


def _of_two_sides(value: dict[str, Any]) -> dict[str, Any]:
    """A result that was recorded when one side was always plain decoding."""
    sides = {
        "first": ("plain", {"name": "plain decoding", "label": "plain", "plain": True}),
        "second": ("speculative", {"name": value.pop("tree", None), "plain": False}),
    }
    for side, (before, more) in sides.items():
        lane = value.pop(before, None)
        value[side] = {"label": before, **more, **lane} if isinstance(lane, dict) else lane
    return value


def compared(first: _Lane, second: _Lane) -> tuple[_Lane, _Lane]:
    """The lane whose speed is stated, and the one it is stated against: a plain one if one is."""
    return (second, first) if first.plain else (first, second)


def speed_ratio(subject: LaneState | LaneResult, other: LaneState | LaneResult) -> float | None:
    """Tokens per second over those of the other lane, wall clock, while both lanes ran.

    What slows the machine down after one lane has ended would slow only the other.
    """
    rates = subject.tokens_per_second, other.tokens_per_second
    return rates[0] / rates[1] if all(rates) else None


def tree_name(tree: TreeChosen) -> str:
    looks_up = tree.lookup != Lookup.OFF
    if tree.nodes <= 1:
        return "lookup only" if looks_up else "plain decoding"
    return f"{tree.mode} tree, {tree_size(tree)}{' + lookup' if looks_up else ''}"


def agreement_line(result: RaceResult) -> str:
    """One line on whether the texts are equal, and why they may not be."""
    common = result.common_tokens
    match result.agreement:
        case Agreement.EQUAL:
            return f"Both texts are equal, token for token: {counted(common, 'token')}."
        case Agreement.SO_FAR:
            return f"Stopped; both texts are equal as far as both got: {counted(common, 'token')}."
        case Agreement.SAMPLED:
            return (
                f"At temperature {result.temperature:g} each lane draws its own text at random; at "
                "temperature 0 the texts could be compared."
            )
        case Agreement.DIVERGED:
            why = ": rounding tipped a near-tie; with --dtype float32 they are equal."
            if result.must_agree:
                why = ", which these numbers do not allow: please report it."
            return f"The texts differ after {counted(common, 'token')}{why}"
