"""The published tables as cells to be filled: pair, data set, temperature, tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from sequoia_core.errors import ParameterError
from sequoia_core.reproduce.paper_facts import DATASETS, TEMPERATURES, PaperFacts
from sequoia_core.reproduce.paper_trees import tree_name
from sequoia_core.tree.files import growmap_names

if TYPE_CHECKING:
    from sequoia_core.reproduce.paper_facts import Figure, Setup

Key = tuple[str, str, float]


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One cell of a table.

    Attributes:
        pair: a published pair's name, or what another pair is called.
        dataset: a name or a path.
        temperature: of sampling.
        growmap: what it is decoded with; None is the pair's own.
        figure: what is published for it, or for the pair that another pair is compared with.
    """

    pair: str
    dataset: str
    temperature: float
    growmap: str | None
    figure: Figure | None

    @property
    def key(self) -> Key:
        """Distinguishes it from the others of its table."""
        return self.pair, self.dataset, self.temperature


@dataclass(frozen=True, slots=True)
class PaperChoice:
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


def published_cells(facts: PaperFacts, choice: PaperChoice) -> Iterator[PaperCell]:
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
            tree = choice.growmap or _packaged_tree(facts, setup, (dataset, temperature), names)
            figure = facts.figure(choice.hardware, setup.pair, dataset, temperature)
            yield PaperCell(setup.pair, dataset, temperature, tree, figure)


def _packaged_tree(
    facts: PaperFacts, setup: Setup, place: tuple[str, float], names: frozenset[str]
) -> str:
    """The nearest tree: of the data set, of another, of the other temperature, in that order."""
    dataset, temperature = place
    temperatures = sorted(TEMPERATURES, key=lambda other: other != temperature)
    pairs = (setup.pair, facts.pairs[setup.pair].trees_of)
    candidates = (
        tree_name(setup.hardware, pair, data, each)
        for pair, each, data in product(pairs, temperatures, (dataset, *DATASETS))
    )
    return next(name for name in candidates if name in names)


def other_cells(facts: PaperFacts, choice: PaperChoice, pair: str) -> Iterator[PaperCell]:
    """The table for a pair that nothing is published for, with the figures of the first pair.

    Args:
        facts: what is published.
        choice: which cells; its pairs are ignored.
        pair: what to call it.

    Raises:
        ParameterError: there is no such hardware.
    """
    first = facts.setups_on(choice.hardware)[0].pair
    for dataset, temperature in product(choice.datasets or DATASETS, TEMPERATURES):
        figure = facts.figure(choice.hardware, first, dataset, temperature)
        yield PaperCell(pair, dataset, temperature, choice.growmap, figure)
