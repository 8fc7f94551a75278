"""A published table from the command line: what is asked for, what this machine has, what is shown.

Owns the order of checks, files and printing; `sequoia_core.reproduce` fills the table.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.model.loading.catalogue import catalogue

from ..config import resolve
from ..config.output_files import output_file, output_picture
from ..config.settings import Settings
from ..engine import build
from .progress import progress_line

if TYPE_CHECKING:
    from rich.table import Table

    from sequoia_core.events import Progress
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.paper_limits import Room
    from sequoia_core.reproduce.paper_run import PaperOptions, PaperRun
    from sequoia_core.reproduce.paper_table import Choice, Outcome, PaperCell

EMBEDDED = "embedded"
INTERRUPTED = 130
_FILE = "cells.jsonl"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Results:
    """Where a table goes."""

    dst: Path
    as_json: bool
    picture: Path | None


class PaperModels:
    """Which models a table is about, and how each of its pairs is loaded.

    Args:
        flags: the model options that were given.
        choice: which cells are wanted.

    Attributes:
        own: what the one pair is called that nothing is published for; None for published pairs.

    Raises:
        SequoiaError: an option cannot be used.
    """

    def __init__(self, flags: Mapping[str, Any], choice: "Choice") -> None:
        from sequoia_core.reproduce.paper_facts import paper_facts

        from ..config.load import load_settings

        named = any(name in flags for name in ("pair", "target", "draft"))
        if EMBEDDED in choice.pairs:
            if named or len(choice.pairs) > 1:
                raise ParameterError("--pairs embedded is one pair; name no other beside it")
            entry = next(entry for entry in catalogue() if entry.embedded)
            flags = {**flags, "pair": entry.name}
        elif named and choice.pairs:
            raise ParameterError("--pairs are published ones; leave them out or name no models")
        self._flags, self._facts = flags, paper_facts()
        self.settings = load_settings(flags)
        self.own = self._name() if named or EMBEDDED in choice.pairs else None

    def _name(self) -> str:
        models = resolve.chosen_models(self.settings)
        if models.target is None and models.draft is None:
            return EMBEDDED
        return f"{models.draft or 'no draft'} for {models.target or EMBEDDED}"

    def cells(self, choice: "Choice") -> "list[PaperCell]":
        """The table's.

        Raises:
            ParameterError: there is no such hardware or pair.
        """
        from sequoia_core.reproduce.paper_table import other_cells, published_cells

        if self.own is not None:
            return list(other_cells(self._facts, choice, self.own))
        return list(published_cells(self._facts, choice))

    def load(self, name: str, progress: "Progress") -> "Pair":
        """One of the table's pairs.

        Raises:
            SequoiaError: this machine cannot hold it, or it cannot be loaded.
        """
        from ..config.load import load_settings
        from .reproduce_options import offload_place

        if self.own is not None:
            return build.load_chosen(self.settings, progress)
        pair = self._facts.pairs[name]
        why = self._why_not(name)
        if why:
            raise SequoiaError(why)
        flags = {**self._flags, "target": pair.target.name, "draft": pair.draft.name}
        if pair.offload and "offload" not in flags and not self._spread():
            flags["offload"] = offload_place(flags)
        return build.load_chosen(load_settings(flags), progress)

    def _spread(self) -> bool:
        """Whether several devices hold a target's layers, which are then not streamed."""
        from sequoia_core.model.device import choose_devices

        return len(choose_devices(self.settings.device)) > 1

    def _why_not(self, name: str) -> str:
        from sequoia_core.data import TOTAL_TOKENS
        from sequoia_core.reproduce.paper_limits import why_not

        pair = self._facts.pairs[name]
        if self.settings.offload is not Offload.NONE:
            pair = replace(pair, offload=True)
        elif self._spread():
            pair = replace(pair, offload=False)
        nodes = max(setup.nodes for setup in self._facts.setups if setup.pair == name)
        return why_not(pair, room(self.settings), TOTAL_TOKENS + nodes)


def room(settings: Settings) -> "Room":
    """What this machine has for models.

    Raises:
        ParameterError: the device or dtype is unknown.
    """
    import psutil
    import torch
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    from sequoia_core.model.device import choose_devices, choose_dtype, devices_name
    from sequoia_core.reproduce.paper_limits import Room

    devices = choose_devices(settings.device)
    free = psutil.virtual_memory().available
    if devices[0].type == "cuda":
        free = sum(torch.cuda.mem_get_info(device)[0] for device in devices)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return Room(
        place=devices_name(devices),
        memory=free,
        disk=shutil.disk_usage(there).free,
        value_bytes=choose_dtype(settings.dtype, devices).itemsize,
        token=get_token() is not None,
        fetched=lambda model: isinstance(try_to_load_from_cache(model, "config.json"), str),
    )


def fill_table(
    flags: Mapping[str, Any], choice: "Choice", options: "PaperOptions", results: Results
) -> None:
    """Fill a table, print and draw it. What is done is kept, and the same command goes on.

    Raises:
        SequoiaError: an option cannot be used, or an own pair does not run at all.
    """
    from sequoia_core.data import check_source
    from sequoia_core.reproduce.paper_run import PaperRun
    from sequoia_core.reproduce.result_lines import ResultLines

    picture = output_picture(results.picture)
    file = output_file(results.dst / _FILE)
    assert file is not None
    for dataset in choice.datasets:
        check_source(dataset)
    models = PaperModels(flags, choice)
    cells = models.cells(choice)
    kept = ResultLines(file, head_of(models.settings, choice, options))
    run = PaperRun(cells, kept, models.load, options)
    outcomes = _outcomes(run)
    if models.own is not None and all(each.result is None for each in outcomes):
        raise SequoiaError(outcomes[0].skipped)
    if picture is not None:
        from sequoia_core.reproduce.paper_report import draw_paper

        draw_paper(picture, outcomes)
    if results.as_json:
        _print_json(run, choice, outcomes)
    else:
        _print(run, choice, outcomes)


def head_of(settings: Settings, choice: "Choice", options: "PaperOptions") -> dict[str, object]:
    """What every cell of a file has in common."""
    from sequoia_core.model.device import choose_devices, device_name

    return {
        "version": _VERSION,
        "hardware": choice.hardware,
        "start": options.start,
        "end": options.end,
        "top-p": options.top_p,
        "seed": options.seed,
        "growmap": choice.growmap,
        "machine": " and ".join(map(device_name, choose_devices(settings.device))),
        "dtype": settings.dtype,
        "weights": settings.weights.value,
        "offload": settings.offload.value,
    }


def _outcomes(run: "PaperRun") -> "list[Outcome]":
    outcomes: list[Outcome] = []
    try:
        with progress_line() as progress:
            for outcome in run.outcomes(progress):
                outcomes.append(outcome)
    except KeyboardInterrupt:
        typer.echo(
            f"sequoia: interrupted; {len(run.kept.results)} cells are kept in {run.kept.path}, "
            "and the same command goes on from there",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    return outcomes


def _print_json(run: "PaperRun", choice: "Choice", outcomes: "list[Outcome]") -> None:
    from sequoia_core.reproduce.paper_report import outcome_values

    values = {
        "hardware": choice.hardware,
        "file": str(run.kept.path),
        "cells": [outcome_values(outcome) for outcome in outcomes],
    }
    typer.echo(json.dumps(values))


def _print(run: "PaperRun", choice: "Choice", outcomes: "list[Outcome]") -> None:
    from rich.console import Console

    from sequoia_core.reproduce.paper_facts import paper_facts

    facts = paper_facts()
    beside = facts.hardware[choice.hardware]
    if outcomes[0].cell.pair not in facts.pairs:
        beside = f"{facts.setups_on(choice.hardware)[0].pair} on {beside}"
    Console(highlight=False).print(_table(outcomes, f"paper, {beside}"))
    measured = sum(outcome.result is not None for outcome in outcomes)
    typer.echo(
        f"{measured} of {len(outcomes)} cells measured, {len(outcomes) - measured} skipped · "
        f"rows {run.options.start} to {run.options.end} · top-p {run.options.top_p:g} · "
        f"seed {run.options.seed} · kept in {run.kept.path}"
    )
    typer.echo(
        "tokens/step: 95 % interval over prompts; speed-up: median (lowest to highest) prompt over "
        "plain decoding here; ms/token: medians"
    )


def _table(outcomes: "list[Outcome]", published: str) -> "Table":
    from rich.table import Table

    from sequoia_core.reproduce import paper_report

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("pair", "data", "T", "tree"):
        table.add_column(heading)
    table.add_column("here: tokens/step · speed-up · ms/token")
    table.add_column(published)
    for outcome in outcomes:
        cell = outcome.cell
        table.add_row(
            cell.pair,
            paper_report.data_text(cell),
            f"{cell.temperature:g}",
            paper_report.tree_text(cell, outcome.result),
            paper_report.here_text(outcome),
            paper_report.paper_text(cell.figure),
        )
    return table
