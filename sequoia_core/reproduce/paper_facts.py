"""What is published of the experiments, from `paper.toml`: figures, times, models, setups."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.errors import ParameterError
from sequoia_core.model.loading.catalogue import ModelShape

DATASETS = ("c4", "openwebtext", "cnn", "mt-bench")
"""Of the published tables, by the names of `sequoia_core.data`."""
TEMPERATURES = (0.0, 0.6)


@dataclass(frozen=True, slots=True)
class AcceptedCounts:
    """An acceptance vector as it was counted: accepted tokens by rank, and tried tokens in all."""

    accepted: tuple[int, ...]
    tried: int


@dataclass(frozen=True, slots=True)
class PaperPair:
    """Two models of the experiments.

    Attributes:
        name: for instance `68m-7b`.
        draft: shape and hub id.
        target: shape and hub id.
        offload: the target's layers are streamed, since they do not fit.
        trees_of: the pair whose trees it is run with; itself if its own can be made.
    """

    name: str
    draft: ModelShape
    target: ModelShape
    offload: bool
    trees_of: str


@dataclass(frozen=True, slots=True)
class Setup:
    """A pair on some hardware.

    Attributes:
        hardware: `a100` or `l40`.
        pair: its name.
        nodes: of its trees, unless a figure states it.
        why: why that many.
        datasets: what it is run on.
        plain_ms: published milliseconds of a token without speculation; None if unknown.
        draft_ms: published milliseconds of a draft forward; None if unknown.
    """

    hardware: str
    pair: str
    nodes: int
    why: str
    datasets: tuple[str, ...] = DATASETS
    plain_ms: float | None = None
    draft_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """One published result.

    Attributes:
        hardware: `a100` or `l40`.
        pair: its name.
        dataset: its name in `sequoia_core.data`.
        temperature: of sampling.
        tokens: per step.
        speedup: over plain decoding.
        ms: per token; None if unknown.
        nodes: of the tree; None if unknown.
        levels: of the tree, the root's included; None if unknown.
    """

    hardware: str
    pair: str
    dataset: str
    temperature: float
    tokens: float
    speedup: float
    ms: float | None = None
    nodes: int | None = None
    levels: int | None = None


@dataclass(frozen=True, slots=True)
class PaperFacts:
    """Everything in `paper.toml`; setups and figures are in the order of the tables.

    Attributes:
        vector: the acceptance vector that the release ships.
        hardware: titles by short name.
        pairs: by name.
    """

    vector: AcceptedCounts
    hardware: dict[str, str]
    pairs: dict[str, PaperPair]
    setups: tuple[Setup, ...]
    figures: tuple[Figure, ...]

    def setups_on(self, hardware: str) -> tuple[Setup, ...]:
        """The setups of that hardware.

        Raises:
            ParameterError: nothing is published for it.
        """
        if hardware not in self.hardware:
            known = ", ".join(self.hardware)
            raise ParameterError(f"hardware {hardware!r}: there are figures for {known}")
        return tuple(setup for setup in self.setups if setup.hardware == hardware)

    def figure(self, hardware: str, pair: str, dataset: str, temperature: float) -> Figure | None:
        """The published figure of a cell of the table."""
        wanted = (hardware, pair, dataset, temperature)
        found = (
            each
            for each in self.figures
            if (each.hardware, each.pair, each.dataset, each.temperature) == wanted
        )
        return next(found, None)


@functools.cache
def paper_facts() -> PaperFacts:
    """The contents of `paper.toml`."""
    data = tomllib.loads((Path(__file__).parent / "paper.toml").read_text(encoding="utf-8"))
    models = {name: ModelShape.of(name, **shape) for name, shape in data["models"].items()}
    pairs = (
        PaperPair(
            name=pair["name"],
            draft=models[pair["draft"]],
            target=models[pair["target"]],
            offload=pair.get("offload", False),
            trees_of=pair.get("trees_of", pair["name"]),
        )
        for pair in data["pairs"]
    )
    return PaperFacts(
        vector=AcceptedCounts(tuple(data["vector"]["accepted"]), data["vector"]["tried"]),
        hardware={name: entry["title"] for name, entry in data["hardware"].items()},
        pairs={pair.name: pair for pair in pairs},
        setups=tuple(
            Setup(**entry | {"datasets": tuple(entry.get("datasets", DATASETS))})
            for entry in data["setups"]
        ),
        figures=tuple(Figure(**entry) for entry in data["figures"]),
    )
