"""Continuations found in the conversation itself: what followed an earlier occurrence."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sequoia_core.config import Lookup
from sequoia_core.speculate.adaptive_policy import LookupPath
from sequoia_core.speculate.cost_model import CostModel, FadingRatio

LONGEST = 16  # most tokens of a continuation
_GRAM = 2  # tokens that must agree before anything is proposed
_CANDIDATES = 12  # latest places with the same last tokens that are compared
_LONGEST_MATCH = 12  # matches longer than this are as good as this
_CLASSES = (3, 4, 6, 9, _LONGEST_MATCH)
# how often a continuation is right after a match shorter than each, to begin with; careful
_BELIEFS = (0.15, 0.3, 0.45, 0.6, 0.75, 0.85)
_BELIEF = 4.0  # observations that a belief counts for
_MEMORY = 100


@dataclass(frozen=True, slots=True)
class Found:
    """What followed an earlier occurrence of the last tokens, of which so many agreed."""

    token_ids: tuple[int, ...] = ()
    matched: int = 0


class TokenIndex:
    """Where each pair of adjacent tokens occurred, kept in step with a list of tokens."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._places: dict[tuple[int, int], list[int]] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """Take over a list; one that only goes on from the last is not read again."""
        if self._ids != token_ids[: len(self._ids)]:
            self._ids, self._places = [], {}
        for token in token_ids[len(self._ids) :]:
            self._ids.append(token)
            end = len(self._ids)
            if end >= _GRAM:
                self._places.setdefault(self._gram(end), []).append(end)

    def find(self) -> Found:
        """The continuation of the longest earlier match of the last tokens; the latest on a tie.

        Where it reaches the end of the list it repeats itself from the match on.
        """
        end = len(self._ids)
        if end <= _GRAM:
            return Found()
        best, matched = 0, 0
        for place in reversed(self._places[self._gram(end)][-_CANDIDATES - 1 : -1]):
            length = self._matched(place, end)
            if length > matched:
                best, matched = place, length
            if matched == _LONGEST_MATCH:
                break
        if not matched:
            return Found()
        period = end - best
        return Found(tuple(self._ids[best + at % period] for at in range(LONGEST)), matched)

    def _matched(self, place: int, end: int) -> int:
        ids, length = self._ids, _GRAM
        most = min(place, _LONGEST_MATCH)
        while length < most and ids[place - length - 1] == ids[end - length - 1]:
            length += 1
        return length

    def _gram(self, end: int) -> tuple[int, int]:
        return self._ids[end - 2], self._ids[end - 1]


class PromptLookup:
    """Proposes continuations of one conversation and learns how often they are right.

    Nothing follows one of the tokens `endings`.
    """

    def __init__(self, costs: CostModel, endings: frozenset[int] = frozenset()) -> None:
        self._costs, self._endings = costs, endings
        self._index = TokenIndex()
        self._right = defaultdict[int, FadingRatio](lambda: FadingRatio(_MEMORY))
        self._found = Found()

    def propose(
        self, token_ids: Sequence[int], use: Lookup, room: int, rows: int = 1
    ) -> LookupPath:
        """What may follow prompt and answer so far: at most `room` tokens.

        `rows` are those of the target's forward without it.
        """
        if use is Lookup.OFF:
            self._found = Found()
            return LookupPath()
        self._index.follow(token_ids)
        found = self._found = self._index.find()
        probs: list[float] = []
        reach = 1.0
        for at, token in enumerate(found.token_ids[: max(room, 0)]):
            reach *= self.estimate(found.matched + at)
            if use is Lookup.AUTO and reach < self._costs.row_price(rows + at + 1):
                break
            probs.append(reach)
            if token in self._endings:
                break
        return LookupPath(found.token_ids[: len(probs)], tuple(probs))

    def learn(self, emitted: Sequence[int]) -> None:
        """Compare the last continuation with the emitted tokens, speculated with or not."""
        for at, (guess, token) in enumerate(zip(self._found.token_ids, emitted, strict=False)):
            kind = bisect_right(_CLASSES, self._found.matched + at)
            self._right[kind].add(guess == token)
            if guess != token:
                break
        self._found = Found()

    def estimate(self, matched: int) -> float:
        """Probability that the next token is right where so many before it agreed."""
        kind = bisect_right(_CLASSES, matched)
        return self._right[kind].estimate(_BELIEFS[kind], _BELIEF)
