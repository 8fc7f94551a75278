"""What was measured of a pair on this machine, as a value and as a file.

Owns the format and the prediction that follows from the figures. Knows nothing of how they are
measured.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import TypeAdapter, ValidationError

from sequoia_core.errors import ParameterError
from sequoia_core.growmap import GrowMap
from sequoia_core.measure.times import TimeCurve
from sequoia_core.search import choose_tree, expected_tokens_table
from sequoia_core.trees import Advice

MAX_NODES = 64
MAX_DEPTH = 8
VERSION = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured figures of one pair on one machine.

    Attributes:
        target: t(n), milliseconds of a target forward by rows.
        draft: c, milliseconds of a drafting pass by rows.
        overhead_ms: what else a step takes, beyond what a plain step takes.
        context: tokens in the cache while timing.
        greedy: acceptance rates at temperature 0.
        stochastic: acceptance rates when sampling.
        greedy_positions: how many positions `greedy` was counted over.
        stochastic_positions: likewise.
        version: of this format.

    Raises:
        ParameterError: a figure is none.
    """

    target: TimeCurve
    draft: TimeCurve
    overhead_ms: float
    context: int
    greedy: tuple[float, ...]
    stochastic: tuple[float, ...]
    greedy_positions: int
    stochastic_positions: int
    version: int = VERSION

    def __post_init__(self) -> None:
        rates = (*self.greedy, *self.stochastic)
        if not (self.greedy and self.stochastic and all(0.0 <= rate <= 1.0 for rate in rates)):
            raise ParameterError("an acceptance rate is no probability, or there are none")
        if not (math.isfinite(self.overhead_ms) and self.overhead_ms >= 0):
            raise ParameterError(f"bookkeeping cannot take {self.overhead_ms} ms")

    def advise(self, greedy: bool, chain: bool) -> Advice:
        """The tree that these figures predict to be fastest, or none if plain decoding is."""
        rates = self.greedy if greedy else self.stochastic
        table = expected_tokens_table(rates, MAX_NODES, MAX_DEPTH, 1 if chain else len(rates))
        plan = choose_tree(table, self.target, self.draft, self.target(1), self.overhead_ms)
        counted = self.greedy_positions if greedy else self.stochastic_positions
        reason = (
            f"measured here at {self.context} tokens of context, rates from {counted} positions"
        )
        if plan.growmap is None:
            reason = (
                f"no tree is predicted to pay: the best would run at {plan.predicted_speedup:.2f}x "
                f"of plain decoding ({reason})"
            )
            return Advice(None, rates, plan.predicted_speedup, reason)
        shape = plan.growmap
        name = f"auto-{shape.size}x{shape.depth}"
        growmap = GrowMap(shape.parents, name, shape.acceptance_rates, reason)
        return Advice(growmap, rates, plan.predicted_speedup, reason)


_ADAPTER = TypeAdapter(Calibration)


def calibration_path(fingerprint: str) -> Path:
    """Where a pair's figures lie in the user's cache directory."""
    return platformdirs.user_cache_path("sequoia") / "calibration" / f"{fingerprint}.json"


def load_calibration(fingerprint: str) -> Calibration | None:
    """Read a pair's figures; None if there are none, or they are damaged or of another version."""
    path = calibration_path(fingerprint)
    try:
        calibration = _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, ParameterError) as error:
        _log.info("%s is of another version or damaged; it is measured again: %s", path, error)
        return None
    return calibration if calibration.version == VERSION else None


def save_calibration(fingerprint: str, calibration: Calibration) -> None:
    """Write a pair's figures whole or not at all; a folder that cannot be written is no error."""
    path = calibration_path(fingerprint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_ADAPTER.dump_json(calibration, indent=1))
        os.replace(file.name, path)  # noqa: PTH105 atomic, and the name is a string
    except OSError as error:
        _log.info("measured figures are not kept: %s", error)
