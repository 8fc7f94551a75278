"""What `sequoia doctor` looks at: machine, software, models, files, terminal.

Each check is a function from settings to findings. Prints nothing.
"""

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


class Verdict(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    WARN = "warn"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    subject: str
    detail: str


def examine(load: Callable[[], Settings]) -> Iterator[Finding]:
    """All findings; settings that cannot be loaded are one of them."""
    yield from _machine()
    yield from _software()
    try:
        settings = load()
    except SequoiaError as error:
        yield Finding(Verdict.BROKEN, "configuration", str(error))
    else:
        yield _configuration()
        models = _models(settings)
        yield models
        yield from _forward(settings, models_there=models.verdict is Verdict.OK)
    yield from _folders()
    yield from _terminal()


def _machine() -> Iterator[Finding]:
    flags = machine.fast_cpu_flags()
    fast = ", ".join(flags) or "no wide vector instructions"
    yield Finding(Verdict.OK, "processor", f"{machine.processor()} ({fast})")
    memory = psutil.virtual_memory()
    free, total = machine.size_text(memory.available), machine.size_text(memory.total)
    cores = machine.usable_cores()
    yield Finding(Verdict.OK, "cores, memory", f"{cores} cores, {total}, of which {free} free")
    for gpu in machine.gpus():
        yield Finding(Verdict.OK, "GPU", f"{gpu.place}, {machine.size_text(gpu.total)}")


def _software() -> Iterator[Finding]:
    yield Finding(Verdict.OK, "python", f"{platform.python_version()} at {sys.executable}")
    for package in _PACKAGES:
        try:
            yield Finding(Verdict.OK, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(Verdict.BROKEN, package, f"not installed; pip install {package}")


def _configuration() -> Finding:
    path = paths.config_file()
    return Finding(
        Verdict.OK, "configuration", str(path) if path.exists() else f"{path} (none yet)"
    )


def _forward(settings: Settings, *, models_there: bool) -> Iterator[Finding]:
    """Device and number format, what computes target and draft, and the memory for them."""
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
        yield Finding(Verdict.BROKEN, "device, weights", str(error))
        return
    if isinstance(known[0], Checkpoint):
        number = forward.number_format(known[0])
    else:
        number = dtype_name(forward.dtype) if forward.dtype else "as the files store them"
    yield Finding(Verdict.OK, "device, weights", f"{devices_name(placement.devices)}, {number}")
    words = forward.manner() + (f": {forward.fallback}" if forward.fallback else "")
    yield Finding(Verdict.WARN if forward.fallback else Verdict.OK, "forward", words)
    if forward.native and library.UNPROVEN in library.instruction_sets():
        name = f"{library.INSTRUCTION_SET_VARIABLE}={library.UNPROVEN}"
        yield Finding(Verdict.OK, "AMX", f"{name} takes it; no hardware has run it yet")
    if settings.offload is not Offload.NONE:
        kept = "two layers at a time are in memory"
        yield Finding(Verdict.OK, "offload", f"{settings.offload.value}: {kept}")
    if models_there:
        yield from _memory(forward, known)


def _known_models(settings: Settings) -> "list[Known | None]":
    """The target, and the draft if there is one, as far as they are known.

    Raises:
        SequoiaError: they are damaged.
    """
    from sequoia_core.model.loading.sources import (
        BUNDLED_DRAFT,
        NO_DRAFT,
        known_model,
    )

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
            return Finding(Verdict.OK, "embedded target", f"{path} ({size})")
    except SequoiaError as error:
        return Finding(Verdict.BROKEN, "models", str(error))
    return Finding(Verdict.OK, "models", f"{models.target} <- {models.draft or 'no draft'}")


def _memory(forward: "Forward", known: "list[Known | None]") -> Iterator[Finding]:
    """What the models will take, device by device."""
    from sequoia_core.model.device import free_bytes
    from sequoia_core.model.loading.planning import pair_plans

    target, draft = (*known, None)[:2]
    if target is None or None in known:
        detail = "planned at loading, when the shapes of the models are known"
        yield Finding(Verdict.OK, "memory", detail)
        return
    plans = pair_plans(target, draft, forward)
    for place, plan in plans.items():
        free = free_bytes(place)
        context, window = plan.context_in(free), plan.window
        has = f"{place} has {machine.size_text(free)} free"
        if plan.least > free:
            yield Finding(
                Verdict.WARN, "memory", f"{plan.words(window)}; {has}, which is too little"
            )
        elif context < window:
            few = f"the context will be {context:,} of {window:,} tokens"
            yield Finding(Verdict.OK, "memory", f"{plan.words(context)}; {has}, so {few}")
        else:
            yield Finding(Verdict.OK, "memory", f"{plan.words(window)}; {has}")


def _folders() -> Iterator[Finding]:
    hub = Path(os.environ.get("HF_HUB_CACHE") or _hub_home() / "hub")
    for subject, folder in (
        ("cache", paths.cache_folder()),
        ("hub cache", hub),
        ("data", paths.data_folder()),
        ("logs", paths.log_folder()),
    ):
        size = machine.size_text(_size_of(folder)) if folder.is_dir() else "none yet"
        yield Finding(Verdict.OK, subject, f"{folder} ({size})")
    if (old := paths.cache_folder() / "converted").is_dir():
        detail = f"{old} ({machine.size_text(_size_of(old))}) is not read any more; remove it"
        yield Finding(Verdict.WARN, "old conversions", detail)


def _hub_home() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("HF_HOME") or cache / "huggingface")


def _size_of(folder: Path) -> int:
    """Bytes of its files; the hub's cache links to each blob, which counts once."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def _terminal() -> Iterator[Finding]:
    columns, rows = shutil.get_terminal_size()
    size = f"{columns}x{rows}"
    if not sys.stdout.isatty():
        yield Finding(Verdict.OK, "terminal", "none; standard output is not a terminal")
        return
    small = columns < _SMALLEST_TERMINAL[0] or rows < _SMALLEST_TERMINAL[1]
    wanted = "x".join(map(str, _SMALLEST_TERMINAL))
    yield Finding(
        Verdict.WARN if small else Verdict.OK,
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
        yield Finding(Verdict.OK, "colours", found)
    else:
        hint = "COLORTERM=truecolor gives the themes their own colours"
        yield Finding(Verdict.WARN, "colours", f"{found}; {hint}")
