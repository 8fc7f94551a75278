"""`sequoia reproduce robustness`: three rules over temperature and top-p on one fixed tree."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sequoia_core.data import DataSpec

from . import reproduce_options
from .reproduce_options import DRAFT_TOP_P, SEED, with_models
from .robustness_run import Task, run_study
from .testbed_run import Results

GROWMAP = "smollm2-135m/stochastic-16x4"
PROMPTS = 20
TOKENS = 64
DST = Path("robustness.jsonl")


_End = Annotated[
    int,
    typer.Option(
        "--end",
        help=f"Row after the last; default {PROMPTS}.",
        rich_help_panel="Data",
        show_default=False,
    ),
]
_Tokens = Annotated[
    int,
    typer.Option(
        "--tokens",
        help="Decoded after each prompt, each time.",
        rich_help_panel="Data",
        metavar="NUMBER",
    ),
]
_Temperatures = Annotated[
    list[float] | None,
    typer.Option(
        "--T",
        "--temperature",
        help="May be repeated; default: 0.2, 0.4, ... 1.2.",
        rich_help_panel="Sampling",
        metavar="NUMBER",
    ),
]
_TopPs = Annotated[
    list[float] | None,
    typer.Option(
        "--P",
        "--top-p",
        help="Nucleus mass; may be repeated; default: 0.8, 0.9 and 1.",
        rich_help_panel="Sampling",
        metavar="NUMBER",
    ),
]
_Growmap = Annotated[
    str,
    typer.Option(
        "--growmap",
        help="The tree of all rules: a .json or .pt file, or a name.",
        rich_help_panel="Tree",
        metavar="FILE|NAME",
    ),
]


@with_models
def robustness(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    dataset: reproduce_options.Dataset = None,
    start: reproduce_options.Start = 0,
    end: _End = PROMPTS,
    tokens: _Tokens = TOKENS,
    temperature: _Temperatures = None,
    top_p: _TopPs = None,
    draft_top_p: reproduce_options.DraftTopP = DRAFT_TOP_P,
    seed: reproduce_options.Seed = SEED,
    growmap: _Growmap = GROWMAP,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """Tokens per step of sequoia, specinfer and topk over temperature and top-p, on one fixed tree.

    Nothing is timed, so the machine may be busy. Results are written to --dst line by line; the
    same command goes on where it was stopped.
    """
    task = Task(
        data=DataSpec(dataset, start, end),
        growmap=growmap,
        temperatures=tuple(temperature or ()),
        top_ps=tuple(top_p or ()),
        tokens=tokens,
        seed=seed,
        draft_top_p=draft_top_p,
    )
    run_study(flags, task, dst or DST, Results(as_json, picture))
