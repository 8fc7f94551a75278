"""What all experiments share: a report, rows that are kept as they are measured, seeds."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.files import (
    MisfitError,
    decode,
    encode,
    parse_json,
    read_text,
    split_lines,
    write_whole,
)

if TYPE_CHECKING:
    from sequoia_core.model.interface import LanguageModel
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

Row = TypeVar("Row")
_SEED_BITS = 63  # what `SamplingParams` takes


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Cells of text.

    Attributes:
        headings: one for each column.
        rows: as long as `headings`.
        right: numbers are aligned to the right.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: bool = True


@dataclass(frozen=True, slots=True)
class Report:
    """Results for a person, for machines and as a picture.

    Attributes:
        tables: in order.
        text: lines below them.
        values: for JSON.
        draw: writes an SVG or PNG.
    """

    tables: tuple[ReportTable, ...]
    text: str
    values: dict[str, Any]
    draw: Callable[[Path], None]


class Experiment(ABC):
    """Something that is measured row by row.

    Attributes:
        file: where rows are kept; None if they are kept in memory only.
    """

    file: ResultFile[Any] | None = None

    @abstractmethod
    def run(self, progress: Progress) -> None:
        """Measure the rows that are missing. Each is kept when it is done.

        Raises:
            SequoiaError: it cannot be measured, or a row cannot be written.
        """

    @abstractmethod
    def report(self) -> Report:
        """What the rows so far show.

        Raises:
            SequoiaError: there are too few.
        """


class ResultFile(Generic[Row]):
    """Rows of an experiment as JSON lines, after a line that describes the experiment.

    A row is on the disk when `add` returns. A last line that was cut off is dropped.

    Args:
        path: is created if it is missing, with its folder.
        head: values that must not change when the file is continued.
        row: the dataclass of a row.
        changed: what to say of a changed value of `head` that a person cannot read, by its name.

    Attributes:
        path: of the file.
        rows: all that are in it, in order.

    Raises:
        ParameterError: the file has another head, or is of another kind.
        SequoiaError: it cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        head: Mapping[str, object],
        row: type[Row],
        changed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._whole_lines()
            if not lines:
                self._append(head)
        except (OSError, UnicodeDecodeError) as error:
            raise SequoiaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        if lines:
            self._check(self._parsed(lines[0], 1, dict[str, Any]), head, changed)
        self.rows = [self._parsed(line, at, row) for at, line in enumerate(lines[1:], start=2)]

    def add(self, row: Row) -> None:
        """Write a row.

        Raises:
            SequoiaError: it cannot be written.
        """
        try:
            self._append(encode(row))
        except OSError as error:
            raise SequoiaError(f"{self.path}: {error.strerror or error}") from None
        self.rows.append(row)

    def _append(self, values: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[str]:
        text = read_text(self.path) if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the run was killed while it wrote a line
            write_whole(self.path, whole)
        return split_lines(whole)

    def _parsed(self, line: str, number: int, kind: type[Any]) -> Any:
        try:
            return decode(kind, parse_json(line))
        except (MisfitError, ValueError):
            raise ParameterError(
                f"{self.path}, line {number}: no result of this command; name another --dst"
            ) from None

    def _check(
        self, begun: Mapping[str, Any], head: Mapping[str, object], changed: Mapping[str, str]
    ) -> None:
        for name, value in head.items():
            if begun.get(name) != value:
                values = f"{name} {begun.get(name)!r:.80}, not {value!r:.80}"
                raise ParameterError(
                    f"{self.path} was begun with {changed.get(name, values)}; continue with the "
                    "same options or name another --dst"
                )


def prompt_digest(prompt_ids: Sequence[int]) -> str:
    """A name for a prompt, independent of its place in a data set."""
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:16]


def prompt_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """The seed of one prompt under an experiment's seed, the same in every system and order."""
    digest = hashlib.sha256(f"{seed}:{prompt_digest(prompt_ids)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - _SEED_BITS)


def required_draft(pair: Pair) -> LanguageModel:
    """The pair's draft.

    Raises:
        ParameterError: it has none.
    """
    if pair.draft is None:
        raise ParameterError(
            "the target has no draft, so nothing is drafted; name one with --model"
        )
    return pair.draft


def growmap_values(growmap: GrowMap) -> dict[str, Any]:
    """A tree for JSON."""
    return {"name": growmap.name, "nodes": growmap.size, "depth": growmap.depth}
