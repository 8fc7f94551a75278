"""Makes the packaged tree shapes and the list of them.

`python -m sequoia_core.reproduce.make_growmaps` writes chains, paths, the published pairs' trees
and the embedded pair's, byte for byte the same each time, and the table of the growmaps' README.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.sources import BUNDLED_DRAFT
from sequoia_core.reproduce.paper_facts import TEMPERATURES, PaperFacts, paper_facts
from sequoia_core.reproduce.paper_trees import paper_tree
from sequoia_core.tree.files import load_growmap, save_growmap
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table

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
EMBEDDED_RANKS = 6
"""Most children of a node in them."""
_HEADER = "| name | nodes | depth | nodes per level | expected tokens per step |\n|"


def made_growmaps(facts: PaperFacts) -> Iterator[GrowMap]:
    """All shapes that this module makes."""
    for length in CHAINS:
        parents = GrowMap.chain(length).parents
        source = "a path: classic speculative sampling"
        yield GrowMap(parents, f"chain/{length}", source=source)
    for count, lengths in PATHS.items():
        for length in lengths:
            parents = GrowMap.k_ary([count] + [1] * (length - 1)).parents
            source = f"{_counted(count, 'path')} of {_counted(length, 'token')}"
            yield GrowMap(parents, f"paths/{count}x{length}", source=source)
    yield from paper_growmaps(facts)
    yield from embedded_growmaps()


def paper_growmaps(facts: PaperFacts) -> Iterator[GrowMap]:
    """The trees of the published pairs that have a figure to fit them to."""
    for setup in facts.setups:
        for dataset in setup.datasets:
            for temperature in TEMPERATURES:
                growmap = paper_tree(facts, setup, dataset, temperature)
                if growmap is not None:
                    yield growmap


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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def write(growmaps: Iterator[GrowMap], folder: Path) -> int:
    """Write each under its name, and return how many there were.

    Raises:
        GrowMapError: a file cannot be written.
    """
    written = 0
    for growmap in growmaps:
        path = folder / f"{growmap.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_growmap(growmap, path)
        written += 1
    return written


def listed(folder: Path) -> str:
    """The README's table of the shapes in a folder."""
    names = {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.json")
    }
    rows = [_row(name, load_growmap(names[name])) for name in sorted(names, key=_order)]
    return f"{_HEADER}---|---|---|---|---|\n" + "".join(rows)


def _order(name: str) -> tuple[object, ...]:
    family = name.partition("/")[0]
    parts = re.split(r"(\d+)", name)
    return FAMILIES.index(family), *(int(part) if part.isdigit() else part for part in parts)


def _row(name: str, growmap: GrowMap) -> str:
    rates = growmap.acceptance_rates
    expected = f" {growmap.expected_tokens(rates):.2f} " if rates else "  "
    cells = f"`{name}` | {growmap.size} | {growmap.depth} | {growmap.widths()} |{expected}|"
    return f"| {cells}\n"


def rewrite_readme(folder: Path) -> None:
    """Replace the table in the README of a growmaps folder.

    Raises:
        OSError: it cannot be read or written.
    """
    path = folder / "README.md"
    before, header, rest = path.read_text(encoding="utf-8").partition(_HEADER)
    _, blank, after = rest.partition("\n\n")
    assert header, f"{path} has no table to replace"
    assert blank, f"{path}: the table has no end"
    path.write_text(f"{before}{listed(folder)}\n{after}", encoding="utf-8")


def main() -> None:
    """Write them to a folder, by default the checkout's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    default = Path(__file__).parents[2] / "growmaps"
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    folder = parser.parse_args().folder
    written = write(made_growmaps(paper_facts()), folder)
    if (folder / "README.md").exists():
        rewrite_readme(folder)
    print(f"{written} shapes written to {folder}")


if __name__ == "__main__":
    main()
