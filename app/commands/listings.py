"""What there is: `sequoia models`, `growmap` and `config`."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.model.loading.catalogue import PairEntry, catalogue
from sequoia_core.model.loading.memory_plan import size_text
from sequoia_core.tree.files import find_growmap, growmap_names
from sequoia_core.tree.growmap import GrowMap

from ..config.paths import config_file
from . import doctor
from .console import print_table
from .options import command_group, flag

if TYPE_CHECKING:
    from rich.tree import Tree

_DRAWN_WHOLE = 128
_DRAWN_AT_MOST, _DEEPEST_DRAWN = 10_000, 200
"""With `--all`; a node's line is as long as the node is deep."""
_LIST_WIDTH = 120  # names and shapes must not be cut off

config = command_group("config", "Show the configuration.")
growmap = command_group("growmap", "Draw and list tree shapes.")


@config.command("path")
def show_path() -> None:
    """Print the path of the configuration file, whether it exists or not."""
    typer.echo(config_file())


@config.command("show")
def show_settings() -> None:
    """Print every setting as TOML, after file and environment."""
    import tomlkit

    from ..config.load import as_toml, load_settings

    typer.echo(tomlkit.dumps(as_toml(load_settings({}))).rstrip())


def models(
    as_json: Annotated[bool, flag("--json", "Print a JSON list instead.")] = False,
) -> None:
    """List the known pairs and say which fit this machine."""
    memory = doctor.model_memory()
    values = [_values(entry, memory) for entry in catalogue()]
    if as_json:
        typer.echo(json.dumps(values, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    headings = ("pair", "target and draft", "size", "memory", "fits")
    rows = (
        (
            f"{each['name']}\n{'  gated' if each['gated'] else ''}",
            f"{each['target']}\n{each['draft']}",
            f"{_size(each['target_parameters'])}\n{_size(each['draft_parameters'])}",
            size_text(each["memory_bytes"]),
            Text("yes", "green") if each["fits"] else Text("no", "red"),
        )
        for each in values
    )
    print_table(headings, rows, right=("size", "memory"), gap=1)
    Console(highlight=False).print(
        "\nMemory: weights of both models in bfloat16 or float16, their KV caches and masks at "
        f"{catalogue()[0].context} tokens (or the smaller window), logits and activations"
        f"{', and what CUDA itself takes' if memory.on_gpu else ''}. "
        f"Here: {memory.place}, {size_text(memory.total)}.\n"
        "Choose one with --pair NAME; any two models with one tokenizer work "
        "with --target and --draft.\n"
        "Gated: accept the licence on huggingface.co first and set HF_TOKEN.",
        markup=False,
    )


def _values(entry: PairEntry, memory: doctor.Memory) -> dict[str, Any]:
    plan = entry.plan(memory.on_gpu)
    return {
        "name": entry.name,
        "target": entry.target.name,
        "draft": entry.draft.name,
        "target_parameters": entry.target.parameters,
        "draft_parameters": entry.draft.parameters,
        "context": entry.context,
        "memory_bytes": plan.needed(entry.context),
        "memory": {
            "weights": plan.weights,
            "context": plan.token * entry.context,
            "logits": plan.logits,
            "activations": plan.activations,
            "cuda": plan.runtime,
        },
        "fits": entry.fits(memory.total, memory.on_gpu),
        "gated": entry.gated,
        "embedded": entry.embedded,
    }


def _size(parameters: int) -> str:
    millions = round(parameters / 1e6)
    return f"{millions / 1e3:.1f}B" if millions >= 1000 else f"{millions}M"


@growmap.command("show")
def show_growmap(
    name: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A .json or .pt file, or a name.")
    ],
    draw_all: Annotated[
        bool, flag("--all", f"Draw trees of more than {_DRAWN_WHOLE} nodes too.")
    ] = False,
) -> None:
    """Draw a tree shape with its figures."""
    from rich.console import Console

    tree = find_growmap(name)
    console = Console(highlight=False)
    console.print(tree.name, markup=False, soft_wrap=True)
    for label, figure in _figures(tree):
        console.print(f"{label:<12}{figure}", markup=False, soft_wrap=True)
    if tree.size > _DRAWN_AT_MOST or tree.depth > _DEEPEST_DRAWN:
        console.print(f"(too large to draw: {tree.size} nodes)")
    elif tree.size <= _DRAWN_WHOLE or draw_all:
        console.print(drawing(tree))
    else:
        console.print(f"(--all draws its {tree.size} nodes)")


@growmap.command("list")
def list_growmaps() -> None:
    """List the packaged tree shapes."""
    rows = []
    for name in growmap_names():
        tree = find_growmap(name)
        rates = tree.acceptance_rates
        expected = f"{tree.expected_tokens(rates, tree.deeper_rates):.2f}" if rates else "-"
        rows.append((name, str(tree.size), str(tree.depth), expected, tree.widths()))
    headings = ("name", "nodes", "depth", "expected", "per level")
    print_table(headings, rows, right=headings[1:4], width=_LIST_WIDTH)


def _figures(tree: GrowMap) -> Iterator[tuple[str, object]]:
    yield "nodes", tree.size
    yield "depth", tree.depth
    yield "per level", tree.widths()
    yield "children", f"at most {tree.branching} per node"
    if rates := tree.acceptance_rates:
        deeper = tree.deeper_rates
        by_depth = " ".join(f"{prob:.3f}" for prob in tree.expected_by_depth(rates, deeper))
        for depth, row in enumerate((rates, *deeper), start=1):
            label = f"at depth {depth}" if deeper else "rates"
            yield label, " ".join(f"{rate:.3g}" for rate in row)
        yield "expected", f"{tree.expected_tokens(rates, deeper):.3f} tokens per pass"
        yield "reaching", f"{by_depth}  (probability of accepting 1, 2, ... drafted tokens)"
    if tree.source:
        yield "source", tree.source


def drawing(tree: GrowMap) -> "Tree":
    """Index and, if rates are known, the probability of reaching each node."""
    from rich.text import Text
    from rich.tree import Tree

    reach = tree.node_probs(tree.acceptance_rates, tree.deeper_rates)
    branches = [Tree(Text("0  root", style="bold"), guide_style="dim")]
    for node in range(1, tree.size):
        label = Text(str(node))
        label.append(f"  rank {tree.ranks[node]}", style="dim")
        if tree.acceptance_rates:
            label.append(f"  {reach[node]:.3f}", style="green")
        branches.append(branches[tree.parents[node]].add(label))
    return branches[0]
