"""`sequoia reproduce paper`: the published tables, filled in on this machine."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.model.loading.catalogue import catalogue

from ..config import resolve
from ..config.output_files import output_file
from ..config.settings import Settings
from ..engine import build
from .experiment import (
    ExperimentOptions,
    experiment_command,
    flag,
    offload_place,
    run_experiment,
)

if TYPE_CHECKING:
    from sequoia_core.events import Progress
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.paper import PaperExperiment, PaperPlan
    from sequoia_core.reproduce.paper_cells import PaperCell, PaperChoice
    from sequoia_core.reproduce.paper_limits import Room

EMBEDDED = "embedded"
_FILE = "cells.jsonl"
_VERSION = 1


class Hardware(StrEnum):
    """What tables are published for."""

    A100 = "a100"
    L40 = "l40"


@experiment_command("start", "end", "top_p", "growmap", "cache_length", top_p=1.0)
def paper(
    flags: dict[str, Any],
    options: ExperimentOptions,
    hardware: Annotated[Hardware, flag("--hardware", "Whose table, trees and figures.")],
    pairs: Annotated[
        list[str] | None,
        flag(
            "--pairs",
            "A pair of the table, for instance 68m-7b, or `embedded`; may be repeated.",
            metavar="NAME",
        ),
    ] = None,
    datasets: Annotated[
        list[str] | None,
        flag(
            "--dataset",
            "Instead of the table's: a name, or a file or folder; may be repeated.",
            metavar="NAME|PATH",
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        flag("--dst", "Where results are kept; default: paper-HARDWARE.", metavar="FOLDER"),
    ] = None,
) -> None:
    """Run a whole published table: pairs, data sets and temperatures 0 and 0.6.

    With the tree and plainly, next to the paper's figures. What this machine cannot hold is skipped
    with the reason. Each cell is kept when it is done, and the same command continues from there.
    With --pairs embedded, or --target and --model, the same table for that pair.
    """

    def prepare(_progress: "Progress") -> "PaperExperiment":
        from sequoia_core.data import check_source
        from sequoia_core.reproduce.experiment import ResultFile
        from sequoia_core.reproduce.paper import CellRow, PaperExperiment, PaperPlan
        from sequoia_core.reproduce.paper_cells import PaperChoice

        choice = PaperChoice(
            hardware.value, tuple(pairs or ()), tuple(datasets or ()), options.growmap
        )
        plan = PaperPlan(
            options.start, options.end, options.top_p, options.seed, options.cache_length
        )
        file = output_file((folder or Path(f"paper-{hardware.value}")) / _FILE)
        assert file is not None
        for dataset in choice.datasets:
            check_source(dataset)
        models = PaperModels(flags, choice)
        cells = models.cells(choice)
        kept = ResultFile(file, head_of(models.settings, choice, plan), CellRow)
        return PaperExperiment(cells, kept, models.load, plan, choice.hardware)

    run_experiment(prepare, options)


class PaperModels:
    """Which models a table is about, and how each of its pairs is loaded.

    Args:
        flags: the model options that were given.
        choice: which cells are wanted.

    Attributes:
        settings: of the models.
        own: the name of the one pair that nothing is published for; None for published pairs.

    Raises:
        SequoiaError: an option cannot be used.
    """

    def __init__(self, flags: Mapping[str, Any], choice: "PaperChoice") -> None:
        from sequoia_core.reproduce.paper_facts import paper_facts

        from ..config.load import load_settings

        named = any(name in flags for name in ("pair", "target", "draft"))
        embedded = EMBEDDED in choice.pairs
        if embedded and (named or len(choice.pairs) > 1):
            raise ParameterError("--pairs embedded is one pair; name no other with it")
        if named and choice.pairs:
            raise ParameterError("--pairs are published ones; leave them out or name no models")
        if embedded:
            entry = next(entry for entry in catalogue() if entry.embedded)
            flags = {**flags, "pair": entry.name}
        self._flags, self._facts = flags, paper_facts()
        self.settings = load_settings(flags)
        self.own = self._name() if named or embedded else None

    def _name(self) -> str:
        models = resolve.chosen_models(self.settings)
        if models.target is None and models.draft is None:
            return EMBEDDED
        return f"{models.draft or 'no draft'} for {models.target or EMBEDDED}"

    def cells(self, choice: "PaperChoice") -> "list[PaperCell]":
        """The table's.

        Raises:
            ParameterError: there is no such pair.
        """
        from sequoia_core.reproduce.paper_cells import other_cells, published_cells

        if self.own is not None:
            return list(other_cells(self._facts, choice, self.own))
        return list(published_cells(self._facts, choice))

    def load(self, name: str, progress: "Progress") -> "Pair":
        """One of the table's pairs.

        Raises:
            SequoiaError: this machine cannot hold it, or it cannot be loaded.
        """
        from sequoia_core.data import TOTAL_TOKENS
        from sequoia_core.model.device import choose_devices
        from sequoia_core.reproduce.paper_limits import why_not

        from ..config.load import load_settings

        if self.own is not None:
            return build.load_chosen(self.settings, progress)
        pair = self._facts.pairs[name]
        # layers that are spread over several devices are not streamed
        streamed = pair.offload and len(choose_devices(self.settings.device)) == 1
        flags = {**self._flags, "target": pair.target.name, "draft": pair.draft.name}
        if streamed and "offload" not in flags:
            flags["offload"] = offload_place(flags)
        streamed = streamed or self.settings.offload is not Offload.NONE
        nodes = max(setup.nodes for setup in self._facts.setups if setup.pair == name)
        tokens = TOTAL_TOKENS + nodes
        if why := why_not(replace(pair, offload=streamed), room(self.settings), tokens):
            raise SequoiaError(why)
        return build.load_chosen(load_settings(flags), progress)


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


def head_of(settings: Settings, choice: "PaperChoice", plan: "PaperPlan") -> dict[str, object]:
    """What every cell of a result file has in common."""
    from sequoia_core.model.device import choose_devices, device_name

    return {
        "version": _VERSION,
        "hardware": choice.hardware,
        "start": plan.start,
        "end": plan.end,
        "top-p": plan.top_p,
        "seed": plan.seed,
        "growmap": choice.growmap,
        "machine": " and ".join(map(device_name, choose_devices(settings.device))),
        "dtype": settings.dtype,
        "weights": settings.weights.value,
        "offload": settings.offload.value,
    }
