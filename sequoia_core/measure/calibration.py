"""What was measured of a pair on this machine: accepted ranks and times, and the file of both."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import platformdirs

from sequoia_core.errors import ParameterError
from sequoia_core.events import Origin, Outcome, Step
from sequoia_core.files import decode, encode, parse_json, write_whole
from sequoia_core.measure.timings import MachineTimes

MEMORY = 192.0  # visits after which an earlier one counts 1/e: noise of about 5% of a_1 = 0.5
FOREVER = math.inf  # without fading: the steps are one sample, of a text that does not change
PRIOR = 64.0  # weight, in trials, of the assumption that a depth is like all together
RECENT = 32.0  # steps over which a change of the rates is looked for
SURPRISE = 3.0  # standard deviations from the expected number that mean a change
BORROWED_TRIALS = 32.0  # weight, in trials, of a neighbouring band's rates until there are own ones

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tally:
    """Hits and trials by rank at one depth, faded; raises ParameterError if there are more hits."""

    hits: tuple[float, ...] = ()
    trials: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        fit = len(self.hits) == len(self.trials) and all(
            0.0 < tried < math.inf and 0.0 <= hit <= tried + 1e-6
            for hit, tried in zip(self.hits, self.trials, strict=True)
        )
        if not fit:
            raise ParameterError("a record of accepted ranks holds more hits than trials")

    def plus(self, tried: int, accepted: int, weight: float, memory: float) -> Tally:
        """With one more node, for `weight` such; `accepted` is a rank of its children, or 0."""
        fading, new = math.exp(-weight / memory), [0.0] * (tried - len(self.trials))
        hits, trials = [*self.hits, *new], [*self.trials, *new]
        for at in range(tried):
            hits[at] = hits[at] * fading + weight * (at + 1 == accepted)
            trials[at] = trials[at] * fading + weight
        return Tally(tuple(hits), tuple(trials))

    @classmethod
    def pooled(cls, tallies: Sequence[Tally]) -> Tally:
        """All depths as one."""
        by_rank = zip_longest(*(zip(each.hits, each.trials, strict=True) for each in tallies))
        sums = [tuple(map(math.fsum, zip(*filter(None, each), strict=True))) for each in by_rank]
        return cls(*zip(*sums, strict=True)) if sums else cls()

    def rates(self, prior: tuple[float, ...] = ()) -> tuple[float, ...]:
        """a_1, a_2, ... as counted, shrunk to those of `prior` the more, the fewer the trials."""
        rates = []
        for pair, likely in zip_longest(zip(self.hits, self.trials, strict=True), prior):
            hits, trials = pair or (0.0, 0.0)
            if likely is not None:
                hits, trials = hits + PRIOR * likely, trials + PRIOR
            rates.append(hits / trials)
        whole = max(1.0, math.fsum(rates))
        return tuple(min(rate / whole, 1.0) for rate in rates)

    def capped(self, trials: float) -> Tally:
        """The same rates from at most so many trials."""
        kept = tuple(min(made, trials) for made in self.trials)
        counts = zip(self.hits, self.trials, kept, strict=True)
        return Tally(tuple(hits * (left / made) for hits, made, left in counts), kept)


@dataclass(frozen=True, slots=True)
class AcceptanceRecord:
    """Acceptance by depth and rank; counts fade, so that it follows a text that changes."""

    depths: tuple[Tally, ...] = ()
    steps: int = 0  # not faded
    drift: float = 0.0  # how many more of the latest steps accepted a child than expected
    variance: float = 0.0  # of that number, if the rates have not changed

    @property
    def rates(self) -> tuple[float, ...]:
        """a_1, a_2, ... of the root's children; () before anything was counted."""
        return self.depths[0].rates() if self.depths else ()

    @property
    def deeper(self) -> tuple[tuple[float, ...], ...]:
        """Rates of children at depth 2, 3, ..., as far as any were counted, shrunk to all."""
        pooled = Tally.pooled(self.depths).rates()
        return tuple(tally.rates(pooled) for tally in self.depths[1:])

    def plus(self, step: Step, weight: float = 1.0, memory: float = MEMORY) -> AcceptanceRecord:
        """With a step that represents `weight` such steps, of a tree not shaped by the draft.

        Only nodes that decided an emitted token count, since the text after an answer's end is not
        the target's; those from prompt lookup do not, as they are tried after the draft's.
        """
        tried: Counter[int] = Counter()
        accepted: Counter[int] = Counter()  # ranks
        for node in step.nodes:
            if node.origin is Origin.DRAFT and node.parent >= 0:
                tried[node.parent] += 1
                accepted[node.parent] += node.rank * (node.outcome is Outcome.ACCEPTED)
        depths = list(self.depths)
        for depth, parent in enumerate(step.path[: len(step.token_ids)]):
            if tried[parent]:
                depths += [Tally()] * (depth + 1 - len(depths))
                depths[depth] = depths[depth].plus(tried[parent], accepted[parent], weight, memory)
        counted = replace(self, depths=tuple(depths), steps=self.steps + (tried[0] > 0))
        if memory == FOREVER or counted.depths == self.depths:
            return counted
        return counted._adjusted(math.fsum(self.rates[: tried[0]]), accepted[0] > 0)

    def _adjusted(self, expected: float, accepted: bool) -> AcceptanceRecord:
        """Weakened if the latest steps are not as expected, so that the text has changed."""
        if not expected:
            return self
        fading = math.exp(-1.0 / RECENT)
        drift = self.drift * fading + accepted - expected
        # at least that of a rate of 0.1: rates of 0 and 1 are estimates too
        variance = self.variance * fading + max(expected * (1.0 - expected), 0.09)
        if abs(drift) <= SURPRISE * math.sqrt(variance + 1.0):
            return replace(self, drift=drift, variance=variance)
        return replace(self.weakened(RECENT), steps=self.steps, drift=0.0, variance=0.0)

    def weakened(self, trials: float) -> AcceptanceRecord:
        """The same rates as if from so few trials, so that new counts soon outweigh them."""
        return replace(self, depths=tuple(each.capped(trials) for each in self.depths), steps=0)


class Band(StrEnum):
    """Temperatures that share their acceptance rates, from cold to hot."""

    GREEDY = "0"
    COOL = "up to 0.4"
    WARM = "up to 0.8"
    HOT = "above 0.8"

    @classmethod
    def of(cls, temperature: float) -> Band:
        if temperature == 0.0:
            return cls.GREEDY
        return cls.COOL if temperature <= 0.4 else cls.WARM if temperature <= 0.8 else cls.HOT


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured figures of one pair; raises ParameterError if there are no acceptance rates."""

    times: MachineTimes
    records: Mapping[Band, AcceptanceRecord]
    version: Literal[5] = 5
    drafts: bool = True  # else nothing is accepted, and the draft's times are the target's

    def __post_init__(self) -> None:
        if not self.records or not all(record.rates for record in self.records.values()):
            raise ParameterError("a calibration needs acceptance rates of a temperature at least")

    @classmethod
    def without_draft(cls, times: MachineTimes) -> Calibration:
        never = AcceptanceRecord((Tally((0.0,), (1.0,)),))
        return cls(times, {Band.GREEDY: never}, drafts=False)

    def record(self, temperature: float) -> AcceptanceRecord:
        """The record of a temperature's band, or of the nearest one, weakened."""
        bands, own = list(Band), Band.of(temperature)
        nearest = min(self.records, key=lambda band: abs(bands.index(band) - bands.index(own)))
        found = self.records[nearest]
        return found if nearest is own else found.weakened(BORROWED_TRIALS)

    def with_record(self, temperature: float, record: AcceptanceRecord) -> Calibration:
        return replace(self, records={**self.records, Band.of(temperature): record})

    @classmethod
    def load(cls, fingerprint: str) -> Calibration | None:
        """A pair's figures; None if there are none, or they are damaged or of another version."""
        path = calibration_path(fingerprint)
        try:
            found: Calibration = decode(cls, parse_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, ParameterError) as error:
            _log.info("%s is of another version or damaged; it is measured again: %s", path, error)
            return None
        return found

    def save(self, fingerprint: str) -> None:
        """Write the figures whole or not at all; a folder that cannot be written is no error."""
        path = calibration_path(fingerprint)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(encode(self), indent=1))
        except OSError as error:
            _log.info("measured figures are not kept: %s", error)


def calibration_path(fingerprint: str) -> Path:
    """The file of a pair in the user's cache directory."""
    return platformdirs.user_cache_path("sequoia") / "calibration" / f"{fingerprint}.json"
