"""Results of the robustness study on disk, each as it comes.

Owns what a line holds and which values a sweep's file belongs to; `result_lines` owns the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sequoia_core.config import Mode
from sequoia_core.reproduce.resampling import Counted
from sequoia_core.reproduce.result_lines import ResultLines
from sequoia_core.reproduce.robustness import Cell, Count, Sweep

_VERSION = 1
_UNSAID = {"pair": "another pair", "parents": "another growmap"}


class CountFile:
    """JSON lines: what is decoded, then one line a result.

    More prompts, temperatures or nucleus masses may be asked for later; what else was chosen must
    stay.

    Args:
        path: is made where it is missing.
        sweep: what is decoded.
        fingerprint: of the pair.

    Attributes:
        path: of the file.
        counts: what it holds.

    Raises:
        ParameterError: the file is of another sweep or pair, or none of this kind.
        SequoiaError: it cannot be read or written.
    """

    def __init__(self, path: Path, sweep: Sweep, fingerprint: str) -> None:
        head = {
            "version": _VERSION,
            "pair": fingerprint,
            "parents": list(sweep.growmap.parents),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
        }
        self._lines = ResultLines(path, head, _UNSAID)
        self.path = path
        self.counts = [self._count(at, values) for at, values in enumerate(self._lines.results)]

    def add(self, count: Count) -> None:
        """Write one result.

        Raises:
            SequoiaError: it cannot be written.
        """
        cell, counted = count.cell, count.counted
        self._lines.add({
            "rule": cell.rule.value, "temperature": cell.temperature, "top_p": cell.top_p,
            "prompt": count.prompt, "tokens": counted.tokens, "steps": counted.steps,
        })  # fmt: skip
        self.counts.append(count)

    def _count(self, at: int, values: Mapping[str, Any]) -> Count:
        try:
            cell = Cell(Mode(values["rule"]), float(values["temperature"]), float(values["top_p"]))
            counted = Counted(int(values["tokens"]), int(values["steps"]))
            return Count(cell, str(values["prompt"]), counted)
        except (KeyError, TypeError, ValueError):
            raise self._lines.no_result(at) from None
