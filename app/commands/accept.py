"""`sequoia accept`: the acceptance-rate vector of a pair, which `sequoia search` makes trees of.

The same measurement is `sequoia reproduce test-accept` and `fast-test`, with those scripts' flags.
"""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.data import check_source
from sequoia_core.errors import ParameterError

from ..config.output_files import output_result
from .experiment import (
    ExperimentOptions,
    experiment_command,
    flag,
    load_models,
    run_experiment,
)

if TYPE_CHECKING:
    from sequoia_core.events import Progress
    from sequoia_core.reproduce.acceptance import AcceptanceExperiment


DST = Path("acceptance-rate-vector.pt")
"""The release's name, in the working folder."""


class Algorithm(StrEnum):
    """The release's `--ALG`.

    Attributes:
        STOCHASTIC: children are drawn without replacement.
        GREEDY: children are the draft's most probable tokens, at temperature 0.
    """

    STOCHASTIC = "stochastic"
    GREEDY = "greedy"


class OnlyMode(StrEnum):
    """The one value of `--Mode` of the release's script, where it does nothing."""

    GREEDY = "greedy"


_Algorithm = Annotated[Algorithm, flag("--ALG --algorithm", "How children are drawn.")]
_SHARED = ("dataset", "start", "end", "temperature", "top_p", "width", "dst")


@experiment_command(*_SHARED, "draft_top_p", "cache_length")
def accept(
    flags: dict[str, Any],
    options: ExperimentOptions,
    algorithm: _Algorithm = Algorithm.STOCHASTIC,
    static: Annotated[
        bool, flag("--static", "One pass over each text instead of decoding.")
    ] = False,
) -> None:
    """Measure how often the k-th child is accepted, by rank.

    By decoding with a star of children at every step, or with --static by one pass over each text.
    """
    if options.cache_length is not None and static:
        raise ParameterError("--M does nothing with --static: one pass drafts no tree")
    _measure(flags, options, algorithm, static=static)


@experiment_command(*_SHARED, "cache_length")
def accept_by_decoding(
    flags: dict[str, Any],
    options: ExperimentOptions,
    algorithm: _Algorithm = Algorithm.STOCHASTIC,
    depth: Annotated[int, flag("--D --depth", "Levels of the tree below its root.", "Tree")] = 1,
    mode: Annotated[OnlyMode, typer.Option("--Mode", hidden=True)] = OnlyMode.GREEDY,  # noqa: ARG001
) -> None:
    """The acceptance-rate vector by decoding: the release's test_accept.py."""
    if depth != 1:
        raise ParameterError(f"--D is {depth}; the tree is a star, whose depth is 1")
    _measure(flags, options, algorithm, static=False)


@experiment_command(*_SHARED, "draft_top_p")
def accept_statically(flags: dict[str, Any], options: ExperimentOptions) -> None:
    """The acceptance-rate vector from one pass over each text: the release's fast_test.py."""
    _measure(flags, options, Algorithm.STOCHASTIC, static=True)


def _measure(
    flags: dict[str, Any], options: ExperimentOptions, algorithm: Algorithm, *, static: bool
) -> None:
    data = options.data
    dst = output_result(options.dst or DST)
    if algorithm is Algorithm.GREEDY:
        options = replace(options, temperature=0.0)
    check_source(data.source)

    def prepare(progress: "Progress") -> "AcceptanceExperiment":
        from sequoia_core.measure.acceptance_vector import AcceptancePlan
        from sequoia_core.reproduce.acceptance import AcceptanceExperiment

        plan = AcceptancePlan(options.width, options.params, options.draft_top_p, static=static)
        pair = load_models(flags, progress)
        progress("Reading the data", None)
        return AcceptanceExperiment(pair, plan, data, dst, options.cache_length)

    run_experiment(prepare, options)
