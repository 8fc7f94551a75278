"""`sequoia reproduce`: the published release's scripts as commands; and `sequoia accept`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from sequoia_core.config import DRAFT_TOP_P, Mode
from sequoia_core.data.passages import check_source
from sequoia_core.errors import ParameterError
from sequoia_core.events import Progress
from sequoia_core.reproduce.experiment import Experiment

from ..config.paths import output_file, output_result
from .experiment import ExperimentOptions, experiment_command
from .options import Command, command_group, flag
from .paper import paper
from .prediction import predict_offload
from .search import search

_VECTOR = Path("acceptance-rate-vector.pt")  # the release's name, in the working folder
_MODES = (
    "greedy or tree: the tree and plain decoding in turns; baseline: plain decoding "
    "alone; benchmark: the tree's parts of a step."
)
TESTBEDS = {
    Mode.SEQUOIA: (
        "testbed",
        "Decode a data set by Sequoia's sampling without replacement: tokens/step, ms/token, "
        "speed-up. The release's testbed.py.",
    ),
    Mode.GREEDY: (
        "testbed-greedy",
        "The same at temperature 0, which --T does not change. The release's testbed_greedy.py.",
    ),
    Mode.SPECINFER: (
        "test-specinfer",
        "The same by SpecInfer's sampling with replacement. The release's test_specinfer.py.",
    ),
    Mode.TOPK: (
        "test-greedys",
        "The same with the draft's most probable tokens as children, kept where the target's own "
        "draw is one. The release's test_greedyS.py.",
    ),
}


@experiment_command(
    "dataset", "start", "end", "temperature", "top_p", "width", "dst", "draft_top_p",
    "cache_length",
)  # fmt: skip
def accept(
    options: ExperimentOptions,
    progress: Progress,
    algorithm: Annotated[
        Literal["stochastic", "greedy"], flag("--ALG --algorithm", "How children are drawn.")
    ] = "stochastic",
    static: Annotated[
        bool, flag("--static", "One pass over each text instead of decoding.")
    ] = False,
    depth: Annotated[
        int, flag("--D --depth", "Levels below the root with rates of their own; in JSON.")
    ] = 1,
    mode: Annotated[Literal["greedy"], flag("--Mode", "", hidden=True)] = "greedy",  # noqa: ARG001
) -> Experiment:
    """Measure how often the k-th child is accepted, by rank.

    By decoding with a star of children at every step, or with --static by one pass over each text.
    With --D by decoding with a deeper tree: a draft's later levels are often weaker.
    """
    if options.cache_length is not None and static:
        raise ParameterError("--M does nothing with --static: one pass drafts no tree")
    if algorithm == "greedy":
        options = replace(options, temperature=0.0)
    vector = _VECTOR.with_suffix(".json") if depth > 1 else _VECTOR
    data, dst = options.data, output_result(options.dst or vector)
    if depth > 1 and dst.suffix != ".json":
        raise ParameterError(f"--dst {dst}: rates by depth are kept in a file that ends in .json")
    check_source(data.source)
    from sequoia_core.measure.acceptance import AcceptancePlan
    from sequoia_core.reproduce.acceptance import AcceptanceExperiment

    plan = AcceptancePlan(
        options.width, options.params, options.draft_top_p, static=static, depth=depth
    )
    pair = options.load_pair(progress)
    return AcceptanceExperiment(pair, plan, data, dst, options.cache_length)


def _testbed(rule: Mode) -> Command:
    """The command that decodes a data set by one rule."""

    @experiment_command(
        "dataset", "start", "end", "tokens", "temperature", "top_p", "draft_top_p", "growmap",
        "cache_length",
    )  # fmt: skip
    def testbed(
        options: ExperimentOptions,
        progress: Progress,
        mode: Annotated[
            Literal["greedy", "tree", "baseline", "benchmark"], flag("--Mode", _MODES, "Tree")
        ] = "greedy",
    ) -> Experiment:
        if options.draft_top_p != DRAFT_TOP_P and rule in (Mode.GREEDY, Mode.TOPK):
            raise ParameterError(
                "--DP does nothing here: children are the draft's most probable tokens"
            )
        if rule is Mode.GREEDY:
            options = replace(options, temperature=0.0, top_p=1.0)
        data, params = options.data, options.params
        from sequoia_core.data.passages import load_prompts
        from sequoia_core.reproduce.testbed import (
            DecodingExperiment,
            DecodingPlan,
            Measured,
            pairs_growmap,
        )

        pair = options.load_pair(progress)
        plan = DecodingPlan(
            rule,
            pairs_growmap(pair, options.growmap, params.temperature),
            params,
            Measured("tree" if mode == "greedy" else mode),  # the release's word for the tree
            options.cache_length,
            min(options.draft_top_p, 1.0),  # above 1 the release cuts nothing
        )
        return DecodingExperiment(pair, plan, load_prompts(data, pair.tokenizer))

    return testbed


@experiment_command(
    "dataset", "start", "end", "tokens", "draft_top_p", "dst",
    end=20, tokens=64, dst=Path("robustness.jsonl"),
)  # fmt: skip
def robustness(
    options: ExperimentOptions,
    progress: Progress,
    temperatures: Annotated[
        list[float] | None,
        flag("--T --temperature", "Repeated; default: 0.2, 0.4, ... 1.2.", "Sampling", "NUMBER"),
    ] = None,
    top_ps: Annotated[
        list[float] | None,
        flag("--P --top-p", "Nucleus mass, repeated; default: 0.8, 0.9, 1.", "Sampling", "NUMBER"),
    ] = None,
    growmap: Annotated[
        str,
        flag("--growmap", "The tree of all rules: a file or a name.", "Tree", "FILE|NAME"),
    ] = "smollm2-135m/stochastic-16x4",
    rules: Annotated[
        list[Mode] | None,
        flag(
            "--rule",
            "Repeated; the first is compared with each other; default: sequoia, specinfer, topk.",
            "Tree",
        ),
    ] = None,
) -> Experiment:
    """Tokens per step of several rules over temperature and top-p, on one fixed tree.

    Nothing is timed, so the machine may be busy. Results are written to --dst line by line; the
    same command continues where it was stopped.
    """
    data, file = options.data, output_file(options.dst)
    assert file is not None
    from sequoia_core.data.passages import load_prompts
    from sequoia_core.reproduce.robustness import (
        RULES,
        TEMPERATURES,
        TOP_PS,
        RobustnessExperiment,
        Sweep,
    )
    from sequoia_core.tree.files import find_growmap

    sweep = Sweep(
        find_growmap(growmap),
        tuple(rules or RULES),
        tuple(temperatures or TEMPERATURES),
        tuple(top_ps or TOP_PS),
        options.tokens,
        options.seed,
        min(options.draft_top_p, 1.0),  # above 1 the release cuts nothing
    )
    pair = options.load_pair(progress)
    return RobustnessExperiment(pair, sweep, load_prompts(data, pair.tokenizer), file)


reproduce = command_group("reproduce", "What the published Sequoia release does, with its flags.")
reproduce.command("paper")(paper)
reproduce.command(
    "test-accept", help="The acceptance-rate vector by decoding: the release's test_accept.py."
)(accept)
reproduce.command(
    "fast-test",
    help="The acceptance-rate vector from one pass over each text: the release's fast_test.py.",
    context_settings={"default_map": {"static": True}},
)(accept)
reproduce.command(
    "tree-search", help="The best tree for a config file: the release's tree_search.py."
)(search)
for _rule, (_name, _summary) in TESTBEDS.items():
    reproduce.command(_name, help=_summary)(_testbed(_rule))
reproduce.command("robustness")(robustness)
reproduce.command("predict-offload")(predict_offload)
