"""What the commands that run an experiment share: the release's flags, the runner, the printer."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.config import DRAFT_TOP_P, SamplingParams
from sequoia_core.data.passages import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Progress
from sequoia_core.reproduce.experiment import Experiment, Report

from ..config import model_choice
from ..config.interrupts import INTERRUPTS
from ..config.paths import output_picture
from .console import print_table, progress_line, stop
from .options import MODEL_OPTIONS, Command, flag, with_settings

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

Prepare = Callable[..., Experiment]
_MODELS, _DATA, _SAMPLING, _TREE, _RESULTS = "Models", "Data", "Sampling", "Tree", "Results"
_DRAFT = "The draft: hub id, directory, GGUF file or ollama's NAME:TAG."
_OFFLOADING = "As --offload cpu; as --offload disk without a GPU."
_DATASETS = (
    "cnn, openwebtext, c4, wiki, mt-bench; a .jsonl or .txt file or `datasets` folder; "
    "default: built-in prompts."
)
_NUCLEUS = "Nucleus mass, above 0 and at most 1."
_GROWMAP = "Tree shape: a .json or .pt file, or a name; default: the pair's own."
_CACHE = "Most tokens of text and tree in the KV cache; default: what is needed."
_NEW_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
_ALWAYS = ("draft", "offloading", "seed", "as_json", "picture")

Destination = Annotated[
    Path | None, flag("--dst", "Where the result is written.", _RESULTS, "FILE")
]
AsJson = Annotated[bool, flag("--json", "One JSON object on standard output.", _RESULTS)]
Picture = Annotated[
    Path | None, flag("--picture", "Draw it there, .svg or .png.", _RESULTS, "FILE")
]


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """The release's flags with its defaults, of which a command takes some.

    `flags` are the settings of the models. In the release, `--model` is the draft.
    """

    flags: dict[str, Any]
    draft: Annotated[str | None, flag("--model --draft", _DRAFT, _MODELS, "MODEL")] = None
    offloading: Annotated[bool, flag("--offloading", _OFFLOADING, _MODELS)] = False
    dataset: Annotated[str | None, flag("--dataset", _DATASETS, _DATA, "NAME|PATH")] = None
    start: Annotated[int, flag("--start", "First row of the data.", _DATA)] = 0
    end: Annotated[int, flag("--end", "Row after the last.", _DATA)] = 200
    tokens: Annotated[int, flag("--tokens", "Decoded after each prompt.", _DATA)] = _NEW_TOKENS
    temperature: Annotated[float, flag("--T --temperature", "0 is greedy.", _SAMPLING)] = 0.6
    top_p: Annotated[float, flag("--P --top-p", _NUCLEUS, _SAMPLING)] = 0.9
    draft_top_p: Annotated[
        float, flag("--DP --draft-top-p", "The draft's nucleus mass.", _SAMPLING)
    ] = DRAFT_TOP_P
    seed: Annotated[int, flag("--seed", "Of all draws.", _SAMPLING)] = 17
    growmap: Annotated[str | None, flag("--growmap", _GROWMAP, _TREE, "FILE|NAME")] = None
    cache_length: Annotated[int | None, flag("--M --cache-length", _CACHE, _TREE)] = None
    width: Annotated[int, flag("--W --width", "Most children of a node.", _TREE)] = 16
    dst: Destination = None
    as_json: AsJson = False
    picture: Picture = None

    def __post_init__(self) -> None:
        if self.draft is not None:
            self.flags["draft"] = self.draft
        if self.offloading and "offload" not in self.flags:
            self.flags["offload"] = offload_place(self.flags)

    @property
    def data(self) -> DataSpec:
        return DataSpec(self.dataset, self.start, self.end)

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            self.temperature, self.top_p, seed=self.seed, max_new_tokens=self.tokens
        )

    def load_pair(self, progress: Progress) -> "Pair":
        from ..config.load import load_settings

        pair = model_choice.load_chosen(load_settings(self.flags), progress)
        progress("Reading the data", None)
        return pair


def offload_place(flags: dict[str, Any]) -> str:
    """Where a target's layers wait: in memory if a GPU computes, else on disk."""
    from sequoia_core.model.device import choose_devices

    from ..config.load import load_settings

    device, *_others = choose_devices(load_settings(flags).device)
    return "disk" if device.type == "cpu" else "cpu"


def experiment_command(*names: str, **defaults: Any) -> Callable[[Prepare], Command]:
    """Make a command of a function that prepares an experiment, which is then run and printed.

    The function gets `ExperimentOptions`, a progress callback and its own options. After Ctrl+C the
    rows that are done remain: in the experiment's file if it has one, and else they are printed.

    Args:
        names: fields of `ExperimentOptions` that it takes, besides those that all take.
        defaults: that differ from the class's.
    """
    added = {
        each.name: (each.type, defaults.get(each.name, each.default))
        for each in fields(ExperimentOptions)
        if each.name in names or each.name in _ALWAYS
    }

    def decorate(prepare: Prepare) -> Command:
        @with_settings(*MODEL_OPTIONS, **added)
        @functools.wraps(prepare)
        def run(flags: dict[str, Any], **given: Any) -> None:
            options = ExperimentOptions(flags, **{name: given.pop(name) for name in added})
            picture = output_picture(options.picture)
            interrupted = False
            with progress_line() as progress:
                experiment = prepare(options, progress, **given)
                try:
                    experiment.run(progress)
                except KeyboardInterrupt:
                    interrupted = True
                    INTERRUPTS.forget()
            report = _partial_report(experiment) if interrupted else experiment.report()
            if "dataset" in names:
                report.values.update(dataset=options.data.source, start=options.start)
            print_report(report, picture, as_json=options.as_json)
            if interrupted:
                stop("interrupted; these are the results so far")

        return run

    return decorate


def _partial_report(experiment: Experiment) -> Report:
    if experiment.file is not None:
        kept = f"{len(experiment.file.rows)} results are kept in {experiment.file.path}"
        stop(f"interrupted; {kept}, and the same command continues from there")
    try:
        return experiment.report()
    except SequoiaError:
        stop("interrupted before the first prompt was done")


def print_report(report: Report, picture: Path | None, *, as_json: bool) -> None:
    """Draw a report, and print it as tables or as JSON."""
    if picture is not None:
        report.draw(picture)
    if as_json:
        typer.echo(json.dumps(report.values))
        return
    for table in report.tables:
        print_table(table.headings, table.rows, right=table.headings if table.right else ())
    typer.echo(report.text)
    if picture is not None:
        typer.echo(f"written: {picture}")
