"""A testbed from the command line: what is asked for, the order of checks, and the printed result.

Owns files and printing; `sequoia_core.reproduce` decodes and counts.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data import DataSpec
from sequoia_core.errors import ParameterError, SequoiaError

from ..config.output_files import output_picture
from ..engine import build
from .progress import progress_line
from .reproduce_options import DRAFT_TOP_P

if TYPE_CHECKING:
    from rich.table import Table

    from sequoia_core.events import Progress
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.experiment import Experiment, ExperimentRun, Findings

INTERRUPTED = 130
DRAWN = frozenset({Mode.SEQUOIA, Mode.SPECINFER})
"""Rules whose children are a matter of chance."""


@dataclass(frozen=True, slots=True)
class TreeAsked:
    """How trees are made and judged; values as on the command line.

    Attributes:
        rule: of children and acceptance.
        growmap: None is the pair's own.
        draft_top_p: nucleus mass of what children are drawn from.
        cache_length: None is what is needed.
    """

    rule: Mode
    growmap: str | None
    draft_top_p: float
    cache_length: int | None

    def __post_init__(self) -> None:
        if self.draft_top_p != DRAFT_TOP_P and self.rule not in DRAWN:
            raise ParameterError(
                "--DP does nothing here: children are the draft's most probable tokens"
            )


@dataclass(frozen=True, slots=True)
class Task:
    """One testbed.

    Attributes:
        data: the prompts.
        params: sampling, with a seed.
        tree: how trees are made.
        measured: value of `reproduce.experiment.Measured`.
    """

    data: DataSpec
    params: SamplingParams
    tree: TreeAsked
    measured: str

    def experiment(self, pair: "Pair") -> "Experiment":
        """As it is run.

        Raises:
            GrowMapError: the tree is not there or malformed.
            ParameterError: a value is out of range.
        """
        from sequoia_core.reproduce.experiment import Experiment, Measured, pairs_growmap

        asked = self.tree
        return Experiment(
            asked.rule,
            pairs_growmap(pair, asked.growmap, self.params.temperature),
            self.params,
            Measured(self.measured),
            asked.cache_length,
            min(asked.draft_top_p, 1.0),  # above 1 the release cuts nothing
        )


@dataclass(frozen=True, slots=True)
class Results:
    """Where figures go."""

    as_json: bool
    picture: Path | None


def run_testbed(flags: Mapping[str, Any], task: Task, results: Results) -> None:
    """Decode, print and draw. Ctrl+C ends with the figures of what was decoded.

    Raises:
        SequoiaError: an option cannot be used, or the data or the models do not load.
    """
    from ..config.load import load_settings

    picture = output_picture(results.picture)
    settings = load_settings(flags)
    with progress_line() as progress:
        pair = build.load_chosen(settings, progress)
        run = _prepared(pair, task, progress)
        whole = _decoded(run, progress)
    findings = run.findings()
    if picture is not None:
        from sequoia_core.reproduce.pictures import draw_experiment

        draw_experiment(picture, findings)
    if results.as_json:
        from sequoia_core.reproduce.values import experiment_values

        values = experiment_values(run, findings)
        typer.echo(json.dumps({**values, "dataset": task.data.source, "start": task.data.start}))
    else:
        _print(run, findings)
    if not whole:
        typer.echo(
            f"sequoia: interrupted after {findings.prompts} of {len(run.prompts)} prompts", err=True
        )
        raise typer.Exit(INTERRUPTED)


def _prepared(pair: "Pair", task: Task, progress: "Progress") -> "ExperimentRun":
    from sequoia_core.data import load_prompts
    from sequoia_core.reproduce.experiment import ExperimentRun

    experiment = task.experiment(pair)
    progress("Reading the data", None)
    return ExperimentRun(pair, experiment, load_prompts(task.data, pair.tokenizer))


def _decoded(run: "ExperimentRun", progress: "Progress") -> bool:
    """Whether all was decoded."""
    try:
        run.decode(progress)
    except KeyboardInterrupt:
        try:
            run.findings()
        except SequoiaError:
            typer.echo("sequoia: interrupted before the first prompt was done", err=True)
            raise typer.Exit(INTERRUPTED) from None
        return False
    return True


def _print(run: "ExperimentRun", findings: "Findings") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_table(findings))
    if findings.split is not None:
        console.print(_split_table(findings))
    typer.echo(_summary(run, findings))


def _table(findings: "Findings") -> "Table":
    from rich.table import Table

    table = Table("", box=None, pad_edge=False, header_style="bold")
    columns = [findings.figures(name) for name in findings.runs]
    for name in findings.runs:
        table.add_column(name)
    table.add_row("tokens/step", *(each.tokens_per_step.text() for each in columns))
    table.add_row("ms/token", *(each.ms_per_token.text(1) for each in columns))
    table.add_row("ms/step", *(each.ms_per_step.text(1) for each in columns))
    table.add_row("first step, ms", *(f"{each.first_ms:.0f}" for each in columns))
    ratios = [each.speedup.text(2, "x") if each.speedup else "" for each in columns]
    if any(ratios):
        table.add_row("speed-up", *ratios)
    return table


def _split_table(findings: "Findings") -> "Table":
    from rich.table import Table

    assert findings.split is not None
    table = Table("", box=None, pad_edge=False, header_style="bold")
    total = findings.split.total
    for name in findings.split.parts:
        table.add_column(name, justify="right")
    parts = findings.split.parts.values()
    table.add_row("ms of a step", *(f"{part:.2f}" for part in parts))
    table.add_row("share", *(f"{part / total:.1%}" for part in parts))
    return table


def _summary(run: "ExperimentRun", findings: "Findings") -> str:
    """What was decoded and how to read the figures."""
    wanted = run.experiment
    params, tree = wanted.params, wanted.growmap
    parts = [f"{findings.prompts} prompts, {params.max_new_tokens} tokens each"]
    if "tree" in findings.runs:
        parts.append(f"{wanted.rule.value}, {tree.name}: {tree.size} nodes, depth {tree.depth}")
    parts.append(f"temperature {params.temperature:g}")
    if params.temperature and params.top_p < 1.0:
        parts.append(f"top-p {params.top_p:g}")
    if params.temperature and wanted.rule in DRAWN and wanted.draft_top_p < 1.0:
        parts.append(f"the draft's {wanted.draft_top_p:g}")
    parts.append(f"seed {params.seed}")
    return (
        " · ".join(parts) + "\n"
        "tokens/step with its 95 % interval over prompts; times: median, lowest and highest\n"
        "the first step, which reads the prompt, is apart; no end-of-sequence token ends an answer"
    )
