"""The result of a race in words, and as it is recorded."""

from enum import StrEnum
from typing import Any, Protocol, TypeVar

from sequoia_core.errors import counted
from sequoia_core.events import FinishReason
from sequoia_core.files import Record, decode, parse_json

from .figures import per_pass, speed_words


class MeasuredLane(Protocol):
    """What is compared of a lane, while it runs and afterwards."""

    @property
    def plain(self) -> bool: ...

    @property
    def tokens_per_second(self) -> float: ...


_Lane = TypeVar("_Lane", bound=MeasuredLane)


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


def speed_ratio(subject: MeasuredLane, other: MeasuredLane) -> float | None:
    """Tokens per second over those of the other lane, wall clock, while both lanes ran.

    What slows the machine down after one lane has ended would slow only the other.
    """
    rates = subject.tokens_per_second, other.tokens_per_second
    return rates[0] / rates[1] if all(rates) else None


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
