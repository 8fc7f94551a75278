"""Fills the cells of a published table one after the other, and shows the published figures too.

A cell that cannot be run here is skipped with the reason; a wrong option ends the run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import override

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec, load_prompts
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.files import encode
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.bootstrap import Interval
from sequoia_core.reproduce.decoding_plan import PLAIN, TREE, DecodingPlan, pairs_growmap
from sequoia_core.reproduce.experiment import Experiment, Report, ReportTable, ResultFile
from sequoia_core.reproduce.paper_cells import Key, PaperCell
from sequoia_core.reproduce.paper_facts import Figure, paper_facts
from sequoia_core.reproduce.testbed import DecodingExperiment, DecodingResults

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

NEW_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
ROWS = {"mt-bench": 80}
"""Rows of sets that have fewer than the default end."""
NOTHING = "-"

T = TypeVar("T")
LoadPair = Callable[[str, Progress], "Pair"]


@dataclass(frozen=True, slots=True)
class PaperPlan:
    """What is the same for every cell.

    Attributes:
        start: first row of each data set.
        end: the row after the last; less if the set is known to be shorter.
        top_p: nucleus mass.
        seed: of all draws.
        cache_length: the release's `--M`; None is what is needed.

    Raises:
        ParameterError: a value is out of range.
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


@dataclass(frozen=True, slots=True)
class CellResult:
    """What was measured for a cell.

    Attributes:
        prompts: decoded.
        tree: its nodes and depth, for instance `128x9`.
        tokens_per_step: all tokens over all steps, with an interval over prompts.
        tree_ms: per token, prompt by prompt.
        plain_ms: per token of plain decoding, prompt by prompt.
        speedup: over plain decoding of the same prompt.
    """

    prompts: int
    tree: str
    tokens_per_step: Interval
    tree_ms: Spread
    plain_ms: Spread
    speedup: Spread

    @classmethod
    def of(cls, results: DecodingResults, tree: str) -> CellResult:
        """From an experiment that decoded with a tree and plainly."""
        drafted = results.figures(TREE)
        assert drafted.speedup is not None, "the experiment decoded no baseline"
        plain_ms = results.figures(PLAIN).ms_per_token
        rate, tree_ms = drafted.tokens_per_step, drafted.ms_per_token
        return cls(results.prompts, tree, rate, tree_ms, plain_ms, drafted.speedup)


@dataclass(frozen=True, slots=True)
class CellRow:
    """A line of the result file."""

    pair: str
    dataset: str
    temperature: float
    growmap: str | None
    result: CellResult


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """A cell and its result, or why it was skipped."""

    cell: PaperCell
    result: CellResult | None
    skipped: str = ""


class PaperExperiment(Experiment):
    """A table that is being filled.

    Args:
        cells: in the order of the table, pair by pair.
        file: results of this and earlier runs.
        load: gives a pair by its name in the table.
        plan: of every cell.
        hardware: whose table it is.
    """

    file: ResultFile[CellRow]

    def __init__(
        self,
        cells: Sequence[PaperCell],
        file: ResultFile[CellRow],
        load: LoadPair,
        plan: PaperPlan,
        hardware: str,
    ) -> None:
        self.file = file
        self._cells, self._load, self._plan, self._hardware = cells, load, plan, hardware
        self._skipped: dict[Key, str] = {}

    @override
    def run(self, progress: Progress) -> None:
        done = self._results()
        missing = [cell for cell in self._cells if cell.key not in done]
        for name, of_pair in groupby(missing, attrgetter("pair")):
            cells = list(of_pair)
            pair = self._attempt(cells, partial(self._load, name, self._report(cells[0], progress)))
            if pair is not None:
                self._fill(pair, cells, progress)
            del pair  # it is freed before the next one is loaded

    def _fill(self, pair: Pair, missing: Sequence[PaperCell], progress: Progress) -> None:
        for dataset, of_set in groupby(missing, attrgetter("dataset")):
            cells = list(of_set)
            spec = self._plan.data(dataset)
            prompts = self._attempt(cells, partial(load_prompts, spec, pair.tokenizer))
            if prompts is None:
                continue
            for cell in cells:
                decode = partial(self._decode, pair, cell, prompts, self._report(cell, progress))
                result = self._attempt([cell], decode)
                if result is not None:
                    self.file.add(CellRow(*cell.key, cell.growmap, result))

    def _attempt(self, cells: Sequence[PaperCell], work: Callable[[], T]) -> T | None:
        """The result of some work; if it fails these cells are skipped."""
        try:
            return work()
        except ParameterError:
            raise
        except SequoiaError as error:
            self._skipped.update({cell.key: str(error) for cell in cells})
            return None

    def _decode(
        self, pair: Pair, cell: PaperCell, prompts: list[tuple[int, ...]], progress: Progress
    ) -> CellResult:
        growmap = pairs_growmap(pair, cell.growmap, cell.temperature)
        params, cache_length = self._plan.params(cell.temperature), self._plan.cache_length
        plan = DecodingPlan(Mode.SEQUOIA, growmap, params, cache_length=cache_length)
        experiment = DecodingExperiment(pair, plan, prompts)
        experiment.run(progress)
        return CellResult.of(experiment.results(), f"{growmap.size}x{growmap.depth}")

    def _report(self, cell: PaperCell, progress: Progress) -> Progress:
        """Progress within the table, from progress within a cell."""
        at, cells = self._cells.index(cell), len(self._cells)
        place = f"{at + 1} of {cells}: {cell.pair}, {cell.dataset}, T = {cell.temperature:g}"

        def report(message: str, fraction: float | None) -> None:
            progress(f"{place}: {message}", (at + (fraction or 0.0)) / cells)

        return report

    def _results(self) -> dict[Key, CellResult]:
        return {(row.pair, row.dataset, row.temperature): row.result for row in self.file.rows}

    def outcomes(self) -> list[CellOutcome]:
        """Every cell that was measured or skipped."""
        done = self._results()
        return [
            CellOutcome(cell, done.get(cell.key), self._skipped.get(cell.key, ""))
            for cell in self._cells
            if cell.key in done or cell.key in self._skipped
        ]

    @override
    def report(self) -> Report:
        from sequoia_core.reproduce.pictures import draw_paper

        outcomes, facts = self.outcomes(), paper_facts()
        published = facts.hardware[self._hardware]
        measured = sum(outcome.result is not None for outcome in outcomes)
        if outcomes[0].cell.pair not in facts.pairs:
            if not measured:
                raise SequoiaError(outcomes[0].skipped)
            published = f"{facts.setups_on(self._hardware)[0].pair} on {published}"
        plan = self._plan
        text = (
            f"{measured} of {len(outcomes)} cells measured, {len(outcomes) - measured} skipped · "
            f"rows {plan.start} to {plan.end} · top-p {plan.top_p:g} · seed {plan.seed} · "
            f"kept in {self.file.path}\n"
            "tokens/step: 95 % interval over prompts; speed-up: median (lowest to highest) prompt "
            "over plain decoding here; ms/token: medians"
        )
        values = {
            "hardware": self._hardware,
            "file": str(self.file.path),
            "cells": [outcome_values(outcome) for outcome in outcomes],
        }
        headings = (
            "pair", "data", "T", "tree", "here: tokens/step · speed-up · ms/token",
            f"paper, {published}",
        )  # fmt: skip
        table = ReportTable(headings, tuple(map(outcome_row, outcomes)), right=False)
        return Report((table,), text, values, partial(draw_paper, outcomes=outcomes))


def outcome_row(outcome: CellOutcome) -> tuple[str, ...]:
    """A cell for a person."""
    cell, result = outcome.cell, outcome.result
    if result is not None:
        tree = result.tree
        here = (
            f"{result.tokens_per_step.text()} · {result.speedup.text(2, 'x')} · "
            f"{result.tree_ms.middle:.1f} ms, plain {result.plain_ms.middle:.1f}"
        )
    else:
        tree = NOTHING if cell.growmap is None else "/".join(Path(cell.growmap).parts[-2:])
        here = f"skipped: {outcome.skipped}"
    data = Path(cell.dataset).name
    return cell.pair, data, f"{cell.temperature:g}", tree, here, _published(cell.figure)


def _published(figure: Figure | None) -> str:
    if figure is None:
        return NOTHING
    parts = [f"{figure.tokens:.2f}", f"{figure.speedup:.2f}x"]
    if figure.ms is not None:
        parts.append(f"{figure.ms:.1f} ms")
    return " · ".join(parts)


def outcome_values(outcome: CellOutcome) -> dict[str, Any]:
    """A cell for JSON."""
    cell = outcome.cell
    return {
        "pair": cell.pair,
        "dataset": cell.dataset,
        "temperature": cell.temperature,
        "growmap": cell.growmap,
        "result": encode(outcome.result),
        "skipped": outcome.skipped or None,
        "paper": encode(cell.figure),
    }
