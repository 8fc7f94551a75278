"""Makes the packaged tree shapes and the list of them.

`python -m tests.core.make_growmaps` writes chains, paths, the published pairs' trees
and the embedded pair's, byte for byte the same each time, and the table of the growmaps' README.

No published pair's acceptance vector is known, but tokens per step and trees are. So the vector is
fitted to them. In the paper the probability that all of k children are rejected falls as a power of
k (section 3.1). The exponent is that of the one vector that the release ships; with the factor, the
best tree of the published size gives the published tokens per step. If the depth is not published
either, it is the least one from which going deeper does not pay at the published time of a step.
"""

import argparse
import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from sequoia_core.errors import counted
from sequoia_core.model.loading.loader import BUNDLED_DRAFT, open_directory
from sequoia_core.reproduce.paper_facts import (
    TEMPERATURES,
    Figure,
    PaperFacts,
    Setup,
    paper_facts,
    tree_name,
)
from sequoia_core.tree.files import load_growmap, save_growmap
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import TreeTable, expected_tokens_table

FAMILIES = ("smollm2-135m", "a100", "l40", "chain", "k-ary", "paths")
"""Folders in the order of the README."""
CHAINS = (2, 4, 8, 16)
PATHS = {
    1: (8, 16, 32, 64, 128),
    2: (1, 4, 8, 16, 32, 64),
    4: (1, 2, 4, 8, 16, 32),
    5: (8,),
    8: (1, 2, 4, 8, 16, 24),
    16: (1, 2, 4, 8),
    32: (1, 2, 4),
    64: (1, 2),
    128: (1,),
}
"""Lengths by number of paths: those that the release has under these names."""
EMBEDDED = ((3, 1), (6, 2), (8, 3), (12, 3), (16, 4), (24, 4), (32, 5))
"""Nodes and depth of the embedded pair's trees."""
EMBEDDED_RANKS = 6  # most children of a node in them
RANKS = 32  # most children of a node in the published pairs' trees, as in the release's vector
_DEEPEST = 16
_LEAST = 0.05
_START = (0.4, 0.3)
_ROUNDS = 30
_CLOSE = 1e-3
_HEADER = "| name | nodes | depth | nodes per level | expected tokens per step |\n|"


def made_growmaps(facts: PaperFacts) -> Iterator[GrowMap]:
    for length in CHAINS:
        parents = GrowMap.chain(length).parents
        source = "a path: classic speculative sampling"
        yield GrowMap(parents, f"chain/{length}", source=source)
    for count, lengths in PATHS.items():
        for length in lengths:
            parents = GrowMap.k_ary([count] + [1] * (length - 1)).parents
            source = f"{counted(count, 'path')} of {counted(length, 'token')}"
            yield GrowMap(parents, f"paths/{count}x{length}", source=source)
    for setup in facts.setups:
        for dataset, temperature in product(setup.datasets, TEMPERATURES):
            growmap = paper_tree(facts, setup, dataset, temperature)
            if growmap is not None:
                yield growmap
    yield from embedded_growmaps()


def embedded_growmaps() -> Iterator[GrowMap]:
    """The best trees for the acceptance rates that the bundled draft states."""
    stated = open_directory(BUNDLED_DRAFT).settings["sequoia"]["acceptance_rates"]
    for name, temperature in (("greedy", "0"), ("stochastic", "0.6")):
        rates = tuple(stated[name][:EMBEDDED_RANKS])
        table = expected_tokens_table(rates, *EMBEDDED[-1], EMBEDDED_RANKS)
        for nodes, depth in EMBEDDED:
            yield table.tree(
                nodes,
                depth,
                name=f"smollm2-135m/{name}-{nodes}x{depth}",
                source="exact search; rates measured on held-out conversations with the bundled "
                f"draft, temperature {temperature}",
            )


def paper_tree(facts: PaperFacts, setup: Setup, dataset: str, temperature: float) -> GrowMap | None:
    """The best tree of that setup's size; None without a figure to fit it to.

    It is fitted to the first hardware's figure, since acceptance does not depend on it.
    """
    figures = (facts.figure(each, setup.pair, dataset, temperature) for each in facts.hardware)
    figure = next((each for each in figures if each is not None), None)
    if figure is None:
        return None
    on_it = facts.setups_on(figure.hardware)
    measured = next(each for each in on_it if each.pair == setup.pair)
    exponent = exponent_of(facts.acceptance_rates)
    factor, depth = _fit(exponent, figure, measured)
    own = figure.hardware == setup.hardware
    fitted_nodes = figure.nodes or measured.nodes
    nodes = fitted_nodes if own else setup.nodes
    size = "" if figure.nodes is not None and own else f"; size: {setup.why}"
    place = f"{figure.hardware.upper()}, {figure.dataset}, T={figure.temperature:g}"
    levels = "depth where its published step time pays best"
    if figure.levels is not None:
        levels = f"{figure.levels} levels as published"
    source = (
        f"exact search; rates fitted, not measured: k children are all rejected with chance "
        f"{factor:.4f} k^-{exponent:.3f}, the exponent of the release's acceptance vector, "
        f"the factor that gives the paper's {figure.tokens:.2f} tokens per step ({place}) "
        f"with {fitted_nodes} nodes, {levels}{size}"
    )
    # the paper gives both machines' figures for C4: there the depths agree
    table = _table(factor, exponent, nodes, depth)
    name = tree_name(setup.hardware, setup.pair, dataset, temperature)
    return table.tree(nodes, depth, name, source)


def exponent_of(rates: Sequence[float]) -> float:
    """Least squares of log rejection on log rank, to three decimals."""
    rejected = 1.0 - np.cumsum(rates)
    ranks = np.arange(1, len(rejected) + 1)
    slope, _ = np.polyfit(np.log(ranks), np.log(rejected), 1)
    return -round(float(slope), 3)


def fitted_rates(factor: float, exponent: float, ranks: int = RANKS) -> tuple[float, ...]:
    """a_1, a_2, ... to five decimals.

    All of k children are rejected with probability `factor * k**-exponent`.
    """
    left = [1.0, *(factor * rank**-exponent for rank in range(1, ranks + 1))]
    return tuple(round(above - below, 5) for above, below in pairwise(left))


def _table(factor: float, exponent: float, nodes: int, depth: int) -> TreeTable:
    return expected_tokens_table(fitted_rates(factor, exponent), nodes, depth, RANKS)


def fitted_factor(exponent: float, nodes: int, depth: int, tokens: float) -> float | None:
    """The factor with which the best tree gives so many tokens, to four decimals, or None."""

    def excess(factor: float) -> float:
        return float(_table(factor, exponent, nodes, depth).values[nodes, depth]) - tokens

    if depth + 1 < tokens:
        return None
    before, factor = _START
    excess_before = excess(before)
    for _ in range(_ROUNDS):
        here = excess(factor)
        if abs(here) < _CLOSE:
            return round(factor, 4)
        # a secant step: tokens fall smoothly as the logarithm of the factor rises
        slope = (here - excess_before) / math.log(factor / before)
        before, excess_before = factor, here
        factor = min(max(factor * math.exp(-here / slope), _LEAST), 1.0)
        if factor == before:
            return None  # no factor in the range
    raise AssertionError(f"no factor found for {tokens} tokens with {nodes} nodes, depth {depth}")


def _fit(exponent: float, figure: Figure, setup: Setup) -> tuple[float, int]:
    """The factor of a figure, and the depth of the best tree."""
    nodes = figure.nodes or setup.nodes
    depths = range(1, _DEEPEST) if figure.levels is None else (figure.levels - 1,)
    for depth in depths:
        factor = fitted_factor(exponent, nodes, depth, figure.tokens)
        if factor is None:
            continue
        if figure.levels is not None:
            return factor, depth
        values = _table(factor, exponent, nodes, _DEEPEST).values[nodes].tolist()
        if _best_depth(values, figure, setup, depth) <= depth:
            return factor, depth
    raise AssertionError(f"{figure}: no tree of {nodes} nodes yields that; correct paper.toml")


def _best_depth(values: Sequence[float], figure: Figure, setup: Setup, depth: int) -> int:
    """The depth of the lowest time per token, if the published step drafted `depth` times.

    `values` are expected tokens per step by depth.
    """
    assert setup.plain_ms is not None, f"{setup.pair}: a depth cannot be fitted without times"
    step_ms = figure.tokens * setup.plain_ms / figure.speedup
    draft_ms = setup.draft_ms or (step_ms - setup.plain_ms) / depth
    target_ms = step_ms - depth * draft_ms
    return max(range(1, _DEEPEST), key=lambda deep: values[deep] / (target_ms + deep * draft_ms))


def listed(folder: Path) -> str:
    """The README's table of the shapes in a folder."""
    paths = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.json")
    }
    rows = []
    for name in sorted(paths, key=_order):
        growmap = load_growmap(paths[name])
        rates = growmap.acceptance_rates
        expected = f" {growmap.expected_tokens(rates):.2f} " if rates else "  "
        cells = f"`{name}` | {growmap.size} | {growmap.depth} | {growmap.widths()} |{expected}|"
        rows.append(f"| {cells}\n")
    return f"{_HEADER}---|---|---|---|---|\n" + "".join(rows)


def _order(name: str) -> tuple[object, ...]:
    family = name.partition("/")[0]
    parts = re.split(r"(\d+)", name)
    return FAMILIES.index(family), *(int(part) if part.isdigit() else part for part in parts)


def rewrite_readme(folder: Path) -> None:
    """Replace the table in the README of a growmaps folder."""
    path = folder / "README.md"
    before, header, rest = path.read_text(encoding="utf-8").partition(_HEADER)
    _, blank, after = rest.partition("\n\n")
    assert header, f"{path} has no table to replace"
    assert blank, f"{path}: the table has no end"
    path.write_text(f"{before}{listed(folder)}\n{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path(__file__).parents[2] / "growmaps"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    folder = parser.parse_args().folder
    made = list(made_growmaps(paper_facts()))
    for growmap in made:
        path = folder / f"{growmap.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_growmap(growmap, path)
    if (folder / "README.md").exists():
        rewrite_readme(folder)
    print(f"{len(made)} shapes written to {folder}")


if __name__ == "__main__":
    main()
