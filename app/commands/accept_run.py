"""A measurement of an acceptance-rate vector: what is asked for, and how the result is shown.

Owns the order of checks, files and printing; `sequoia_core.measure` measures.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sequoia_core.data import DataSpec, check_source
from sequoia_core.errors import ParameterError

from ..config.output_files import output_picture, output_result
from ..engine import build
from .progress import progress_line

if TYPE_CHECKING:
    from rich.table import Table

    from sequoia_core.data import Passage
    from sequoia_core.events import Progress
    from sequoia_core.measure.acceptance import AcceptanceCount
    from sequoia_core.measure.acceptance_vector import AcceptancePlan, AcceptanceVector
    from sequoia_core.model.loading.pair import Pair

DST = Path("acceptance-rate-vector.pt")
"""The release's name, in the working folder."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How children are drawn and judged; values as on the command line."""

    width: int
    temperature: float
    top_p: float
    draft_top_p: float
    seed: int

    def plan(self) -> "AcceptancePlan":
        """As the measurement takes it.

        Raises:
            ParameterError: a value is outside its range.
        """
        from sequoia_core.config import SamplingParams
        from sequoia_core.measure.acceptance_vector import AcceptancePlan

        params = SamplingParams(self.temperature, self.top_p, seed=self.seed)
        return AcceptancePlan(self.width, params, self.draft_top_p)


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement.

    Attributes:
        data: the texts.
        sampling: how children are drawn and judged.
        static: by one pass over each text, not by decoding.
        cache_length: most tokens that may be cached; None is what is needed.
    """

    data: DataSpec
    sampling: Sampling
    static: bool
    cache_length: int | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """Where a vector goes."""

    dst: Path | None
    as_json: bool
    picture: Path | None


def measure(flags: Mapping[str, Any], task: Task, results: Results) -> None:
    """Measure, write and print a vector.

    Raises:
        SequoiaError: an option cannot be used, or the data or the models do not load.
    """
    from ..config.load import load_settings

    dst = output_result(results.dst or DST)
    picture = output_picture(results.picture)
    check_source(task.data.source)
    settings = load_settings(flags)
    with progress_line() as progress:
        plan = task.sampling.plan()
        pair = build.load_chosen(settings, progress)
        vector = _measured(pair, plan, task, progress)
    about = _about(pair, task, vector)
    from sequoia_core.tree.files import write_acceptance_rates

    write_acceptance_rates(dst, vector.rates, vector.rejected, about)
    if picture is not None:
        from sequoia_core.figures.charts import draw_vector

        draw_vector(picture, vector)
    if results.as_json:
        figures = {"acceptance_rates": vector.rates, "rejected": vector.rejected, **about}
        typer.echo(json.dumps({**figures, "dst": str(dst)}))
        return
    _print(vector, task, [file for file in (dst, picture) if file is not None])


def _measured(
    pair: "Pair", plan: "AcceptancePlan", task: Task, progress: "Progress"
) -> "AcceptanceVector":
    from sequoia_core.data import load_passages
    from sequoia_core.measure.acceptance_vector import AcceptanceVector, by_decoding, by_passes

    progress("Reading the data", None)
    tokens = task.data.prompt_tokens + (plan.tokens if task.static else 0)
    passages = load_passages(task.data, pair.tokenizer, tokens)
    _check_cache(task.cache_length, plan, passages)
    counts: list[AcceptanceCount] = []
    for count in (by_passes if task.static else by_decoding)(pair, passages, plan):
        counts.append(count)
        progress(f"Prompt {len(counts)} of {len(passages)}", len(counts) / len(passages))
    return AcceptanceVector.of(counts, task.sampling.seed)


def _check_cache(given: int | None, plan: "AcceptancePlan", passages: "list[Passage]") -> None:
    needed = plan.needed(passages)
    if given is not None and given < needed:
        raise ParameterError(
            f"--M is {given}, but the smallest value that works is {needed}: {plan.width} children "
            f"and {needed - plan.width} tokens of text"
        )


def _about(pair: "Pair", task: Task, vector: "AcceptanceVector") -> dict[str, Any]:
    """What a vector was measured on and how, for machines."""
    sampling, data = task.sampling, task.data
    return {
        "intervals": vector.intervals,
        "positions": vector.positions,
        "prompts": vector.prompts,
        "method": "static" if task.static else "decoding",
        "width": sampling.width,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "draft_top_p": sampling.draft_top_p,
        "seed": sampling.seed,
        "dataset": data.source,
        "start": data.start,
        "target": pair.description.target,
        "draft": pair.description.draft,
        "dtype": pair.description.dtype,
        "device": pair.description.device,
    }


def _print(vector: "AcceptanceVector", task: Task, files: list[Path]) -> None:
    from rich.console import Console

    Console(highlight=False).print(_table(vector))
    sampling = task.sampling
    how = "one pass over each text" if task.static else "decoding with a star"
    shape = "greedy" if sampling.temperature == 0.0 else f"temperature {sampling.temperature:g}"
    if sampling.temperature and sampling.top_p < 1.0:
        shape += f", top-p {sampling.top_p:g}"
    if sampling.temperature and sampling.draft_top_p < 1.0:
        shape += f", the draft's {sampling.draft_top_p:g}"
    typer.echo(
        f"{vector.rejected:.4f} rejected by all · {vector.positions} positions of "
        f"{vector.prompts} prompts · {how}, {shape}"
    )
    for file in files:
        typer.echo(f"written: {file}")


def _table(vector: "AcceptanceVector") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("rank", "a_k", "95 % over prompts", "sum"):
        table.add_column(heading, justify="right")
    total = 0.0
    for at, rate in enumerate(vector.rates):
        total += rate
        low_high = vector.intervals[at] if vector.intervals else None
        spread = "-" if low_high is None else "{:.4f} to {:.4f}".format(*low_high)
        table.add_row(str(at + 1), f"{rate:.4f}", spread, f"{total:.4f}")
    return table
