"""The robustness study from the command line: order of checks, files and the printed table.

`sequoia_core.reproduce` decodes and counts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sequoia_core.data import DataSpec
from sequoia_core.errors import ParameterError

from ..config.output_files import output_file, output_picture
from ..engine import build
from .progress import progress_line
from .testbed_run import INTERRUPTED, Results

if TYPE_CHECKING:
    from rich.table import Table

    from sequoia_core.events import Progress
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.count_file import CountFile
    from sequoia_core.reproduce.robustness import Sweep
    from sequoia_core.reproduce.standing import Study


@dataclass(frozen=True, slots=True)
class Task:
    """One study; values as on the command line, () for the sweep's own."""

    data: DataSpec
    growmap: str
    temperatures: tuple[float, ...]
    top_ps: tuple[float, ...]
    tokens: int
    seed: int
    draft_top_p: float

    def sweep(self) -> "Sweep":
        """As it is counted.

        Raises:
            GrowMapError: the tree is not there or malformed.
            ParameterError: a value is out of range.
        """
        from sequoia_core.reproduce.robustness import TEMPERATURES, TOP_PS, Sweep
        from sequoia_core.tree.files import find_growmap

        return Sweep(
            find_growmap(self.growmap),
            self.temperatures or TEMPERATURES,
            self.top_ps or TOP_PS,
            self.tokens,
            self.seed,
            min(self.draft_top_p, 1.0),  # above 1 the release cuts nothing
        )


def run_study(flags: Mapping[str, Any], task: Task, dst: Path, results: Results) -> None:
    """Count what is not counted yet, then compare, print and draw.

    Raises:
        SequoiaError: an option cannot be used, the data or the models do not load, or `dst` belongs
            to another study.
    """
    from ..config.load import load_settings

    picture, file = output_picture(results.picture), output_file(dst)
    assert file is not None
    settings = load_settings(flags)
    with progress_line() as progress:
        sweep = task.sweep()
        pair = build.load_chosen(settings, progress)
        study = _studied(pair, sweep, task, file, progress)
    if picture is not None:
        from sequoia_core.reproduce.pictures import draw_study

        draw_study(picture, study)
    if results.as_json:
        from sequoia_core.reproduce.values import study_values

        values = study_values(pair, sweep, study)
        typer.echo(json.dumps({**values, "dataset": task.data.source, "start": task.data.start}))
    else:
        _print(sweep, study)


def _studied(pair: "Pair", sweep: "Sweep", task: Task, file: Path, progress: "Progress") -> "Study":
    from sequoia_core.data import load_prompts
    from sequoia_core.reproduce.count_file import CountFile
    from sequoia_core.reproduce.seeds import prompt_digest
    from sequoia_core.reproduce.standing import Study

    progress("Reading the data", None)
    prompts = list(dict.fromkeys(load_prompts(task.data, pair.tokenizer)))
    if len(prompts) < 2:
        raise ParameterError("one prompt says nothing about noise; take two or more, see --end")
    counts = CountFile(file, sweep, pair.fingerprint)
    _count(pair, sweep, prompts, counts, progress)
    wanted = {prompt_digest(ids) for ids in prompts}
    return Study.of(sweep, [count for count in counts.counts if count.prompt in wanted])


def _count(
    pair: "Pair",
    sweep: "Sweep",
    prompts: list[tuple[int, ...]],
    counts: "CountFile",
    progress: "Progress",
) -> None:
    from sequoia_core.reproduce.robustness import count_all

    try:
        for count in count_all(pair, sweep, prompts, list(counts.counts), progress):
            counts.add(count)
    except KeyboardInterrupt:
        typer.echo(
            f"sequoia: interrupted; {len(counts.counts)} results are kept in {counts.path}; "
            "the same command goes on from there",
            err=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def _print(sweep: "Sweep", study: "Study") -> None:
    from rich.console import Console

    Console(highlight=False).print(_table(study))
    typer.echo(_verdict(sweep, study))


def _table(study: "Study") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    first = study.settings[0]
    leads = [f"over {rule.value}" for rule in first.ahead]
    for heading in ("top-p", "T", *(rule.value for rule in first.rates), *leads):
        table.add_column(heading, justify="right")
    for each in study.settings:
        table.add_row(
            f"{each.top_p:g}",
            f"{each.temperature:g}",
            *(f"{rate.value:.2f}" for rate in each.rates.values()),
            *(f"{lead.value:+.2f} ± {lead.high - lead.value:.2f}" for lead in each.ahead.values()),
        )
    return table


def _verdict(sweep: "Sweep", study: "Study") -> str:
    """What the table comes to, a line each."""
    tree = sweep.growmap
    overall = ", ".join(
        f"{lead.value:+.3f} over {rule.value} ({lead.low:+.3f} to {lead.high:+.3f})"
        for rule, lead in study.overall.items()
    )
    behind = ", ".join(
        f"{rule.value} at temperature {each.temperature:g}, top-p {each.top_p:g}"
        for each, rule in study.behind
    )
    return "\n".join([
        f"tokens/step of {tree.name}, {study.prompts} prompts of {sweep.tokens} tokens",
        "leads of sequoia on the same prompts and seeds; all intervals hold at once with 95 %",
        f"mean lead over all settings: {overall}",
        f"sequoia is above in {study.leads} of {study.comparisons} comparisons beyond the noise, "
        + (f"below {behind}" if behind else "below in none")
        + f"; its figure is the lower one in {study.lower}",
    ])  # fmt: skip
