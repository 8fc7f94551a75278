"""What is published of the experiments, as values: figures, times, models, setups.

Owns `paper.toml` and how it is looked up. Knows nothing of trees or of this machine, and holds no
figure that this project measured.
"""

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
    """An acceptance vector as it was counted.

    Attributes:
        accepted: tokens that were accepted as the first, second, ... child.
        tried: tokens in all.
    """

    accepted: tuple[int, ...]
    tried: int


@dataclass(frozen=True, slots=True)
class PaperPair:
    """Two models of the experiments.

    Attributes:
        name: for instance `68m-7b`.
        draft: shape and hub id.
        target: likewise.
        offload: the target's layers are streamed, since they do not fit.
        trees_of: the pair whose trees it is run with, itself where its own can be made.
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
        nodes: of its trees where no figure states it.
        why: why that many.
        datasets: what it is run on.
        plain_ms: published milliseconds of a token without speculation; None if unknown.
        draft_ms: published milliseconds of a drafting pass; None if unknown.
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
        dataset: by the name of `sequoia_core.data`.
        temperature: of sampling.
        tokens: per step.
        speedup: over plain decoding.
        ms: per token; None if unknown.
        nodes: of the tree; None if unknown.
        levels: of the tree, the root's counted; None if unknown.
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
    """Everything in `paper.toml`.

    Attributes:
        vector: the acceptance vector that the release ships.
        hardware: what each short name stands for.
        pairs: by name.
        setups: in the order of the tables.
        figures: likewise.
    """

    vector: AcceptedCounts
    hardware: dict[str, str]
    pairs: dict[str, PaperPair]
    setups: tuple[Setup, ...]
    figures: tuple[Figure, ...]

    def setups_on(self, hardware: str) -> tuple[Setup, ...]:
        """What is run on that hardware.

        Raises:
            ParameterError: nothing is published for it.
        """
        if hardware not in self.hardware:
            known = ", ".join(self.hardware)
            raise ParameterError(f"hardware {hardware!r}: there are figures for {known}")
        return tuple(setup for setup in self.setups if setup.hardware == hardware)

    def figure(self, hardware: str, pair: str, dataset: str, temperature: float) -> Figure | None:
        """What is published for a cell of the table."""
        wanted = (hardware, pair, dataset, temperature)
        for each in self.figures:
            if (each.hardware, each.pair, each.dataset, each.temperature) == wanted:
                return each
        return None


@functools.cache
def paper_facts() -> PaperFacts:
    """All of it."""
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
