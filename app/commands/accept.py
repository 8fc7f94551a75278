"""`sequoia accept`: the acceptance-rate vector of a pair, which `sequoia search` makes trees of.

Owns the options. The same measurement is `sequoia reproduce test-accept` and `fast-test`, with the
flags that those scripts have.
"""

from enum import StrEnum
from typing import Annotated, Any

import typer

from sequoia_core.data import DataSpec
from sequoia_core.errors import ParameterError

from . import reproduce_options
from .accept_run import Results, Sampling, Task, measure
from .reproduce_options import DRAFT_TOP_P, SEED, TEMPERATURE, TOP_P, with_models

WIDTH = 16
"""The release's."""


class Algorithm(StrEnum):
    """Which children are held against the target: the release's `--ALG`.

    Attributes:
        STOCHASTIC: drawn without replacement.
        GREEDY: the draft's most probable ones, at temperature 0.
    """

    STOCHASTIC = "stochastic"
    GREEDY = "greedy"


class OnlyMode(StrEnum):
    """What the release's script takes `--Mode` to be; it does nothing there."""

    GREEDY = "greedy"


_Algorithm = Annotated[
    Algorithm, typer.Option("--ALG", "--algorithm", help="How children are drawn.")
]
_Static = Annotated[
    bool,
    typer.Option("--static", help="One pass over each text instead of decoding."),
]


@with_models
def accept(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    dataset: reproduce_options.Dataset = None,
    start: reproduce_options.Start = 0,
    end: reproduce_options.End = 200,
    temperature: reproduce_options.Temperature = TEMPERATURE,
    top_p: reproduce_options.TopP = TOP_P,
    draft_top_p: reproduce_options.DraftTopP = DRAFT_TOP_P,
    width: reproduce_options.Width = WIDTH,
    algorithm: _Algorithm = Algorithm.STOCHASTIC,
    static: _Static = False,
    cache_length: reproduce_options.CacheLength = None,
    seed: reproduce_options.Seed = SEED,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """Measure how often the k-th child is accepted, by rank.

    By decoding with a star of children at every step, or with --static by one pass over each text.
    """
    if cache_length is not None and static:
        raise ParameterError("--M does nothing with --static: one pass drafts no tree")
    heat = 0.0 if algorithm is Algorithm.GREEDY else temperature
    sampling = Sampling(width, heat, top_p, draft_top_p, seed)
    task = Task(DataSpec(dataset, start, end), sampling, static, cache_length)
    measure(flags, task, Results(dst, as_json, picture))


@with_models
def accept_by_decoding(
    ctx: typer.Context,  # noqa: ARG001
    flags: dict[str, Any],
    dataset: reproduce_options.Dataset = None,
    start: reproduce_options.Start = 0,
    end: reproduce_options.End = 200,
    temperature: reproduce_options.Temperature = TEMPERATURE,
    top_p: reproduce_options.TopP = TOP_P,
    width: reproduce_options.Width = WIDTH,
    depth: reproduce_options.Depth = 1,
    algorithm: _Algorithm = Algorithm.STOCHASTIC,
    mode: Annotated[OnlyMode, typer.Option("--Mode", hidden=True)] = OnlyMode.GREEDY,  # noqa: ARG001
    cache_length: reproduce_options.CacheLength = None,
    seed: reproduce_options.Seed = SEED,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """The acceptance-rate vector by decoding: the release's test_accept.py."""
    if depth != 1:
        raise ParameterError(f"--D is {depth}; the tree is a star, whose depth is 1")
    heat = 0.0 if algorithm is Algorithm.GREEDY else temperature
    sampling = Sampling(width, heat, top_p, DRAFT_TOP_P, seed)
    task = Task(DataSpec(dataset, start, end), sampling, static=False, cache_length=cache_length)
    measure(flags, task, Results(dst, as_json, picture))


@with_models
def accept_statically(
    ctx: typer.Context,  # noqa: ARG001
    flags: dict[str, Any],
    dataset: reproduce_options.Dataset = None,
    start: reproduce_options.Start = 0,
    end: reproduce_options.End = 200,
    temperature: reproduce_options.Temperature = TEMPERATURE,
    top_p: reproduce_options.TopP = TOP_P,
    draft_top_p: reproduce_options.DraftTopP = DRAFT_TOP_P,
    width: reproduce_options.Width = WIDTH,
    seed: reproduce_options.Seed = SEED,
    dst: reproduce_options.Destination = None,
    as_json: reproduce_options.AsJson = False,
    picture: reproduce_options.Picture = None,
) -> None:
    """The acceptance-rate vector from one pass over each text: the release's fast_test.py."""
    sampling = Sampling(width, temperature, top_p, draft_top_p, seed)
    task = Task(DataSpec(dataset, start, end), sampling, static=True)
    measure(flags, task, Results(dst, as_json, picture))
