"""A race that runs: both lanes with what they have decoded so far."""

from dataclasses import dataclass, field
from typing import NamedTuple

from sequoia_core.chat.race import PLAIN_AND_CHOSEN, Lane, RaceEvent, RaceSide, RaceTerms
from sequoia_core.config import Lookup, Mode
from sequoia_core.events import (
    Event,
    FinishReason,
    Notice,
    PrefillDone,
    TextDelta,
    TreeChosen,
)

from .answer import Answer
from .figures import tree_size
from .race_result import Agreement, LaneResult, RaceResult
from .sanitize import quote_token, visible

LATE_GUESS, LOOKED_UP = 3, 4


class LanePart(NamedTuple):
    """A piece of a lane's text, its control characters made visible.

    Its writer is 0 for the target, 1 and 2 for the draft's first and second guess, `LATE_GUESS` for
    a later one, or `LOOKED_UP`.
    """

    text: str
    writer: int


@dataclass(slots=True)
class LaneState:
    """A running lane; attributes are as in `LaneResult`."""

    side: RaceSide
    answer: Answer
    seconds: float = 0.0
    raced_tokens: int = 0
    raced_seconds: float = 0.0
    parts: list[LanePart] = field(default_factory=list)  # the text

    def add(self, event: Event) -> None:
        known = len(self.answer.lookups)
        self.answer.add(event)
        if isinstance(event, TextDelta):
            self.parts += [
                LanePart(visible(piece.text), min(piece.rank, LATE_GUESS)) for piece in event.pieces
            ]
        for at in self.answer.lookups[known:]:
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


def tree_name(tree: TreeChosen) -> str:
    looks_up = tree.lookup != Lookup.OFF
    if tree.nodes <= 1:
        return "lookup only" if looks_up else "plain decoding"
    return f"{tree.mode} tree, {tree_size(tree)}{' + lookup' if looks_up else ''}"
