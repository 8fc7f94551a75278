"""`sequoia reproduce paper`: the published tables, here. Owns the options."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from . import reproduce_options
from .paper_run import Results, fill_table
from .reproduce_options import SEED, with_models

TOP_P = 1.0
"""What the release's README passes."""


class Hardware(StrEnum):
    """What tables are published for."""

    A100 = "a100"
    L40 = "l40"


_Hardware = Annotated[Hardware, typer.Option("--hardware", help="Whose table, trees and figures.")]
_Pairs = Annotated[
    list[str] | None,
    typer.Option(
        "--pairs",
        help="A pair of the table, for instance 68m-7b, or `embedded`; may be repeated.",
        metavar="NAME",
        show_default=False,
    ),
]
_Datasets = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        help="Instead of the table's: a name, or a file or folder; may be repeated.",
        metavar="NAME|PATH",
        show_default=False,
    ),
]
_TopP = Annotated[
    float,
    typer.Option(
        "--P",
        "--top-p",
        help="Nucleus mass, above 0 and at most 1; default 1.",
        rich_help_panel="Sampling",
        metavar="NUMBER",
        show_default=False,
    ),
]
_Folder = Annotated[
    Path | None,
    typer.Option(
        "--dst",
        help="Where results are kept as they come; default: paper-HARDWARE.",
        metavar="FOLDER",
        show_default=False,
    ),
]


@with_models
def paper(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    hardware: _Hardware,
    pairs: _Pairs = None,
    datasets: _Datasets = None,
    start: reproduce_options.Start = 0,
    end: reproduce_options.End = 200,
    top_p: _TopP = TOP_P,
    growmap: reproduce_options.Growmap = None,
    cache_length: reproduce_options.CacheLength = None,
    seed: reproduce_options.Seed = SEED,
    dst: _Folder = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """Run a whole published table: pairs, data sets and temperatures 0 and 0.6.

    With the tree and plainly, beside the paper's figures. What this machine cannot hold is skipped
    with the reason. Each cell is kept when it is done, and the same command goes on from there.
    With --pairs embedded, or --target and --model, the same table for that pair.
    """
    from sequoia_core.reproduce.paper_run import PaperOptions
    from sequoia_core.reproduce.paper_table import Choice

    choice = Choice(hardware.value, tuple(pairs or ()), tuple(datasets or ()), growmap)
    options = PaperOptions(start, end, top_p, seed, cache_length)
    folder = Path(f"paper-{hardware.value}") if dst is None else dst
    fill_table(flags, choice, options, Results(folder, as_json, picture))
