"""`sequoia models`: the catalogue of pairs, and which of them fit this machine."""

import json
from typing import Annotated, Any

import typer

from sequoia_core.model.loading.catalogue import ModelShape, PairEntry, catalogue

from .machine import Memory, model_memory, size_text


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
) -> None:
    """List the known pairs and say which fit this machine."""
    memory = model_memory()
    if as_json:
        entries = [_as_dict(entry, memory) for entry in catalogue()]
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in ("pair", "target and draft", "size", "memory", "fits", "access"):
        table.add_column(heading, justify="right" if heading in {"size", "memory"} else "left")
    for entry in catalogue():
        fits = "[green]yes[/]" if entry.fits(memory.total, memory.on_gpu) else "[red]no[/]"
        needed = entry.plan(memory.on_gpu).needed(entry.context)
        names = f"{entry.target.name}\n{entry.draft.name}"
        counts = f"{_short(entry.target)}\n{_short(entry.draft)}"
        access = "gated" if entry.gated else "open"
        table.add_row(entry.name, names, counts, size_text(needed), fits, access)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"\nMemory: weights of both models in bfloat16 or float16, their KV caches and masks at "
        f"{catalogue()[0].context} tokens (or the smaller window), logits and activations"
        f"{', and what CUDA itself takes' if memory.on_gpu else ''}. "
        f"Here: {memory.place}, {size_text(memory.total)}.\n"
        "Choose one with --pair NAME; any two Llama-family models with one tokenizer work "
        "with --target and --draft.\n"
        "Gated: accept the licence on huggingface.co first and set HF_TOKEN.",
        markup=False,
    )


def _short(model: ModelShape) -> str:
    billions = model.parameters / 1e9
    return f"{billions:.1f}B" if billions >= 1 else f"{1e3 * billions:.0f}M"


def _as_dict(entry: PairEntry, memory: Memory) -> dict[str, Any]:
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
