"""`sequoia distill`: make a draft for a target from text that the target writes itself."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sequoia_core.distill.options import DistillStatus, options_for
from sequoia_core.files import expanded

from ..config import model_choice
from ..config.interrupts import INTERRUPTS
from ..config.settings import Settings
from .console import stop
from .options import flag, option, with_settings

_LINES_PER_STAGE = 10
_KINDS, _LOSSES = Literal["conditioned", "independent"], Literal["kl", "tv", "mix"]
OPTIONS = {
    "kind": option(_KINDS, "Reads the target's hidden states too (default), or tokens only."),
    "layers": option(str, "How many of the target's, or which: 4, or 0,1,28,29.", "N|LIST"),
    "head_vocab": option(int, "Rows of the output head; default 8192.", "N"),
    "tokens": option(int, "Text to learn from; default 1500000.", "N"),
    "steps": option(int, "Training steps; default: six times through the text.", "N"),
    "minutes": option(float, "Time for everything; default: as long as it takes.", "N"),
    "loss": option(_LOSSES, "Forward KL, total variation, or both (default)."),
    "bits": option(int, "Of the draft's weights, 4 (default) or 8; training allows for it.", "N"),
    "seed": option(int, "Repeat a run; default 0.", "N"),
    "data": option(str, "Prompts to answer too: .jsonl (turns, prompt, text), or lines.", "FILE"),
    "begin_with": option(str, "A draft of this target to start from, made by distill.", "DIR"),
    "text": option(str, "Text the target wrote already; cut or added to, up to --tokens.", "FILE"),
}
"""Fields of the plan of a run besides target and device; it has their defaults."""


@with_settings("pair", "target", "device", **OPTIONS)
def distill(
    settings: Settings,
    flags: dict[str, Any],
    out: Annotated[Path, flag("--out", "Directory to make; --draft takes it.", metavar="DIR")],
    resume: Annotated[bool, flag("--resume", "Continue the run in DIR.")] = False,
    **given: Any,
) -> None:
    """Make a draft for a target of any family; no data set is needed."""
    values = {"target": model_choice.chosen_models(settings).target, "device": settings.device}
    if resume:  # the run keeps its own unless they are given again
        given_again = {"target" if name == "pair" else name for name in flags}
        values = {name: value for name, value in values.items() if name in given_again}
    values |= {name: value for name, value in given.items() if value is not None}
    out = expanded(out)
    try:
        with _progress() as show:
            from sequoia_core.distill.pipeline import WORK, Distillation

            INTERRUPTS.check()
            for status in Distillation(options_for(out / WORK, values, resume), out).run():
                show(status)
    except KeyboardInterrupt:
        again = shlex.join(["sequoia", "distill", "--out", str(out), "--resume"])
        stop(f"stopped; a run that has begun continues with: {again}")
    typer.echo(f"{out}: a draft; use it with --draft {shlex.quote(str(out))}, see its README.md")


@contextmanager
def _progress() -> Iterator[Callable[[DistillStatus], None]]:
    """A bar if standard error is a terminal, else a line after each tenth of a stage."""
    seen: dict[str, Any] = {}
    if not _on_terminal():

        def write(status: DistillStatus) -> None:
            tenth = int(status.fraction * _LINES_PER_STAGE)
            if seen.get(status.stage) != tenth:
                seen[status.stage] = tenth
                line = f"{status.stage} {status.fraction:.0%}  {describe(status)}"
                typer.echo(line.rstrip(), err=True)

        yield write
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    stage = TextColumn("{task.description:<18}", markup=False)
    figures = TextColumn("{task.fields[figures]}", markup=False)
    columns = (stage, BarColumn(), TaskProgressColumn(), Remaining(), figures)
    with Progress(*columns, console=Console(stderr=True)) as bar:

        def draw(status: DistillStatus) -> None:
            if status.stage not in seen:
                seen[status.stage] = bar.add_task(status.stage, total=1.0, figures="")
            bar.update(seen[status.stage], completed=status.fraction, figures=describe(status))

        yield draw


def _on_terminal() -> bool:
    return sys.stderr.isatty()


def describe(status: DistillStatus) -> str:
    """The known figures of a status."""
    figures = {
        "{:.0f} tokens/s": status.rate or None,
        "loss {:.3f}": status.loss,
        "{:.2f} tokens per pass predicted": status.tokens_per_step,
    }
    return "  ".join(each.format(value) for each, value in figures.items() if value is not None)
