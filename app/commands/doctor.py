"""`sequoia doctor`: machine, software, models, files and terminal, and what is wrong with them."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import typer

from sequoia_core.config import Offload
from sequoia_core.errors import SequoiaError

from ..config import paths, resolve
from ..config.settings import Settings
from . import machine

if TYPE_CHECKING:
    from sequoia_core.model.config import ModelConfig
    from sequoia_core.model.loading.forward import Forward
    from sequoia_core.model.loading.loader import Checkpoint

    Known = Checkpoint | ModelConfig

_PACKAGES = ("torch", "transformers", "textual", "rich", "safetensors", "gguf")
_SMALLEST_TERMINAL = (60, 20)


class CheckResult(StrEnum):
    """Of one check."""

    OK = "ok"
    WARN = "warn"
    BROKEN = "broken"


_MARKS = {
    CheckResult.OK: ("✔", "green"),
    CheckResult.WARN: ("!", "yellow"),
    CheckResult.BROKEN: ("✘", "bold red"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    result: CheckResult
    subject: str
    detail: str


def doctor() -> None:
    """Say what machine, software, models, files and terminal there are.

    Ends with 1 if something is broken.
    """
    from rich.console import Console
    from rich.text import Text

    from ..config.load import load_settings
    from ..state.sanitize import visible

    console = Console(highlight=False)
    broken = False
    for finding in examine(lambda: load_settings({})):
        glyph, style = _MARKS[finding.result]
        subject = (f"{finding.subject:<16} ", "bold")
        line = Text.assemble((f"{glyph} ", style), subject, visible(finding.detail))
        console.print(line, soft_wrap=True)
        broken |= finding.result is CheckResult.BROKEN
    if broken:
        raise typer.Exit(1)


def examine(load: Callable[[], Settings]) -> Iterator[Finding]:
    """All findings; settings that cannot be loaded are one of them."""
    yield from _machine()
    yield from _software()
    try:
        settings = load()
    except SequoiaError as error:
        yield Finding(CheckResult.BROKEN, "configuration", str(error))
    else:
        yield _configuration()
        models = _models(settings)
        yield models
        yield from _forward(settings, models_there=models.result is CheckResult.OK)
    yield from _folders()
    yield from _terminal()


def _machine() -> Iterator[Finding]:
    flags = machine.fast_cpu_flags()
    fast = ", ".join(flags) or "no wide vector instructions"
    yield Finding(CheckResult.OK, "processor", f"{machine.processor()} ({fast})")
    memory = psutil.virtual_memory()
    free, total = machine.size_text(memory.available), machine.size_text(memory.total)
    cores = machine.usable_cores()
    yield Finding(CheckResult.OK, "cores, memory", f"{cores} cores, {total}, of which {free} free")
    for gpu in machine.gpus():
        yield Finding(CheckResult.OK, "GPU", f"{gpu.place}, {machine.size_text(gpu.total)}")


def _software() -> Iterator[Finding]:
    yield Finding(CheckResult.OK, "python", f"{platform.python_version()} at {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Finding(CheckResult.OK, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(CheckResult.BROKEN, package, f"not installed; pip install {package}")


def _configuration() -> Finding:
    path = paths.config_file()
    return Finding(
        CheckResult.OK, "configuration", str(path) if path.exists() else f"{path} (none yet)"
    )


def _forward(settings: Settings, *, models_there: bool) -> Iterator[Finding]:
    """Device, number format, which code computes the models, and the memory for them."""
    from sequoia_core.model.device import choose_placement, devices_name, dtype_name
    from sequoia_core.model.loading.forward import choose_forward
    from sequoia_core.model.loading.loader import Checkpoint
    from sequoia_core.model.native import library

    try:
        placement = choose_placement(settings.device, settings.offload)
        known: list[Known | None] = _known_models(settings) if models_there else [None]
        opened = [each for each in known if isinstance(each, Checkpoint)]
        forward = choose_forward(settings.weights, settings.dtype, placement, opened)
    except SequoiaError as error:
        yield Finding(CheckResult.BROKEN, "device, weights", str(error))
        return
    if isinstance(known[0], Checkpoint):
        number = forward.number_format(known[0])
    else:
        number = dtype_name(forward.dtype) if forward.dtype else "as the files store them"
    yield Finding(CheckResult.OK, "device, weights", f"{devices_name(placement.devices)}, {number}")
    words = forward.backend() + (f": {forward.fallback}" if forward.fallback else "")
    yield Finding(CheckResult.WARN if forward.fallback else CheckResult.OK, "forward", words)
    if forward.native and library.UNPROVEN in library.instruction_sets():
        name = f"{library.INSTRUCTION_SET_VARIABLE}={library.UNPROVEN}"
        yield Finding(CheckResult.OK, "AMX", f"{name} takes it; no hardware has run it yet")
    if settings.offload is not Offload.NONE:
        kept = "two layers at a time are in memory"
        yield Finding(CheckResult.OK, "offload", f"{settings.offload.value}: {kept}")
    if models_there:
        yield from _memory(forward, known)


def _known_models(settings: Settings) -> "list[Known | None]":
    """The target, and the draft if there is one; None if nothing is known before a download.

    Raises:
        SequoiaError: they are damaged.
    """
    from sequoia_core.model.loading.sources import BUNDLED_DRAFT, NO_DRAFT, known_model

    models = resolve.chosen_models(settings)
    draft = models.draft or (str(BUNDLED_DRAFT) if models.target is None else NO_DRAFT)
    return [known_model(each) for each in (models.target, *([draft] * (draft != NO_DRAFT)))]


def _models(settings: Settings) -> Finding:
    from sequoia_core.model.loading.sources import embedded_target_path

    try:
        models = resolve.chosen_models(settings)
        resolve.tree_choice(settings)
        if models.target is None:
            path = embedded_target_path()
            size = machine.size_text(path.stat().st_size)
            return Finding(CheckResult.OK, "embedded target", f"{path} ({size})")
    except SequoiaError as error:
        return Finding(CheckResult.BROKEN, "models", str(error))
    return Finding(CheckResult.OK, "models", f"{models.target} <- {models.draft or 'no draft'}")


def _memory(forward: "Forward", known: "list[Known | None]") -> Iterator[Finding]:
    """Memory of the models, device by device."""
    from sequoia_core.model.device import free_bytes
    from sequoia_core.model.loading.planning import pair_plans

    target, draft = (*known, None)[:2]
    if target is None or None in known:
        detail = "planned at loading, when the shapes of the models are known"
        yield Finding(CheckResult.OK, "memory", detail)
        return
    plans = pair_plans(target, draft, forward)
    for place, plan in plans.items():
        free = free_bytes(place)
        context, window = plan.context_in(free), plan.window
        has = f"{place} has {machine.size_text(free)} free"
        if plan.least > free:
            yield Finding(
                CheckResult.WARN, "memory", f"{plan.words(window)}; {has}, which is too little"
            )
        elif context < window:
            few = f"the context will be {context:,} of {window:,} tokens"
            yield Finding(CheckResult.OK, "memory", f"{plan.words(context)}; {has}, so {few}")
        else:
            yield Finding(CheckResult.OK, "memory", f"{plan.words(window)}; {has}")


def _folders() -> Iterator[Finding]:
    hub = Path(os.environ.get("HF_HUB_CACHE") or _hub_home() / "hub")
    for subject, folder in (
        ("cache", paths.cache_folder()),
        ("hub cache", hub),
        ("data", paths.data_folder()),
        ("logs", paths.log_folder()),
    ):
        size = machine.size_text(_size_of(folder)) if folder.is_dir() else "none yet"
        yield Finding(CheckResult.OK, subject, f"{folder} ({size})")
    if (old := paths.cache_folder() / "converted").is_dir():
        detail = f"{old} ({machine.size_text(_size_of(old))}) is not read any more; remove it"
        yield Finding(CheckResult.WARN, "old conversions", detail)


def _hub_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface")


def _size_of(folder: Path) -> int:
    """Bytes of its files, without links; the hub's cache links to each file."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def _terminal() -> Iterator[Finding]:
    columns, rows = shutil.get_terminal_size()
    size = f"{columns}x{rows}"
    if not sys.stdout.isatty():
        yield Finding(CheckResult.OK, "terminal", "none; standard output is not a terminal")
        return
    small = columns < _SMALLEST_TERMINAL[0] or rows < _SMALLEST_TERMINAL[1]
    wanted = "x".join(map(str, _SMALLEST_TERMINAL))
    yield Finding(
        CheckResult.WARN if small else CheckResult.OK,
        "terminal",
        f"{size}; the screen wants {wanted}" if small else size,
    )
    true_color = os.environ.get("COLORTERM") in {"truecolor", "24bit"}
    shown = [
        f"{name}={os.environ[name]}"
        for name in ("TERM", "COLORTERM", "NO_COLOR", "TMUX", "SSH_TTY")
        if os.environ.get(name)
    ]
    found = " ".join(shown) or "TERM unset"
    if true_color:
        yield Finding(CheckResult.OK, "colours", found)
    else:
        hint = "COLORTERM=truecolor gives the themes their own colours"
        yield Finding(CheckResult.WARN, "colours", f"{found}; {hint}")
