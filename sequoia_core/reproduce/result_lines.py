"""Results on disk, a JSON line each as they come, so that a stop loses the one that was running.

Owns the file: its head, which says what the results belong to, and a last line that was cut off.
Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.files import parse_json, read_text, split_lines, write_whole


class ResultLines:
    """JSON lines: what is measured, then one line a result.

    Args:
        path: is made where it is missing, with its folder.
        head: values that must be the same whenever the file is gone on with.
        unsaid: what to say of a head value that would tell a person nothing, by its name.

    Attributes:
        path: of the file.
        results: all that are in it, in order.

    Raises:
        ParameterError: the file was begun with another head, or is none of this kind.
        SequoiaError: it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        head: Mapping[str, object],
        unsaid: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.path = path
        self._unsaid = unsaid
        try:
            self.results = self._opened(head)
        except (OSError, UnicodeDecodeError) as error:
            raise SequoiaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None

    def add(self, values: Mapping[str, object]) -> None:
        """Write one result; it is on the disk when this returns.

        Raises:
            SequoiaError: it cannot be written.
        """
        try:
            self._append(values)
        except OSError as error:
            raise SequoiaError(f"{self.path}: {error.strerror or error}") from None
        self.results.append(dict(values))

    def _append(self, values: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _opened(self, head: Mapping[str, object]) -> list[dict[str, Any]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = read_text(self.path) if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a line that was being written when the run was killed
            write_whole(self.path, whole)
        lines = [self._values(line, number) for number, line in enumerate(split_lines(whole), 1)]
        if not lines:
            self._append(head)
            return []
        self._check(lines[0], head)
        return lines[1:]

    def _check(self, begun: Mapping[str, Any], head: Mapping[str, object]) -> None:
        for name, value in head.items():
            if begun.get(name) != value:
                said = f"{name} {begun.get(name)!r:.80}, not {value!r:.80}"
                raise ParameterError(
                    f"{self.path} was begun with {self._unsaid.get(name, said)}; go on with the "
                    "same options or name another --dst"
                )

    def no_result(self, at: int) -> ParameterError:
        """What to raise where a result's values are not this command's.

        Args:
            at: its place in `results`.
        """
        return self._no_result(at + 2)  # after the head, counted from 1

    def _values(self, line: str, number: int) -> dict[str, Any]:
        try:
            values = parse_json(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise self._no_result(number)
        return values

    def _no_result(self, number: int) -> ParameterError:
        return ParameterError(
            f"{self.path}, line {number}: no result of this command; name another --dst"
        )
