"""What the commands that run an experiment share: the release's flags, the runner and the printer.

`--model` is the draft in the release, so these commands take it as another name of `--draft`.
"""

import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import typer

from sequoia_core.config import DRAFT_TOP_P, SamplingParams
from sequoia_core.data import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec
from sequoia_core.errors import SequoiaError

from ..config.output_files import output_picture
from ..engine import build
from .console import INTERRUPTED, print_table, progress_line
from .options import MODEL_OPTIONS, set_parameters, with_only

if TYPE_CHECKING:
    from sequoia_core.events import Progress
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.reproduce.experiment import Experiment, Report


_MODELS, _DATA, _SAMPLING, _TREE, _RESULTS = "Models", "Data", "Sampling", "Tree", "Results"


def flag(names: str, text: str, panel: str | None = None, metavar: str | None = None) -> Any:
    """An option with its names, separated by spaces."""
    return typer.Option(*names.split(), help=text, rich_help_panel=panel, metavar=metavar)


Draft = Annotated[
    str | None, flag("--model --draft", "The draft: hub id or directory.", _MODELS, "MODEL")
]
Offloading = Annotated[
    bool, flag("--offloading", "As --offload cpu; as --offload disk without a GPU.", _MODELS)
]
Destination = Annotated[
    Path | None, flag("--dst", "Where the result is written.", _RESULTS, "FILE")
]
AsJson = Annotated[bool, flag("--json", "One JSON object on standard output.", _RESULTS)]
Picture = Annotated[
    Path | None, flag("--picture", "Draw it there, .svg or .png.", _RESULTS, "FILE")
]


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """The release's flags with its defaults. A command takes some of them."""

    dataset: Annotated[
        str | None,
        flag(
            "--dataset",
            "cnn, openwebtext, c4, wiki, mt-bench; a .jsonl or .txt file or `datasets` folder; "
            "default: built-in prompts.",
            _DATA,
            "NAME|PATH",
        ),
    ] = None
    start: Annotated[int, flag("--start", "First row of the data.", _DATA)] = 0
    end: Annotated[int, flag("--end", "Row after the last.", _DATA)] = 200
    tokens: Annotated[int, flag("--tokens", "Decoded after each prompt.", _DATA, "NUMBER")] = (
        TOTAL_TOKENS - PROMPT_TOKENS
    )
    temperature: Annotated[
        float, flag("--T --temperature", "0 is greedy.", _SAMPLING, "NUMBER")
    ] = 0.6
    top_p: Annotated[
        float,
        flag("--P --top-p", "Nucleus mass, above 0 and at most 1.", _SAMPLING, "NUMBER"),
    ] = 0.9
    draft_top_p: Annotated[
        float,
        flag("--DP --draft-top-p", "The draft's nucleus mass.", _SAMPLING, "NUMBER"),
    ] = DRAFT_TOP_P
    seed: Annotated[int, flag("--seed", "Of all draws.", _SAMPLING)] = 17
    growmap: Annotated[
        str | None,
        flag(
            "--growmap",
            "Tree shape: a .json or .pt file, or a name; default: the pair's own.",
            _TREE,
            "FILE|NAME",
        ),
    ] = None
    cache_length: Annotated[
        int | None,
        flag(
            "--M --cache-length",
            "Most tokens of text and tree in the KV cache; default: what is needed.",
            _TREE,
        ),
    ] = None
    width: Annotated[int, flag("--W --width", "Most children of a node.", _TREE)] = 16
    dst: Destination = None
    as_json: AsJson = False
    picture: Picture = None

    @property
    def data(self) -> DataSpec:
        """The prompts."""
        return DataSpec(self.dataset, self.start, self.end)

    @property
    def params(self) -> SamplingParams:
        """Of the target."""
        return SamplingParams(
            self.temperature, self.top_p, seed=self.seed, max_new_tokens=self.tokens
        )


def experiment_command(
    *names: str, **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of the model flags, `ExperimentOptions` and its own parameters.

    Args:
        names: fields of `ExperimentOptions` that the command takes, besides `seed`, `as_json` and
            `picture`.
        defaults: that differ from the class's.
    """
    names = (*names, "seed", "as_json", "picture")
    hints = get_type_hints(ExperimentOptions, include_extras=True)
    usual = {each.name: each.default for each in fields(ExperimentOptions)} | defaults
    added = {name: (hints[name], usual[name]) for name in names}
    added |= {"draft": (Draft, None), "offloading": (Offloading, False)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(ctx: typer.Context, flags: dict[str, Any], **given: Any) -> None:  # noqa: ARG001
            draft, offloading = given.pop("draft"), given.pop("offloading")
            if draft is not None:
                flags["draft"] = draft
            if offloading and "offload" not in flags:
                flags["offload"] = offload_place(flags)
            options = ExperimentOptions(**defaults | {name: given.pop(name) for name in names})
            command(flags, options, **given)

        flags, _, *own = inspect.signature(command).parameters.values()
        context = inspect.Parameter("ctx", flags.kind, annotation=typer.Context)
        set_parameters(run, [context, flags], own, added)
        return with_only(*MODEL_OPTIONS)(run)

    return decorate


def offload_place(flags: dict[str, Any]) -> str:
    """Where a target's layers wait: in memory if a GPU computes, else on disk."""
    from sequoia_core.model.device import choose_devices

    from ..config.load import load_settings

    device, *_others = choose_devices(load_settings(flags).device)
    return "disk" if device.type == "cpu" else "cpu"


def load_models(flags: dict[str, Any], progress: "Progress") -> "Pair":
    """The pair that the flags name.

    Raises:
        SequoiaError: it does not load.
    """
    from ..config.load import load_settings

    return build.load_chosen(load_settings(flags), progress)


def run_experiment(
    prepare: "Callable[[Progress], Experiment]",
    options: ExperimentOptions,
    also: dict[str, Any] | None = None,
) -> None:
    """Run, draw and print an experiment.

    After Ctrl+C the rows that are done remain: in the experiment's file if it has one, and else
    they are printed.

    Args:
        prepare: loads models and data.
        options: where the results go.
        also: further values of the JSON object.

    Raises:
        SequoiaError: an option cannot be used, or models or data do not load.
    """
    picture = output_picture(options.picture)
    interrupted = False
    with progress_line() as progress:
        experiment = prepare(progress)
        try:
            experiment.run(progress)
        except KeyboardInterrupt:
            interrupted = True
    if interrupted and experiment.file is not None:
        kept = f"{len(experiment.file.rows)} results are kept in {experiment.file.path}"
        _stop(f"interrupted; {kept}, and the same command continues from there")
    try:
        report = experiment.report()
    except SequoiaError:
        if not interrupted:
            raise
        _stop("interrupted before the first prompt was done")
    report.values.update(also or {})
    print_report(report, picture, as_json=options.as_json)
    if interrupted:
        _stop("interrupted; these are the results so far")


def _stop(message: str) -> NoReturn:
    typer.echo(f"sequoia: {message}", err=True)
    raise typer.Exit(INTERRUPTED)


def print_report(report: "Report", picture: Path | None, *, as_json: bool) -> None:
    """Draw a report, and print it as tables or as JSON."""
    if picture is not None:
        report.draw(picture)
    if as_json:
        typer.echo(json.dumps(report.values))
        return
    for table in report.tables:
        print_table(table.headings, table.rows, right=table.right)
    typer.echo(report.text)
    if picture is not None:
        typer.echo(f"written: {picture}")
