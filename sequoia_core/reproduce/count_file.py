"""Results of the robustness study on disk, a line each as they come, so that a stop loses one.

Owns the file's format and the check that it belongs to the same sweep of the same pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sequoia_core.config import Mode
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.reproduce.resampling import Counted
from sequoia_core.reproduce.robustness import Cell, Count, Sweep

_VERSION = 1


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
        self.path = path
        self._head = {
            "version": _VERSION,
            "pair": fingerprint,
            "parents": list(sweep.growmap.parents),
            "tokens": sweep.tokens,
            "seed": sweep.seed,
            "draft_top_p": sweep.draft_top_p,
        }
        try:
            self.counts = self._opened()
        except (OSError, UnicodeDecodeError) as error:
            raise SequoiaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None

    def add(self, count: Count) -> None:
        """Write one result.

        Raises:
            SequoiaError: it cannot be written.
        """
        cell, counted = count.cell, count.counted
        self._append({
            "rule": cell.rule.value, "temperature": cell.temperature, "top_p": cell.top_p,
            "prompt": count.prompt, "tokens": counted.tokens, "steps": counted.steps,
        })  # fmt: skip
        self.counts.append(count)

    def _append(self, values: Mapping[str, object]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise SequoiaError(f"{self.path}: {error.strerror or error}") from None

    def _opened(self) -> list[Count]:
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a line that was being written when the run was killed
            self.path.write_text(whole, encoding="utf-8")
        lines = whole.splitlines()
        if not lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(self._head)
            return []
        self._check(self._values(lines[0], 1))
        return [self._count(line, number) for number, line in enumerate(lines[1:], start=2)]

    def _check(self, head: Mapping[str, Any]) -> None:
        for name, value in self._head.items():
            if head.get(name) != value:
                shown = {"pair": "another pair", "parents": "another growmap"}.get(
                    name, f"{name} {head.get(name)!r:.40}, not {value!r}"
                )
                raise ParameterError(
                    f"{self.path} was begun with {shown}; go on with the same options or name "
                    "another --dst"
                )

    def _count(self, line: str, number: int) -> Count:
        values = self._values(line, number)
        try:
            cell = Cell(Mode(values["rule"]), float(values["temperature"]), float(values["top_p"]))
            counted = Counted(int(values["tokens"]), int(values["steps"]))
            return Count(cell, str(values["prompt"]), counted)
        except (KeyError, TypeError, ValueError):
            raise self._no_result(number) from None

    def _values(self, line: str, number: int) -> Mapping[str, Any]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise self._no_result(number) from None
        if not isinstance(values, dict):
            raise self._no_result(number)
        return values

    def _no_result(self, number: int) -> ParameterError:
        return ParameterError(
            f"{self.path}, line {number}: no result of this command; name another --dst"
        )
