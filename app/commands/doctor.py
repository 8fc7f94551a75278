"""`sequoia doctor`: machine, software, models, files and terminal, and what is wrong with them."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import psutil
import typer

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.measure.gpu_day import BUDGET, FOLDER
from sequoia_core.model.cpu import cpu_info
from sequoia_core.model.loading.memory_plan import size_text

from ..config import model_choice, paths
from ..config.interrupts import INTERRUPTS
from ..config.settings import Settings
from .options import flag

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.loading.backend import Backend
    from sequoia_core.model.loading.loader import Checkpoint

    Known = Checkpoint | ModelConfig

_GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
_FAST_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd")
"""Instruction sets that decide the speed, best first."""
_PACKAGES = ("torch", "transformers", "textual", "rich", "safetensors", "gguf")
_SMALLEST_TERMINAL = (60, 20)
OK, WARN, BROKEN = "✔", "!", "✘"
_STYLES = {OK: "green", WARN: "yellow", BROKEN: "bold red"}


class Memory(NamedTuple):
    """A place for a pair, and its size in bytes."""

    place: str
    total: int
    on_gpu: bool = True


def processor() -> str:
    """Name and fast instruction sets of the processor, and cores that this process may run on."""
    flags = set(cpu_info("(?:flags|Features)").split())
    fast = ", ".join(flag for flag in _FAST_FLAGS if flag in flags) or "no vector extensions known"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_info('model name') or 'unknown'}, {cores or 1} cores ({fast})"


def gpus() -> list[Memory]:
    """Every GPU that PyTorch sees. PyTorch is imported only if there is a driver."""
    if not any(driver.exists() for driver in _GPU_DRIVERS):
        return []
    import torch

    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [Memory(properties.name, properties.total_memory) for properties in found]


def model_memory() -> Memory:
    """The first GPU's memory, or RAM without one."""
    return next(iter(gpus()), Memory("RAM", psutil.virtual_memory().total, on_gpu=False))


class Finding(NamedTuple):
    """One line of the report."""

    subject: str
    detail: str
    mark: str = OK


def doctor(
    gpu: Annotated[
        bool, flag("--gpu", "Measure the GPU instead: minutes, no network, no models needed.")
    ] = False,
    device: Annotated[
        str | None, flag("--device", "With --gpu: cuda, cuda:N, or cpu, where models are tiny.")
    ] = None,
    budget: Annotated[
        float | None, flag("--budget", f"With --gpu: seconds for everything ({BUDGET:g}).")
    ] = None,
    to: Annotated[
        Path | None, flag("--to", f"With --gpu: folder of the report ({FOLDER}).")
    ] = None,
) -> None:
    """Say what machine, software, models, files and terminal there are.

    Ends with 1 if something is broken.
    """
    if gpu:
        seconds = BUDGET if budget is None else budget
        _measure_gpu(device or "cuda", seconds, to or Path(FOLDER))
        return
    if any(each is not None for each in (device, budget, to)):
        raise ParameterError("--device, --budget and --to belong to --gpu; give it, too")
    from rich.console import Console
    from rich.text import Text

    from ..state.sanitize import visible

    console = Console(highlight=False)
    broken = False
    for subject, detail, mark in examine({}):
        begin = (f"{mark} ", _STYLES[mark]), (f"{subject:<16} ", "bold")
        console.print(Text.assemble(*begin, visible(detail)), soft_wrap=True)
        broken |= mark == BROKEN
    if broken:
        raise typer.Exit(1)


def _measure_gpu(device: str, budget: float, folder: Path) -> None:
    from sequoia_core.measure.gpu_day.run import run_day
    from sequoia_core.model.device import choose_device

    INTERRUPTS.check()
    report = run_day(choose_device(device), folder, budget=budget, say=typer.echo)
    typer.echo(f"kept in {report.path}")
    if report.broken:
        raise typer.Exit(1)


def examine(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """All findings; settings that cannot be loaded are one of them."""
    from ..config.load import load_settings

    yield from _machine()
    try:
        settings = load_settings(flags)
    except SequoiaError as error:
        yield Finding("configuration", str(error), BROKEN)
    else:
        path = paths.config_file()
        yield Finding("configuration", str(path) if path.exists() else f"{path} (none yet)")
        models = _models(settings)
        yield models
        yield from _forward(settings, models_there=models.mark == OK)
    yield from _folders()
    yield from _terminal()


def _machine() -> Iterator[Finding]:
    yield Finding("processor", processor())
    memory = psutil.virtual_memory()
    free = size_text(memory.available)
    yield Finding("RAM", f"{size_text(memory.total)}, of which {free} free")
    for gpu in gpus():
        yield Finding("GPU", f"{gpu.place}, {size_text(gpu.total)}")
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Finding(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, f"not installed; pip install {package}", BROKEN)


def _models(settings: Settings) -> Finding:
    from sequoia_core.model.loading.loader import embedded_target_path

    try:
        models = model_choice.chosen_models(settings)
        model_choice.tree_choice(settings)
        if models.target is None:
            path = embedded_target_path()
            return Finding("embedded target", f"{path} ({size_text(path.stat().st_size)})")
    except SequoiaError as error:
        return Finding("models", str(error), BROKEN)
    return Finding("models", f"{models.target} <- {models.draft or 'no draft'}")


def _forward(settings: Settings, *, models_there: bool) -> Iterator[Finding]:
    """Device, number format, which code computes the models, and the memory for them."""
    from sequoia_core.model.device import choose_placement, dtype_name
    from sequoia_core.model.loading.backend import (
        choose_backend,
        config_of,
        no_graphs,
        uses_graphs,
    )
    from sequoia_core.model.loading.catalogue import NO_DRAFT
    from sequoia_core.model.loading.device_map import placed
    from sequoia_core.model.loading.loader import BUNDLED_DRAFT, Checkpoint, known_model
    from sequoia_core.model.loading.local_models import limited
    from sequoia_core.model.loading.quantisation import with_quantisation
    from sequoia_core.model.native import library

    try:
        placement = choose_placement(settings.device, settings.offload, settings.tensor_parallel)
        known: list[Known | None] = [None]
        if models_there:
            models = model_choice.chosen_models(settings)
            draft = models.draft or (str(BUNDLED_DRAFT) if models.target is None else NO_DRAFT)
            drafts = [] if draft == NO_DRAFT else [draft]
            known = [known_model(each) for each in (models.target, *drafts)]
            if known[0] is not None:
                known[0] = limited(known[0], settings.context_window)
        backend = choose_backend(settings.weights, settings.dtype, placement, known)
        if known[0] is not None and None not in known:
            backend = placed(backend, settings.device, known[0], (*known, None)[1])
            placement = backend.placement
        backend = replace(backend, graphs=uses_graphs(settings.graphs, placement))
        backend = with_quantisation(backend, settings.quantize, settings.dtype, known)
    except SequoiaError as error:
        yield Finding("device, weights", str(error), BROKEN)
        return
    number = dtype_name(backend.dtype) if backend.dtype else "as the files store them"
    if isinstance(known[0], Checkpoint):
        number = backend.number_format(known[0])
    yield Finding("device, weights", f"{placement.name}, {number}")
    words = backend.name() + (f": {backend.fallback}" if backend.fallback else "")
    yield Finding("forward", words, WARN if backend.fallback else OK)
    if known[0] is not None and (warning := backend.warning(config_of(known[0]))):
        yield Finding("number format", warning, WARN)
    if backend.chosen:
        yield Finding("fewer bits", backend.chosen)
    if backend.native and library.UNPROVEN in library.instruction_sets():
        name = f"{library.INSTRUCTION_SET_VARIABLE}={library.UNPROVEN}"
        yield Finding("AMX", f"{name} takes it; no hardware has run it yet")
    why = no_graphs(placement) or "--graphs is off"
    graphs = "recorded, and dropped where memory is short" if backend.graphs else f"none: {why}"
    yield Finding("CUDA graphs", graphs)
    if placement.offload is not Offload.NONE:
        where = placement.offload.value
        yield Finding("offload", f"{where}: layers come two at a time, but those that fit on a GPU")
    if models_there:
        yield from _memory(backend, known)


def _memory(backend: "Backend", known: "list[Known | None]") -> Iterator[Finding]:
    """Memory of the models, device by device."""
    from sequoia_core.model.device import free_bytes
    from sequoia_core.model.loading.backend import pair_plans

    target, draft = (*known, None)[:2]
    if target is None or None in known:
        yield Finding("memory", "planned at loading, when the shapes of the models are known")
        return
    for place, plan in pair_plans(target, draft, backend).items():
        free = free_bytes(place)
        context, end, mark = plan.context_in(free), "", OK
        if plan.least > free:
            context, end, mark = plan.window, ", which is too little", WARN
        elif context < plan.window:
            end = f", so the context will be {context:,} of {plan.window:,} tokens"
        detail = f"{plan.words(context)}; {place} has {size_text(free)} free{end}"
        yield Finding("memory", detail, mark)


def _folders() -> Iterator[Finding]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    hub_home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    for subject, folder in {
        "cache": paths.cache_folder(),
        "hub cache": Path(os.environ.get("HF_HUB_CACHE") or hub_home / "hub"),
        "data": paths.data_folder(),
        "logs": paths.log_folder(),
    }.items():
        yield Finding(subject, f"{folder} ({_size(folder) if folder.is_dir() else 'none yet'})")
    if (old := paths.cache_folder() / "converted").is_dir():
        detail = f"{old} ({_size(old)}) is not read any more; remove it"
        yield Finding("old conversions", detail, WARN)


def _size(folder: Path) -> str:
    """Of its files, without links; the hub's cache links to each file."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return size_text(sum(path.stat().st_size for path in files))


def _terminal() -> Iterator[Finding]:
    if not sys.stdout.isatty():
        yield Finding("terminal", "none; standard output is not a terminal")
        return
    size, (columns, rows) = shutil.get_terminal_size(), _SMALLEST_TERMINAL
    shown, mark = f"{size.columns}x{size.lines}", OK
    if size.columns < columns or size.lines < rows:
        shown, mark = f"{shown}; the screen wants {columns}x{rows}", WARN
    yield Finding("terminal", shown, mark)
    names = ("TERM", "COLORTERM", "NO_COLOR", "TMUX", "SSH_TTY")
    found = " ".join(f"{name}={os.environ[name]}" for name in names if os.environ.get(name))
    if os.environ.get("COLORTERM") in {"truecolor", "24bit"}:
        yield Finding("colours", found)
    else:
        hint = "COLORTERM=truecolor gives the themes their own colours"
        yield Finding("colours", f"{found or 'TERM unset'}; {hint}", WARN)
