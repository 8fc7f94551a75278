"""`sequoia growmap`: draw and list tree shapes."""

from typing import TYPE_CHECKING, Annotated

import typer

from sequoia_core.tree.files import find_growmap, growmap_names
from sequoia_core.tree.growmap import GrowMap

from .group import CommandGroup

if TYPE_CHECKING:
    from rich.tree import Tree

_DRAWN_WHOLE = 128
_DRAWN_AT_MOST, _DEEPEST_DRAWN = 10_000, 200
"""With `--all`; a node's line is as long as the node is deep."""
_LIST_WIDTH = 120  # names and shapes must not be cut off

growmap_app = typer.Typer(cls=CommandGroup, help="Draw and list tree shapes.", no_args_is_help=True)


@growmap_app.command("show")
def show(
    name: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A .json or .pt file, or a name.")
    ],
    draw_all: Annotated[
        bool, typer.Option("--all", help=f"Draw trees of more than {_DRAWN_WHOLE} nodes too.")
    ] = False,
) -> None:
    """Draw a tree shape with its figures."""
    growmap = find_growmap(name)
    from rich.console import Console

    console = Console(highlight=False)
    for line in summary(growmap):
        console.print(line, markup=False, soft_wrap=True)
    if growmap.size > _DRAWN_AT_MOST or growmap.depth > _DEEPEST_DRAWN:
        console.print(f"(too large to draw: {growmap.size} nodes)", markup=False)
    elif growmap.size <= _DRAWN_WHOLE or draw_all:
        console.print(drawing(growmap))
    else:
        console.print(f"(--all draws its {growmap.size} nodes)", markup=False)


@growmap_app.command("list")
def list_names() -> None:
    """List the packaged tree shapes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "nodes", "depth", "expected", "per level"):
        right = heading in {"nodes", "depth", "expected"}
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for name in growmap_names():
        tree = find_growmap(name)
        rates = tree.acceptance_rates
        expected = f"{tree.expected_tokens(rates):.2f}" if rates else "-"
        table.add_row(name, str(tree.size), str(tree.depth), expected, tree.widths())
    console = Console(highlight=False)
    console.width = max(console.width, _LIST_WIDTH)
    console.print(table)


def summary(growmap: GrowMap) -> list[str]:
    """The figures, one per line."""
    lines = [
        growmap.name,
        f"nodes       {growmap.size}",
        f"depth       {growmap.depth}",
        f"per level   {growmap.widths()}",
        f"children    at most {growmap.branching} per node",
    ]
    if growmap.acceptance_rates:
        rates = growmap.acceptance_rates
        by_depth = " ".join(f"{prob:.3f}" for prob in growmap.expected_by_depth(rates))
        lines += [
            f"rates       {' '.join(f'{rate:.3g}' for rate in rates)}",
            f"expected    {growmap.expected_tokens(rates):.3f} tokens per step",
            f"reaching    {by_depth}  (probability of accepting 1, 2, ... drafted tokens)",
        ]
    if growmap.source:
        lines.append(f"source      {growmap.source}")
    return lines


def drawing(growmap: GrowMap) -> "Tree":
    """The tree: index and, if rates are known, the probability of reaching each node."""
    from rich.text import Text
    from rich.tree import Tree

    reach = growmap.node_probs(growmap.acceptance_rates)
    branches = [Tree(Text("0  root", style="bold"), guide_style="dim")]
    for node in range(1, growmap.size):
        label = Text(str(node))
        label.append(f"  rank {growmap.ranks[node]}", style="dim")
        if growmap.acceptance_rates:
            label.append(f"  {reach[node]:.3f}", style="green")
        branches.append(branches[growmap.parents[node]].add(label))
    return branches[0]
