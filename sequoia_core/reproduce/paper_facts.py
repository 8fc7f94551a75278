"""What is published, from `paper.toml`; a table's cells; whether a pair fits on a machine."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from pathlib import Path

from sequoia_core.errors import ParameterError
from sequoia_core.files import decode
from sequoia_core.model.loading.catalogue import ModelShape
from sequoia_core.tree.files import growmap_names

DATASETS = ("c4", "openwebtext", "cnn", "mt-bench")
"""Of the published tables, by the names of `sequoia_core.data`."""
TEMPERATURES = (0.0, 0.6)
Key = tuple[str, str, float]
_KINDS = {0.0: "greedy", 0.6: "stochastic"}
_RESIDENT_LAYERS = 2
_HUB_BYTES = 2  # published weights have 16 bits
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class PaperPair:
    """Two models of the experiments, under a name such as `68m-7b`."""

    name: str
    draft: ModelShape
    target: ModelShape
    trees_of: str  # the pair whose trees it is run with; itself if its own can be made
    offload: bool = False  # the target's layers are streamed, since they do not fit

    def needed_bytes(self, value_bytes: int, tokens: int) -> int:
        """Weights and caches of both models; a streamed target has two layers in memory."""
        target = self.target
        if self.offload:
            target = replace(target, config=replace(target.config, num_layers=_RESIDENT_LAYERS))
        weights = (target.parameters + self.draft.parameters) * value_bytes
        return weights + self.target.kv_bytes(tokens) + self.draft.kv_bytes(tokens)


@dataclass(frozen=True, slots=True)
class Setup:
    """A pair on some hardware, both by name; times are published ones, None if unknown."""

    hardware: str
    pair: str
    nodes: int  # of its trees, unless a figure states it
    why: str  # that many
    datasets: tuple[str, ...] = DATASETS
    plain_ms: float | None = None  # a token without speculation
    draft_ms: float | None = None  # a draft forward


@dataclass(frozen=True, slots=True)
class Figure:
    """One published result; None where it is unknown."""

    hardware: str
    pair: str
    dataset: str
    temperature: float
    tokens: float  # per step
    speedup: float  # over plain decoding
    ms: float | None = None  # per token
    nodes: int | None = None
    levels: int | None = None  # of the tree, the root's included


@dataclass(frozen=True, slots=True)
class Hardware:
    """A GPU and its peaks, which no program reaches."""

    title: str
    memory_gib: float
    memory_gbs: float  # GB/s of its memory
    link_gbs: float  # GB/s from main memory
    tflops: float  # TFLOP/s of products in 16 bits


@dataclass(frozen=True, slots=True)
class PaperFacts:
    """Everything in `paper.toml`; setups and figures are in the order of the tables."""

    acceptance_rates: tuple[float, ...]  # the vector that the release ships
    hardware: dict[str, Hardware]  # by short name
    pairs: dict[str, PaperPair]
    setups: tuple[Setup, ...]
    figures: tuple[Figure, ...]

    def setups_on(self, hardware: str) -> list[Setup]:
        return [setup for setup in self.setups if setup.hardware == hardware]

    def figure(self, hardware: str, pair: str, dataset: str, temperature: float) -> Figure | None:
        wanted = (hardware, pair, dataset, temperature)
        places = attrgetter("hardware", "pair", "dataset", "temperature")
        return next((each for each in self.figures if places(each) == wanted), None)


@functools.cache
def paper_facts() -> PaperFacts:
    data = tomllib.loads((Path(__file__).parent / "paper.toml").read_text(encoding="utf-8"))
    models = {name: ModelShape.of(name, **shape) for name, shape in data["models"].items()}
    pairs = {}
    for pair in data["pairs"]:
        shapes = {"draft": models[pair["draft"]], "target": models[pair["target"]]}
        pairs[pair["name"]] = PaperPair(**{"trees_of": pair["name"]} | pair | shapes)
    tried = data["vector"]["tried"]
    return PaperFacts(
        acceptance_rates=tuple(count / tried for count in data["vector"]["accepted"]),
        hardware=decode(dict[str, Hardware], data["hardware"]),
        pairs=pairs,
        setups=decode(tuple[Setup, ...], data["setups"]),
        figures=decode(tuple[Figure, ...], data["figures"]),
    )


def tree_name(hardware: str, pair: str, dataset: str, temperature: float) -> str:
    """The name of a packaged tree, for instance `a100/68m-7b/c4-stochastic`."""
    return f"{hardware}/{pair}/{dataset}-{_KINDS[temperature]}"


@dataclass(frozen=True, slots=True)
class PaperCell:
    pair: str  # a published pair's name, or what another pair is called
    dataset: str  # a name or a path
    temperature: float
    growmap: str | None  # what it is decoded with; None is the pair's own
    figure: Figure | None  # published for it, or for the pair that another pair is compared with

    @property
    def key(self) -> Key:
        """Distinguishes it from the others of its table."""
        return self.pair, self.dataset, self.temperature


@dataclass(frozen=True, slots=True)
class PaperChoice:
    hardware: str
    pairs: tuple[str, ...] = ()  # empty is all of the hardware's
    datasets: tuple[str, ...] = ()  # empty is what each pair was published with
    growmap: str | None = None  # for every cell; None is each cell's own


def published_cells(facts: PaperFacts, choice: PaperChoice) -> Iterator[PaperCell]:
    """Cells of the published pairs, pair by pair.

    Raises ParameterError if there is no such pair on the hardware.
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

    `pair` is what to call it; the choice's pairs are ignored.
    """
    first = facts.setups_on(choice.hardware)[0].pair
    for dataset, temperature in product(choice.datasets or DATASETS, TEMPERATURES):
        figure = facts.figure(choice.hardware, first, dataset, temperature)
        yield PaperCell(pair, dataset, temperature, choice.growmap, figure)


@dataclass(frozen=True, slots=True)
class Room:
    place: str  # where the models would be, for instance `cuda:0`
    memory: int  # bytes free there
    disk: int  # bytes free for models that are downloaded
    value_bytes: int  # of a weight in the number format of the forwards
    token: bool  # for the hub
    fetched: Callable[[str], bool]  # whether a model is on the disk already, by its hub id


def why_not(pair: PaperPair, room: Room, tokens: int) -> str:
    """Why the pair cannot be run with so many tokens in the caches; "" if it seems possible."""
    needed = pair.needed_bytes(room.value_bytes, tokens)
    if needed > room.memory:
        streamed = " with the target's layers streamed" if pair.offload else ""
        return (
            f"needs {needed / _GIB:.1f} GiB{streamed}, {room.memory / _GIB:.1f} GiB are free on "
            f"{room.place}"
        )
    missing = [model for model in (pair.target, pair.draft) if not room.fetched(model.name)]
    size = sum(model.parameters for model in missing) * _HUB_BYTES
    if size > room.disk:
        return (
            f"{size / _GIB:.1f} GiB would be fetched, {room.disk / _GIB:.1f} GiB are free on disk"
        )
    gated = (model.name for model in missing if model.gated and not room.token)
    return next((f"{name} is gated and there is no HF_TOKEN" for name in gated), "")
