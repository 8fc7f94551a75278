"""`sequoia reproduce`: the published release's scripts as commands."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.config import DRAFT_TOP_P, Mode
from sequoia_core.errors import ParameterError

from ..config.output_files import output_file
from .accept import accept_by_decoding, accept_statically
from .experiment import (
    ExperimentOptions,
    experiment_command,
    flag,
    load_models,
    run_experiment,
)
from .group import CommandGroup
from .paper import paper
from .search import tree_search

if TYPE_CHECKING:
    from sequoia_core.events import Progress
    from sequoia_core.reproduce.robustness import RobustnessExperiment
    from sequoia_core.reproduce.testbed import DecodingExperiment


reproduce_app = typer.Typer(
    cls=CommandGroup,
    help="What the published Sequoia release does, with its flags.",
    no_args_is_help=True,
)
reproduce_app.command("paper")(paper)
reproduce_app.command("test-accept")(accept_by_decoding)
reproduce_app.command("fast-test")(accept_statically)
reproduce_app.command("tree-search")(tree_search)

TESTBEDS = {
    "testbed": (
        Mode.SEQUOIA,
        "Decode a data set by Sequoia's sampling without replacement: tokens/step, ms/token, "
        "speed-up. The release's testbed.py.",
    ),
    "testbed-greedy": (
        Mode.GREEDY,
        "The same at temperature 0, which --T does not change. The release's testbed_greedy.py.",
    ),
    "test-specinfer": (
        Mode.SPECINFER,
        "The same by SpecInfer's sampling with replacement. The release's test_specinfer.py.",
    ),
    "test-greedys": (
        Mode.TOPK,
        "The same with the draft's most probable tokens as children, kept where the target's own "
        "draw is one. The release's test_greedyS.py.",
    ),
}


class ReleaseMode(StrEnum):
    """The release's `--Mode`.

    Attributes:
        GREEDY: the release's word for decoding with the tree, whatever the temperature.
        TREE: the same by a clearer name.
        BASELINE: plain decoding alone.
        BENCHMARK: the tree alone, the parts of a step timed.
    """

    GREEDY = "greedy"
    TREE = "tree"
    BASELINE = "baseline"
    BENCHMARK = "benchmark"


def _testbed(rule: Mode) -> Callable[..., None]:
    """The command that decodes a data set by one rule."""

    @experiment_command(
        "dataset", "start", "end", "tokens", "temperature", "top_p", "draft_top_p", "growmap",
        "cache_length",
    )  # fmt: skip
    def testbed(
        flags: dict[str, Any],
        options: ExperimentOptions,
        mode: Annotated[
            ReleaseMode,
            flag(
                "--Mode",
                "greedy or tree: the tree and plain decoding in turns; baseline: plain decoding "
                "alone; benchmark: the tree's parts of a step.",
                "Tree",
            ),
        ] = ReleaseMode.GREEDY,
    ) -> None:
        drawn = rule in (Mode.SEQUOIA, Mode.SPECINFER)
        if options.draft_top_p != DRAFT_TOP_P and not drawn:
            raise ParameterError(
                "--DP does nothing here: children are the draft's most probable tokens"
            )
        if rule is Mode.GREEDY:
            options = replace(options, temperature=0.0, top_p=1.0)
        data, params = options.data, options.params

        def prepare(progress: "Progress") -> "DecodingExperiment":
            from sequoia_core.data import load_prompts
            from sequoia_core.reproduce.decoding_plan import (
                DecodingPlan,
                Measured,
                pairs_growmap,
            )
            from sequoia_core.reproduce.testbed import DecodingExperiment

            pair = load_models(flags, progress)
            plan = DecodingPlan(
                rule,
                pairs_growmap(pair, options.growmap, params.temperature),
                params,
                Measured("tree" if mode is ReleaseMode.GREEDY else mode.value),
                options.cache_length,
                min(options.draft_top_p, 1.0),  # above 1 the release cuts nothing
            )
            progress("Reading the data", None)
            return DecodingExperiment(pair, plan, load_prompts(data, pair.tokenizer))

        run_experiment(prepare, options, {"dataset": data.source, "start": data.start})

    return testbed


for _name, (_rule, _summary) in TESTBEDS.items():
    reproduce_app.command(_name, help=_summary)(_testbed(_rule))


@reproduce_app.command("robustness")
@experiment_command(
    "dataset", "start", "end", "tokens", "draft_top_p", "dst",
    end=20, tokens=64, dst=Path("robustness.jsonl"),
)  # fmt: skip
def robustness(
    flags: dict[str, Any],
    options: ExperimentOptions,
    temperatures: Annotated[
        list[float] | None,
        flag(
            "--T --temperature",
            "May be repeated; default: 0.2, 0.4, ... 1.2.",
            "Sampling",
            "NUMBER",
        ),
    ] = None,
    top_ps: Annotated[
        list[float] | None,
        flag(
            "--P --top-p",
            "Nucleus mass; may be repeated; default: 0.8, 0.9 and 1.",
            "Sampling",
            "NUMBER",
        ),
    ] = None,
    growmap: Annotated[
        str,
        flag(
            "--growmap",
            "The tree of all rules: a .json or .pt file, or a name.",
            "Tree",
            "FILE|NAME",
        ),
    ] = "smollm2-135m/stochastic-16x4",
) -> None:
    """Tokens per step of sequoia, specinfer and topk over temperature and top-p, on one fixed tree.

    Nothing is timed, so the machine may be busy. Results are written to --dst line by line; the
    same command continues where it was stopped.
    """
    data, file = options.data, output_file(options.dst)

    def prepare(progress: "Progress") -> "RobustnessExperiment":
        from sequoia_core.data import load_prompts
        from sequoia_core.reproduce.robustness import RobustnessExperiment
        from sequoia_core.reproduce.rule_comparison import TEMPERATURES, TOP_PS, Sweep
        from sequoia_core.tree.files import find_growmap

        assert file is not None
        sweep = Sweep(
            find_growmap(growmap),
            tuple(temperatures or TEMPERATURES),
            tuple(top_ps or TOP_PS),
            options.tokens,
            options.seed,
            min(options.draft_top_p, 1.0),  # above 1 the release cuts nothing
        )
        pair = load_models(flags, progress)
        progress("Reading the data", None)
        return RobustnessExperiment(pair, sweep, load_prompts(data, pair.tokenizer), file)

    run_experiment(prepare, options, {"dataset": data.source, "start": data.start})
