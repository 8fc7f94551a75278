"""What all experiments share: a report, rows that are kept as they are measured, seeds."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.files import decode, encode, parse_json, read_text, split_lines, write_whole

if TYPE_CHECKING:
    from sequoia_core.config import SamplingParams
    from sequoia_core.model.interface import LanguageModel
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

Row = TypeVar("Row")
_UNREADABLE = {"pair": "another pair", "parents": "another growmap"}
"""What to say of values in the head of a file that a person cannot read."""


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Cells of text, a row as long as the headings."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: bool = True  # numbers are aligned to the right


@dataclass(frozen=True, slots=True)
class Report:
    tables: tuple[ReportTable, ...]
    text: str  # lines below the tables
    values: dict[str, Any]  # for JSON
    draw: Callable[[Path], None]  # writes an SVG or PNG


class Experiment(ABC):
    file: ResultFile[Any] | None = None  # where rows are kept; None if they are kept in memory only

    @abstractmethod
    def run(self, progress: Progress) -> None:
        """Measure the rows that are missing. Each is kept when it is done.

        Raises SequoiaError if it cannot be measured, or a row cannot be written.
        """

    @abstractmethod
    def report(self) -> Report:
        """What the rows so far show. Raises SequoiaError if there are too few."""


class ResultFile(Generic[Row]):
    """Rows of an experiment, of the dataclass `row`, as JSON lines after a line of its `head`.

    The values of the head must not change when the file is continued. A row is on the disk when
    `add` returns. A last line that was cut off is dropped. Raises ParameterError if the file has
    another head, or is of another kind, SequoiaError if it cannot be read or written.
    """

    def __init__(self, path: Path, head: Mapping[str, object], row: type[Row]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = self._whole_lines()
            if not lines:
                self._append(head)
        except (OSError, UnicodeDecodeError) as error:
            raise SequoiaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
        begun = self._parsed(lines[0], 1, dict[str, Any]) if lines else head
        for name, value in head.items():
            if begun.get(name) != value:
                values = f"{name} {begun.get(name)!r:.80}, not {value!r:.80}"
                raise ParameterError(
                    f"{path} was begun with {_UNREADABLE.get(name, values)}; continue with the "
                    "same options or name another --dst"
                )
        self.rows: list[Row] = [
            self._parsed(line, at, row) for at, line in enumerate(lines[1:], start=2)
        ]

    def add(self, row: Row) -> None:
        """Write a row. Raises SequoiaError if it cannot be written."""
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
        except ValueError:
            raise ParameterError(
                f"{self.path}, line {number}: no result of this command; name another --dst"
            ) from None


def prompt_digest(prompt_ids: Sequence[int]) -> str:
    """A name for a prompt, independent of its place in a data set."""
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:16]


def prompt_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """The seed of one prompt under an experiment's seed, the same in every system and order."""
    digest = hashlib.sha256(f"{seed}:{prompt_digest(prompt_ids)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits, what `SamplingParams` takes


def required_draft(pair: Pair) -> LanguageModel:
    """The pair's draft. Raises ParameterError if it has none."""
    if pair.draft is None:
        raise ParameterError(
            "the target has no draft, so nothing is drafted; name one with --model"
        )
    return pair.draft


def check_room(pair: Pair, text: int, tree: int, cache_length: int | None = None) -> None:
    """Refuse tokens of text and nodes of a tree that the models or the cache have no room for.

    `cache_length` is the release's `--M`. Raises ParameterError, which names the smallest that
    works, also if there is no draft for a tree.
    """
    window = pair.target.context_window
    if tree:
        window = min(window, required_draft(pair).context_window)
    what = f"{text} tokens of text" + (f" and a tree of {tree} nodes" if tree else "")
    if cache_length is not None and cache_length < text + tree:
        raise ParameterError(
            f"--M is {cache_length}, but the smallest value that works is {text + tree}: {what}"
        )
    if text + tree > window:
        raise ParameterError(
            f"{what} are more than the context window of {window}; take a smaller tree or fewer "
            "tokens"
        )


def sampling_words(params: SamplingParams, draft_top_p: float) -> list[str]:
    """Temperature and what cuts the distributions, as far as it does."""
    words = [f"temperature {params.temperature:g}"]
    if params.temperature and params.top_p < 1.0:
        words.append(f"top-p {params.top_p:g}")
    if params.temperature and draft_top_p < 1.0:
        words.append(f"the draft's {draft_top_p:g}")
    return words


def growmap_values(growmap: GrowMap) -> dict[str, Any]:
    return {"name": growmap.name, "nodes": growmap.size, "depth": growmap.depth}
