"""`sequoia distill`: make a draft for a target from text that the target writes itself."""

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import resolve
from .console import INTERRUPTED
from .options import set_parameters, with_only

if TYPE_CHECKING:
    from sequoia_core.distill.progress import DistillStatus

LINES_PER_STAGE = 10


class Kind(StrEnum):
    """What a draft reads."""

    CONDITIONED = "conditioned"
    INDEPENDENT = "independent"


class Loss(StrEnum):
    """What training makes small."""

    KL = "kl"
    TV = "tv"
    MIX = "mix"


def _option(kind: Any, text: str, metavar: str | None = None) -> Any:
    return Annotated[kind | None, typer.Option(help=text, metavar=metavar, show_default=False)]


_OPTIONS: dict[str, Any] = {
    "kind": _option(Kind, "Reads the target's hidden states too (default), or tokens only."),
    "layers": _option(str, "How many of the target's, or which: 4, or 0,1,28,29.", "N|LIST"),
    "head_vocab": _option(int, "Rows of the output head; default 8192.", "N"),
    "tokens": _option(int, "Text to learn from; default 1500000.", "N"),
    "steps": _option(int, "Training steps; default: six times through the text.", "N"),
    "minutes": _option(float, "Time for everything; default: as long as it takes.", "N"),
    "loss": _option(Loss, "Forward KL, total variation, or both (default)."),
    "bits": _option(int, "Of the draft's weights, 4 (default) or 8; training allows for it.", "N"),
    "seed": _option(int, "Repeat a run; default 0.", "N"),
    "data": _option(str, "Prompts to answer too: .jsonl (turns, prompt, text), or lines.", "FILE"),
    "begin_with": _option(str, "A draft of this target to start from, made by distill.", "DIR"),
    "text": _option(str, "Text the target wrote already; cut or added to, up to --tokens.", "FILE"),
}
"""Fields of the plan of a run besides target and device; it has their defaults."""


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `_OPTIONS` as keyword arguments."""
    *own, _given = inspect.signature(command).parameters.values()
    set_parameters(command, [], own, {name: (each, None) for name, each in _OPTIONS.items()})
    return command


@with_only("pair", "target", "device")
@_with_options
def distill(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Directory to make; --draft takes it.", metavar="DIR")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR.")] = False,
    **given: Any,
) -> None:
    """Make a draft for any Llama-family target; no data set is needed."""
    values = _chosen(flags, resume) | {
        name: value.value if isinstance(value, StrEnum) else value
        for name, value in given.items()
        if value is not None
    }
    out = out.expanduser()
    try:
        with _progress() as show:
            from sequoia_core.distill.options import options_for
            from sequoia_core.distill.pipeline import WORK, Distillation

            for status in Distillation(options_for(out / WORK, values, resume), out).run():
                show(status)
    except KeyboardInterrupt:
        again = shlex.join(["sequoia", "distill", "--out", str(out), "--resume"])
        typer.echo(f"sequoia: stopped; a run that has begun continues with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    typer.echo(f"{out}: a draft; use it with --draft {shlex.quote(str(out))}, see its README.md")


def _chosen(flags: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Target and device by the settings; of a run that is continued, only if given again."""
    from ..config.load import load_settings

    settings = load_settings(flags)
    values = {"target": resolve.chosen_models(settings).target, "device": settings.device}
    given = {"target" if name == "pair" else name for name in flags}
    return {name: value for name, value in values.items() if not resume or name in given}


@contextmanager
def _progress() -> Iterator[Callable[["DistillStatus"], None]]:
    """A bar if standard error is a terminal, else a line from time to time."""
    if not _on_terminal():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description:<18}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        Remaining(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(status: "DistillStatus") -> None:
            if status.stage not in tasks:
                tasks[status.stage] = bar.add_task(status.stage, total=1.0, figures="")
            bar.update(tasks[status.stage], completed=status.fraction, figures=describe(status))

        yield show


def _on_terminal() -> bool:
    return sys.stderr.isatty()


class _Lines:
    """Prints a line at the start of each stage and after each tenth of it."""

    def __init__(self) -> None:
        self._last: tuple[str, int] = ("", 0)

    def show(self, status: "DistillStatus") -> None:
        place = (status.stage, int(status.fraction * LINES_PER_STAGE))
        if place != self._last:
            self._last = place
            line = f"{status.stage} {status.fraction:.0%}  {describe(status)}"
            typer.echo(line.rstrip(), err=True)


def describe(status: "DistillStatus") -> str:
    """The known figures of a status."""
    parts = []
    if status.rate:
        parts.append(f"{status.rate:.0f} tok/s")
    if status.loss is not None:
        parts.append(f"loss {status.loss:.3f}")
    if status.tokens_per_step is not None:
        parts.append(f"{status.tokens_per_step:.2f} tokens/step predicted")
    return "  ".join(parts)
