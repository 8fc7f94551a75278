"""`sequoia reproduce predict-offload`: the times of the offloading table, from bandwidths."""

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from sequoia_core.errors import ParameterError
from sequoia_core.reproduce.paper_facts import Hardware, paper_facts, tree_name

from .console import print_table, progress_line
from .experiment import AsJson
from .options import flag

_PANEL = "Instead of the data sheet's peaks"
_DATASET, _TEMPERATURE = "mt-bench", 0.0  # what is published with offloading
_NOTE = (
    "predicted, not measured: no GPU ran. Times follow from the peaks of {sheets}; sampling, "
    "verification and launches are left out. Tokens per pass are those that the tree was fitted to."
)


def predict_offload(
    hardware: Annotated[
        Literal["a100", "l40"] | None, flag("--hardware", "One of the GPUs; default: both.")
    ] = None,
    pairs: Annotated[
        list[str] | None,
        flag("--pairs", "A pair of the table; may be repeated; default: 7b-70b.", None, "NAME"),
    ] = None,
    growmap: Annotated[
        str | None, flag("--growmap", "Tree shape; default: the pair's own.", None, "FILE|NAME")
    ] = None,
    context: Annotated[int, flag("--context", "Tokens in the caches.", min=1)] = 256,
    memory: Annotated[
        float | None, flag("--memory", "Free memory of the GPU.", _PANEL, "GIB", min=1)
    ] = None,
    bandwidth: Annotated[
        float | None, flag("--bandwidth", "Of the GPU's memory.", _PANEL, "GB/S", min=1)
    ] = None,
    link: Annotated[
        float | None, flag("--link", "From main memory to the GPU.", _PANEL, "GB/S", min=0.1)
    ] = None,
    tflops: Annotated[
        float | None, flag("--tflops", "Of products in 16 bits.", _PANEL, "NUMBER", min=0.1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the published offloading times for a GPU, with models that have shapes only.

    Which layers stay on the GPU, what is copied in each pass, and how long a step takes at best.
    """
    facts = paper_facts()
    offloaded = [name for name, pair in facts.pairs.items() if pair.offload]
    for name in pairs or ():
        if name not in offloaded:
            raise ParameterError(f"pair {name!r}: with offloading there are {', '.join(offloaded)}")
    from sequoia_core.reproduce.offload_prediction import PROMPT, as_values, predict, table
    from sequoia_core.tree.files import find_growmap

    given = {
        "memory_gib": memory, "memory_gbs": bandwidth, "link_gbs": link, "tflops": tflops,
    }  # fmt: skip
    measured: dict[str, Any] = {name: each for name, each in given.items() if each is not None}
    found = []
    with progress_line() as progress:
        for short in [hardware] if hardware else ["l40", "a100"]:
            machine: Hardware = replace(facts.hardware[short], **measured)
            setups = {setup.pair: setup for setup in facts.setups_on(short)}
            for name in pairs or offloaded[:1]:
                progress(f"{name} on the {machine.title}", None)
                # the trees are those of the L40, where offloading was published
                tree = find_growmap(growmap or tree_name("l40", name, _DATASET, _TEMPERATURE))
                figure = facts.figure(short, name, _DATASET, _TEMPERATURE)
                published = setups.get(name), figure
                found.append(predict(facts.pairs[name], machine, tree, context, published))
    if as_json:
        typer.echo(json.dumps([as_values(each) for each in found]))
        return
    shown = table(found)
    print_table(shown.headings, shown.rows, right=shown.headings[4:], width=150)
    for each in found:
        typer.echo(
            f"{each.pair} on the {each.machine.title}: {each.locked / 1e9:.1f} GB of main memory, "
            f"a prompt of {PROMPT:,} tokens predicted to take {each.prompt_ms / 1e3:.1f} s"
        )
    sheets = "; ".join(dict.fromkeys(_peaks(each.machine) for each in found))
    typer.echo(_NOTE.format(sheets=sheets))


def _peaks(machine: Hardware) -> str:
    return (
        f"the {machine.title} ({machine.memory_gib:g} GiB, {machine.memory_gbs:g} GB/s, link "
        f"{machine.link_gbs:g} GB/s, {machine.tflops:g} TFLOP/s)"
    )
