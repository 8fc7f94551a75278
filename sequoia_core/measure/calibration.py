"""What was measured of a pair on this machine, as a value and as a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import platformdirs

from sequoia_core.errors import ParameterError
from sequoia_core.files import decode, encode, parse_json, write_whole
from sequoia_core.measure.acceptance_stats import AcceptanceRecord, Tally
from sequoia_core.measure.step_cost_model import MachineTimes

VERSION = 5
BORROWED_TRIALS = 32.0
"""Weight, in trials, of a neighbouring band's rates until there are own ones."""

_log = logging.getLogger(__name__)


class Band(StrEnum):
    """Temperatures that share their acceptance rates, from cold to hot."""

    GREEDY = "0"
    COOL = "up to 0.4"
    WARM = "up to 0.8"
    HOT = "above 0.8"

    @classmethod
    def of(cls, temperature: float) -> Band:
        """The band of a temperature."""
        if temperature == 0.0:
            return cls.GREEDY
        return cls.COOL if temperature <= 0.4 else cls.WARM if temperature <= 0.8 else cls.HOT


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured figures of one pair on one machine.

    Attributes:
        times: of the parts of a step.
        records: accepted ranks and depths by band, if any were decoded.
        version: of this format.
        drafts: whether the pair has a draft. Without one nothing is accepted, and the draft's times
            are the target's.

    Raises:
        ParameterError: no band has a record, or one is empty.
    """

    times: MachineTimes
    records: Mapping[Band, AcceptanceRecord]
    version: int = VERSION
    drafts: bool = True

    def __post_init__(self) -> None:
        if not self.records or not all(record.rates for record in self.records.values()):
            raise ParameterError("a calibration needs acceptance rates of a temperature at least")

    @classmethod
    def without_draft(cls, times: MachineTimes) -> Calibration:
        """Of a target that has no draft."""
        never = AcceptanceRecord((Tally((0.0,), (1.0,)),))
        return cls(times, {Band.GREEDY: never}, drafts=False)

    def record(self, temperature: float) -> AcceptanceRecord:
        """The record of a temperature's band, or of the nearest one, weakened."""
        bands = list(Band)
        wanted = bands.index(Band.of(temperature))
        nearest = min(self.records, key=lambda band: abs(bands.index(band) - wanted))
        found = self.records[nearest]
        return found if nearest is bands[wanted] else found.weakened(BORROWED_TRIALS)

    def with_record(self, temperature: float, record: AcceptanceRecord) -> Calibration:
        """With another record of a temperature's band."""
        return replace(self, records={**self.records, Band.of(temperature): record})


def calibration_path(fingerprint: str) -> Path:
    """The file of a pair in the user's cache directory."""
    return platformdirs.user_cache_path("sequoia") / "calibration" / f"{fingerprint}.json"


def load_calibration(fingerprint: str) -> Calibration | None:
    """Read a pair's figures; None if there are none, or they are damaged or of another version."""
    path = calibration_path(fingerprint)
    try:
        calibration: Calibration = decode(Calibration, parse_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ParameterError) as error:
        _log.info("%s is of another version or damaged; it is measured again: %s", path, error)
        return None
    return calibration if calibration.version == VERSION else None


def save_calibration(fingerprint: str, calibration: Calibration) -> None:
    """Write a pair's figures whole or not at all; a folder that cannot be written is no error."""
    path = calibration_path(fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(encode(calibration), indent=1))
    except OSError as error:
        _log.info("measured figures are not kept: %s", error)
