"""Fills the cells of a published table one after the other, and keeps each as it is done.

Owns the order, what is loaded when, and that a cell which cannot be run here is skipped with the
reason and costs no other. A wrong option ends the run instead. Knows neither terminal nor command
line; loading a pair is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec, load_prompts
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.reproduce.experiment import Experiment, ExperimentRun, pairs_growmap
from sequoia_core.reproduce.paper_table import CellResult, Outcome, PaperCell

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.result_lines import ResultLines

NEW_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
ROWS = {"mt-bench": 80}
"""Rows of sets that have fewer than the default end."""

T = TypeVar("T")
LoadPair = Callable[[str, Progress], "Pair"]


@dataclass(frozen=True, slots=True)
class PaperOptions:
    """What is the same for every cell.

    Attributes:
        start: first row of each data set.
        end: the row after the last; less where the set is known to be shorter.
        top_p: nucleus mass.
        seed: of all draws.
        cache_length: the release's `--M`; None is what is needed.

    Raises:
        ParameterError: a value is outside its range.
    """

    start: int
    end: int
    top_p: float
    seed: int
    cache_length: int | None = None

    def __post_init__(self) -> None:
        self.data(None)
        self.params(1.0)

    def data(self, dataset: str | None) -> DataSpec:
        """The rows of one set."""
        return DataSpec(dataset, self.start, min(self.end, ROWS.get(dataset or "", self.end)))

    def params(self, temperature: float) -> SamplingParams:
        """Sampling at one temperature."""
        return SamplingParams(temperature, self.top_p, seed=self.seed, max_new_tokens=NEW_TOKENS)


@dataclass(slots=True)
class PaperRun:
    """A table that is being filled.

    Attributes:
        cells: in the order of the table, pair by pair.
        kept: results of this and earlier runs.
        load: gives a pair by its name in the table.
        options: of every cell.
    """

    cells: Sequence[PaperCell]
    kept: ResultLines
    load: LoadPair
    options: PaperOptions
    _loaded: tuple[str, Pair] | None = None
    _prompts: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)
    _failed: dict[tuple[str, ...], str] = field(default_factory=dict)

    def outcomes(self, progress: Progress) -> Iterator[Outcome]:
        """Every cell in turn; those that are kept already cost nothing.

        Args:
            progress: told what runs and which part of the table is done.

        Raises:
            ParameterError: a kept result is none of this command, or an option cannot be used.
            SequoiaError: a result cannot be written.
        """
        done = dict(map(self._kept, range(len(self.kept.results))))
        for at, cell in enumerate(self.cells):
            if cell.key in done:
                yield Outcome(cell, done[cell.key])
                continue
            try:
                result = self._decode(cell, partial(self._report, progress, at))
            except ParameterError:
                raise
            except SequoiaError as error:
                yield Outcome(cell, None, str(error))
                continue
            self.kept.add(_values(cell, result))
            yield Outcome(cell, result)

    def _report(self, progress: Progress, at: int, message: str, fraction: float | None) -> None:
        cell, cells = self.cells[at], len(self.cells)
        place = f"{at + 1} of {cells}: {cell.pair}, {cell.dataset}, T = {cell.temperature:g}"
        progress(f"{place}: {message}", (at + (fraction or 0.0)) / cells)

    def _decode(self, cell: PaperCell, progress: Progress) -> CellResult:
        pair = self._pair(cell.pair, progress)
        prompts = self._prompts_of(cell, pair)
        growmap = pairs_growmap(pair, cell.growmap, cell.temperature)
        params = self.options.params(cell.temperature)
        experiment = Experiment(
            Mode.SEQUOIA, growmap, params, cache_length=self.options.cache_length
        )
        run = ExperimentRun(pair, experiment, prompts)
        run.decode(progress)
        return CellResult.of(run.findings(), f"{growmap.size}x{growmap.depth}")

    def _pair(self, name: str, progress: Progress) -> Pair:
        """The pair, loaded once; the one before it is let go first."""
        if self._loaded is not None and self._loaded[0] == name:
            return self._loaded[1]
        self._loaded = None
        self._prompts.clear()
        pair = self._once((name,), lambda: self.load(name, progress))
        self._loaded = (name, pair)
        return pair

    def _prompts_of(self, cell: PaperCell, pair: Pair) -> list[tuple[int, ...]]:
        if cell.dataset not in self._prompts:
            spec = self.options.data(cell.dataset)
            self._prompts[cell.dataset] = self._once(
                (cell.pair, cell.dataset), lambda: load_prompts(spec, pair.tokenizer)
            )
        return self._prompts[cell.dataset]

    def _once(self, what: tuple[str, ...], attempt: Callable[[], T]) -> T:
        """What fails once is not tried for every cell again."""
        if what in self._failed:
            raise SequoiaError(self._failed[what])
        try:
            return attempt()
        except SequoiaError as error:
            self._failed[what] = str(error)
            raise

    def _kept(self, at: int) -> tuple[tuple[str, str, float], CellResult]:
        values = self.kept.results[at]
        try:
            key = (str(values["pair"]), str(values["dataset"]), float(values["temperature"]))
            return key, CellResult.from_values(values["result"])
        except (KeyError, TypeError, ValueError):
            raise self.kept.no_result(at) from None


def _values(cell: PaperCell, result: CellResult) -> dict[str, object]:
    return {
        "pair": cell.pair,
        "dataset": cell.dataset,
        "temperature": cell.temperature,
        "growmap": cell.growmap,
        "result": result.as_values(),
    }
