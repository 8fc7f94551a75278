"""The published tables as cells to be filled: pair, data set, temperature, tree.

Owns which cells there are, which packaged tree a cell is run with, and what a filled one holds.
Runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ParameterError
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.paper_facts import DATASETS, TEMPERATURES, PaperFacts
from sequoia_core.reproduce.paper_trees import tree_name
from sequoia_core.reproduce.resampling import Interval
from sequoia_core.tree.files import growmap_names

if TYPE_CHECKING:
    from sequoia_core.reproduce.experiment import Findings
    from sequoia_core.reproduce.paper_facts import Figure, Setup


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One cell of a table.

    Attributes:
        pair: a published pair's name, or what another pair is called.
        dataset: a name or a path.
        temperature: of sampling.
        growmap: what it is decoded with; None is the pair's own.
        figure: what is published for it, or for another pair that it is shown beside; None if
            nothing is.
    """

    pair: str
    dataset: str
    temperature: float
    growmap: str | None
    figure: Figure | None

    @property
    def key(self) -> tuple[str, str, float]:
        """What tells it from others of its table."""
        return self.pair, self.dataset, self.temperature


@dataclass(frozen=True, slots=True)
class CellResult:
    """What was measured for a cell.

    Attributes:
        prompts: decoded.
        tree: its nodes and depth, for instance `128x9`.
        tokens_per_step: all tokens over all steps, with an interval over prompts.
        tree_ms: per token, prompt by prompt.
        plain_ms: likewise, of plain decoding.
        speedup: over plain decoding of the same prompt.
    """

    prompts: int
    tree: str
    tokens_per_step: Interval
    tree_ms: Spread
    plain_ms: Spread
    speedup: Spread

    @classmethod
    def of(cls, findings: Findings, tree: str) -> CellResult:
        """From an experiment that decoded with a tree and plainly."""
        from sequoia_core.reproduce.experiment import PLAIN, TREE

        drafted = findings.figures(TREE)
        assert drafted.speedup is not None, "the experiment decoded no baseline"
        return cls(
            prompts=findings.prompts,
            tree=tree,
            tokens_per_step=drafted.tokens_per_step,
            tree_ms=drafted.ms_per_token,
            plain_ms=findings.figures(PLAIN).ms_per_token,
            speedup=drafted.speedup,
        )

    def as_values(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> CellResult:
        """What `as_values` gave.

        Raises:
            KeyError: a value is missing.
            TypeError: a value is another kind.
        """
        return cls(
            prompts=values["prompts"],
            tree=values["tree"],
            tokens_per_step=Interval(**values["tokens_per_step"]),
            tree_ms=Spread(**values["tree_ms"]),
            plain_ms=Spread(**values["plain_ms"]),
            speedup=Spread(**values["speedup"]),
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cell and what came of it.

    Attributes:
        cell: which.
        result: None where it was skipped.
        skipped: why; "" where it was not.
    """

    cell: PaperCell
    result: CellResult | None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which cells are wanted.

    Attributes:
        hardware: whose table.
        pairs: of its pairs; empty is all of them.
        datasets: empty is what each pair was published with.
        growmap: for every cell; None is each cell's own.
    """

    hardware: str
    pairs: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    growmap: str | None = None


def published_cells(facts: PaperFacts, choice: Choice) -> Iterator[PaperCell]:
    """Cells of the published pairs, pair by pair.

    Raises:
        ParameterError: there is no such hardware, or no such pair on it.
    """
    setups = facts.setups_on(choice.hardware)
    known = [setup.pair for setup in setups]
    for pair in choice.pairs:
        if pair not in known:
            raise ParameterError(
                f"pair {pair!r}: on the {choice.hardware} there are {', '.join(known)}, "
                "and `embedded` alone"
            )
    names = frozenset(growmap_names())
    for setup in setups:
        if choice.pairs and setup.pair not in choice.pairs:
            continue
        for dataset, temperature in product(choice.datasets or setup.datasets, TEMPERATURES):
            tree = choice.growmap or packaged_tree(facts, setup, (dataset, temperature), names)
            figure = facts.figure(choice.hardware, setup.pair, dataset, temperature)
            yield PaperCell(setup.pair, dataset, temperature, tree, figure)


def packaged_tree(
    facts: PaperFacts, setup: Setup, place: tuple[str, float], names: frozenset[str]
) -> str:
    """The nearest tree there is: the data set's, another's, the other temperature's, in that order.

    Args:
        facts: what is published.
        setup: the pair on its hardware.
        place: data set and temperature.
        names: of the packaged trees.
    """
    dataset, temperature = place
    temperatures = sorted(TEMPERATURES, key=lambda other: other != temperature)
    pairs = (setup.pair, facts.pairs[setup.pair].trees_of)
    candidates = (
        tree_name(setup.hardware, pair, data, heat)
        for pair, heat, data in product(pairs, temperatures, (dataset, *DATASETS))
    )
    return next(name for name in candidates if name in names)


def other_cells(facts: PaperFacts, choice: Choice, pair: str) -> Iterator[PaperCell]:
    """The same table for a pair that nothing is published for, beside the hardware's first pair.

    Args:
        facts: what is published.
        choice: which cells; its pairs are of no account.
        pair: what to call it.

    Raises:
        ParameterError: there is no such hardware.
    """
    beside = facts.setups_on(choice.hardware)[0].pair
    for dataset, temperature in product(choice.datasets or DATASETS, TEMPERATURES):
        figure = facts.figure(choice.hardware, beside, dataset, temperature)
        yield PaperCell(pair, dataset, temperature, choice.growmap, figure)
