"""`sequoia reproduce paper`: the published tables, filled in on this machine."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from sequoia_core.config import Offload
from sequoia_core.data.passages import TOTAL_TOKENS, check_source
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.reproduce.experiment import Experiment, ResultFile
from sequoia_core.reproduce.paper_facts import (
    PaperChoice,
    Room,
    other_cells,
    paper_facts,
    published_cells,
    why_not,
)

from ..config import model_choice
from ..config.paths import output_file
from ..config.settings import Settings
from .experiment import ExperimentOptions, experiment_command, offload_place
from .options import flag

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.paper import PaperPlan

EMBEDDED = "embedded"
_VERSION = 1
_PAIRS = "A pair of the table, for instance 68m-7b, or `embedded`; may be repeated."
_DATASETS = "Instead of the table's: a name, or a file or folder; may be repeated."
_FOLDER = "Where results are kept; default: paper-HARDWARE."


@experiment_command("start", "end", "top_p", "growmap", "cache_length", top_p=1.0)
def paper(
    options: ExperimentOptions,
    _progress: Progress,
    hardware: Annotated[
        Literal["a100", "l40"], flag("--hardware", "Whose table, trees and figures.")
    ],
    pairs: Annotated[list[str] | None, flag("--pairs", _PAIRS, None, "NAME")] = None,
    datasets: Annotated[list[str] | None, flag("--dataset", _DATASETS, None, "NAME|PATH")] = None,
    folder: Annotated[Path | None, flag("--dst", _FOLDER, None, "FOLDER")] = None,
) -> Experiment:
    """Run a whole published table: pairs, data sets and temperatures 0 and 0.6.

    With the tree and plainly, next to the paper's figures. What this machine cannot hold is skipped
    with the reason. Each cell is kept when it is done, and the same command continues from there.
    With --pairs embedded, or --target and --model, the same table for that pair.
    """
    from sequoia_core.reproduce.paper import CellRow, PaperExperiment, PaperPlan

    from ..config.load import load_settings

    flags = options.flags
    choice = PaperChoice(hardware, tuple(pairs or ()), tuple(datasets or ()), options.growmap)
    plan = PaperPlan(options.start, options.end, options.top_p, options.seed, options.cache_length)
    file = output_file((folder or Path(f"paper-{hardware}")) / "cells.jsonl")
    assert file is not None
    for dataset in choice.datasets:
        check_source(dataset)
    own = _is_own_pair(flags, choice.pairs)
    if EMBEDDED in choice.pairs:
        flags["pair"] = EMBEDDED
    settings = load_settings(flags)
    if own:
        cells = other_cells(paper_facts(), choice, _pair_name(settings))
    else:
        cells = published_cells(paper_facts(), choice)

    def load(name: str, progress: Progress) -> "Pair":
        return model_choice.load_chosen(settings if own else published_pair(name, flags), progress)

    kept = ResultFile(file, head_of(settings, choice, plan), CellRow)
    return PaperExperiment(list(cells), kept, load, plan, hardware)


def _is_own_pair(flags: dict[str, Any], pairs: tuple[str, ...]) -> bool:
    """Whether the table is for one pair that nothing is published for."""
    named = any(name in flags for name in ("pair", "target", "draft"))
    embedded = EMBEDDED in pairs
    if embedded and (named or len(pairs) > 1):
        raise ParameterError("--pairs embedded is one pair; name no other with it")
    if named and pairs:
        raise ParameterError("--pairs are published ones; leave them out or name no models")
    return named or embedded


def _pair_name(settings: Settings) -> str:
    models = model_choice.chosen_models(settings)
    if models.target is None and models.draft is None:
        return EMBEDDED
    return f"{models.draft or 'no draft'} for {models.target or EMBEDDED}"


def published_pair(name: str, flags: dict[str, Any]) -> Settings:
    """The settings for one of the table's pairs; raises SequoiaError if it does not fit here."""
    from sequoia_core.model.device import choose_devices

    from ..config.load import load_settings

    pair = paper_facts().pairs[name]
    flags = {**flags, "target": pair.target.name, "draft": pair.draft.name}
    settings = load_settings(flags)
    streamed = settings.offload is not Offload.NONE
    # layers that lie on several devices are not streamed
    one = len(choose_devices(settings.device)) == settings.tensor_parallel == 1
    if pair.offload and one:
        streamed = True
        settings = load_settings({"offload": offload_place(flags), **flags})
    nodes = max(setup.nodes for setup in paper_facts().setups if setup.pair == name)
    needed = replace(pair, offload=streamed)
    if why := why_not(needed, room(settings), TOTAL_TOKENS + nodes):
        raise SequoiaError(why)
    return settings


def room(settings: Settings) -> Room:
    """What this machine has for models."""
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    from sequoia_core.model.device import choose_devices, choose_dtype, devices_name, free_bytes

    devices = choose_devices(settings.device)
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return Room(
        place=devices_name(devices),
        memory=sum(map(free_bytes, set(devices))),
        disk=shutil.disk_usage(there).free,
        value_bytes=choose_dtype(settings.dtype, devices).itemsize,
        token=get_token() is not None,
        fetched=lambda model: isinstance(try_to_load_from_cache(model, "config.json"), str),
    )


def head_of(settings: Settings, choice: PaperChoice, plan: "PaperPlan") -> dict[str, object]:
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
        "quantize": settings.quantize.value,
    }
