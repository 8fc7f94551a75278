"""A race: both lanes, where their texts diverge, and its result."""

from dataclasses import dataclass, field
from enum import StrEnum

from sequoia_core.chat.race import Lane, RaceEvent, RaceTerms
from sequoia_core.config import Lookup
from sequoia_core.errors import counted
from sequoia_core.events import FinishReason, Notice, PrefillDone, TreeChosen
from sequoia_core.files import Record, decode, parse_json

from .answer import Answer
from .figures import per_pass, speed_words, tree_size
from .sanitize import quote_token, visible


class Agreement(StrEnum):
    """The result of comparing both texts token by token; recorded with the race."""

    EQUAL = "equal"  # both lanes ended
    SO_FAR = "equal so far"  # as far as both lanes got; at least one was stopped
    DIVERGED = "parted"
    SAMPLED = "drawn"  # above temperature 0 each lane samples for itself: nothing to compare


class LaneResult(Record, frozen=True):
    """The result of one lane; its times are wall times on the lane's own clock."""

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


class RaceResult(Record, frozen=True):
    """The result of a race; recorded as JSON."""

    prompt: str
    temperature: float
    threads: int  # of each forward pass
    tree: str  # name of the tree of the speculative lane
    plain: LaneResult
    speculative: LaneResult
    agreement: Agreement
    common_tokens: int  # from the start that are the same in both
    must_agree: bool  # the arithmetic allows no difference between the texts

    @property
    def speedup(self) -> float | None:
        """Tokens per second over those of plain decoding, wall clock, while both lanes ran.

        What slows the machine down after one lane has ended would slow only the other.
        """
        plain, trees = self.plain.tokens_per_second, self.speculative.tokens_per_second
        return trees / plain if plain and trees else None

    def note(self) -> str:
        """Two lines for the transcript."""
        lanes, steps = (self.speculative, self.plain), self.speculative.steps
        words = [per_pass(self.speculative.tokens / steps)] if steps else []
        words += [speed_words(self.speedup)] if self.speedup is not None else []
        rates = " against ".join(f"{each.tokens_per_second:.1f}" for each in lanes)
        times = " against ".join(
            f"{counted(each.tokens, 'token')} in {each.seconds:.2f} s" for each in lanes
        )
        return (
            f"Race, {self.tree} against plain decoding: {', '.join([*words, rates])} tokens/s; "
            f"{times}.\n"
            f"{agreement_line(self)}"
        )


@dataclass(slots=True)
class LaneState:
    """A running lane; attributes are as in `LaneResult`."""

    answer: Answer
    seconds: float = 0.0
    raced_tokens: int = 0
    raced_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return len(self.answer.token_ids)

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
    terms: RaceTerms | None = None  # None until the race has begun
    lanes: dict[Lane, LaneState] = field(init=False)
    common: int = 0  # tokens from the start that are the same in both lanes
    notices: list[str] = field(default_factory=list)  # each once
    ended: bool = False
    failure: str | None = None

    def __post_init__(self) -> None:
        self.lanes = {lane: LaneState(Answer(self.prompt)) for lane in Lane}

    def add(self, raced: RaceEvent) -> None:
        if isinstance(raced, RaceTerms):
            self.terms = raced
            return
        run, event = self.lanes[raced.lane], raced.event
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
        self.ended, self.failure = True, failure

    @property
    def plain(self) -> LaneState:
        return self.lanes[Lane.PLAIN]

    @property
    def speculative(self) -> LaneState:
        return self.lanes[Lane.SPECULATIVE]

    @property
    def tree(self) -> str:
        trees = self.speculative.answer.trees
        return tree_name(trees[-1].tree) if trees else "speculative"

    @property
    def greedy(self) -> bool:
        """Whether the texts can be compared."""
        return self.terms is not None and self.terms.temperature == 0.0

    @property
    def diverged(self) -> bool:
        """Whether both lanes have a token where they differ."""
        return self.common < min(self.plain.tokens, self.speculative.tokens)

    @property
    def agreement(self) -> Agreement:
        """Of the texts so far."""
        if not self.greedy:
            return Agreement.SAMPLED
        complete = all(run.complete for run in self.lanes.values())
        if self.diverged or (complete and self.plain.tokens != self.speculative.tokens):
            return Agreement.DIVERGED
        return Agreement.EQUAL if complete else Agreement.SO_FAR

    def result(self) -> RaceResult | None:
        """The result; None while it runs, and if there is none."""
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

    def divergence(self) -> str:
        """The two tokens at which the texts diverge, each with its probability in its lane."""
        if not self.diverged:
            return ""
        return ", ".join(
            f"{lane.value} {quote_token(found[0])} {found[1]:.4f}"
            for lane, run in self.lanes.items()
            if (found := run.token_at(self.common)) is not None
        )


def recorded_note(recorded: str) -> str:
    """The note of a race that was recorded as JSON; "" if it cannot be read."""
    try:
        result: RaceResult = decode(RaceResult, parse_json(recorded))
    except ValueError:  # of another version
        return ""
    return result.note()


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
