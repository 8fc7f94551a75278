"""Fills the cells of a published table one after the other, and shows the published figures too."""

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
from sequoia_core.data.passages import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec, load_prompts
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.figures.charts import draw_bars
from sequoia_core.files import encode
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.bootstrap import Interval
from sequoia_core.reproduce.experiment import Experiment, Report, ReportTable, ResultFile
from sequoia_core.reproduce.paper_facts import Key, PaperCell, paper_facts
from sequoia_core.reproduce.testbed import (
    PLAIN,
    TREE,
    DecodingExperiment,
    DecodingPlan,
    pairs_growmap,
)

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

NEW_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
ROWS = {"mt-bench": 80}  # rows of sets that have fewer than the default end
NOTHING = "-"
_LONGEST_NAME = 40  # characters of a pair's name; of a longer one, such as a path, the end is shown

T = TypeVar("T")
LoadPair = Callable[[str, Progress], "Pair"]


@dataclass(frozen=True, slots=True)
class PaperPlan:
    """What is the same for every cell. Raises ParameterError if a value is out of range."""

    start: int
    end: int  # the row after the last; less if the set is known to be shorter
    top_p: float
    seed: int
    cache_length: int | None = None  # the release's `--M`; None is what is needed

    def __post_init__(self) -> None:
        self.data(None)
        self.params(1.0)

    def data(self, dataset: str | None) -> DataSpec:
        return DataSpec(dataset, self.start, min(self.end, ROWS.get(dataset or "", self.end)))

    def params(self, temperature: float) -> SamplingParams:
        return SamplingParams(temperature, self.top_p, seed=self.seed, max_new_tokens=NEW_TOKENS)


@dataclass(frozen=True, slots=True)
class CellResult:
    """What was measured for a cell; times are per token, prompt by prompt."""

    prompts: int
    tree: str  # its nodes and depth, for instance `128x9`
    tokens_per_step: Interval
    tree_ms: Spread
    plain_ms: Spread
    speedup: Spread  # over plain decoding of the same prompt


@dataclass(frozen=True, slots=True)
class CellRow:
    """A line of the result file."""

    pair: str
    dataset: str
    temperature: float
    growmap: str | None
    result: CellResult


Outcome = tuple[PaperCell, CellResult | str]  # a cell and its result, or why it was skipped


class PaperExperiment(Experiment):
    """A table that is being filled; cells are in its order, pair by pair.

    `file` has the results of this and earlier runs, `load` gives a pair by its name in the table.
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
        self._outcomes: dict[Key, CellResult | str] = {
            (row.pair, row.dataset, row.temperature): row.result for row in file.rows
        }

    @override
    def run(self, progress: Progress) -> None:
        missing = [cell for cell in self._cells if cell.key not in self._outcomes]
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
                    self._outcomes[cell.key] = result

    def _attempt(self, cells: Sequence[PaperCell], work: Callable[[], T]) -> T | None:
        """The result of some work; if it fails, not by a wrong option, these cells are skipped."""
        try:
            return work()
        except ParameterError:
            raise
        except SequoiaError as error:
            self._outcomes |= dict.fromkeys([cell.key for cell in cells], str(error))
            return None

    def _decode(
        self, pair: Pair, cell: PaperCell, prompts: list[tuple[int, ...]], progress: Progress
    ) -> CellResult:
        growmap = pairs_growmap(pair, cell.growmap, cell.temperature)
        params, cache_length = self._plan.params(cell.temperature), self._plan.cache_length
        plan = DecodingPlan(Mode.SEQUOIA, growmap, params, cache_length=cache_length)
        experiment = DecodingExperiment(pair, plan, prompts)
        experiment.run(progress)
        results = experiment.results()
        tree, plain = results.figures(TREE), results.figures(PLAIN)
        assert tree.speedup is not None
        return CellResult(
            prompts=results.prompts,
            tree=f"{growmap.size}x{growmap.depth}",
            tokens_per_step=tree.tokens_per_step,
            tree_ms=tree.ms_per_token,
            plain_ms=plain.ms_per_token,
            speedup=tree.speedup,
        )

    def _report(self, cell: PaperCell, progress: Progress) -> Progress:
        """Progress within the table, from progress within a cell."""
        at, cells = self._cells.index(cell), len(self._cells)
        place = f"{at + 1} of {cells}: {cell.pair}, {cell.dataset}, T = {cell.temperature:g}"

        def report(message: str, fraction: float | None) -> None:
            progress(f"{place}: {message}", (at + (fraction or 0.0)) / cells)

        return report

    def outcomes(self) -> list[Outcome]:
        """Every cell that was measured or skipped."""
        known = self._outcomes
        return [(cell, known[cell.key]) for cell in self._cells if cell.key in known]

    @override
    def report(self) -> Report:
        outcomes, facts, plan = self.outcomes(), paper_facts(), self._plan
        published = facts.hardware[self._hardware].title
        measured = sum(isinstance(outcome, CellResult) for _, outcome in outcomes)
        cell, outcome = outcomes[0]
        if cell.pair not in facts.pairs:
            if not measured:
                raise SequoiaError(str(outcome))
            published = f"{facts.setups_on(self._hardware)[0].pair} on {published}"
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
            "cells": [outcome_values(*each) for each in outcomes],
        }
        headings = (
            "pair", "data", "T", "tree", "here: tokens/step · speed-up · ms/token",
            f"paper, {published}",
        )  # fmt: skip
        rows = tuple(outcome_row(*each) for each in outcomes)
        table = ReportTable(headings, rows, right=False)
        return Report((table,), text, values, partial(draw_paper, outcomes=outcomes))


def outcome_row(cell: PaperCell, outcome: CellResult | str) -> tuple[str, ...]:
    if isinstance(outcome, CellResult):
        tree = outcome.tree
        here = (
            f"{outcome.tokens_per_step.spread().text(2)} · {outcome.speedup.text(2, 'x')} · "
            f"{outcome.tree_ms.middle:.1f} ms, plain {outcome.plain_ms.middle:.1f}"
        )
    else:
        tree = NOTHING if cell.growmap is None else "/".join(Path(cell.growmap).parts[-2:])
        here = f"skipped: {outcome}"
    published, figure = NOTHING, cell.figure
    if figure is not None:
        published = f"{figure.tokens:.2f} · {figure.speedup:.2f}x"
        published += "" if figure.ms is None else f" · {figure.ms:.1f} ms"
    return cell.pair, Path(cell.dataset).name, f"{cell.temperature:g}", tree, here, published


def outcome_values(cell: PaperCell, outcome: CellResult | str) -> dict[str, Any]:
    skipped = isinstance(outcome, str)
    return {
        "pair": cell.pair,
        "dataset": cell.dataset,
        "temperature": cell.temperature,
        "growmap": cell.growmap,
        "result": None if skipped else encode(outcome),
        "skipped": outcome if skipped else None,
        "paper": encode(cell.figure),
    }


def draw_paper(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Tokens per step of each cell, as measured and as published."""
    here = [
        outcome.tokens_per_step.spread() if isinstance(outcome, CellResult) else None
        for _, outcome in outcomes
    ]
    figures = [cell.figure for cell, _ in outcomes]
    published = [Spread.of([figure.tokens]) if figure else None for figure in figures]
    groups = {"here": here, "published": published}
    shown = {name: spreads for name, spreads in groups.items() if any(spreads)}
    draw_bars(file, [_label(cell) for cell, _ in outcomes], shown, "tokens per step")


def _label(cell: PaperCell) -> str:
    name = cell.pair if len(cell.pair) <= _LONGEST_NAME else f"…{cell.pair[-_LONGEST_NAME:]}"
    return f"{name}, {Path(cell.dataset).name}, T={cell.temperature:g}"
