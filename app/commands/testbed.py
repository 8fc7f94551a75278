"""`sequoia reproduce testbed` and its three sisters: one set of options, four acceptance rules."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec

from . import reproduce_options
from .reproduce_options import DRAFT_TOP_P, SEED, TEMPERATURE, TOP_P, with_models
from .testbed_run import Results, Task, TreeAsked, run_testbed

NEW_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS


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


_Mode = Annotated[
    ReleaseMode,
    typer.Option(
        "--Mode",
        help="greedy or tree: the tree and plain decoding in turns; baseline: plain decoding "
        "alone; benchmark: the tree's parts of a step.",
        rich_help_panel="Tree",
    ),
]


def decoding_by(rule: Mode) -> Callable[..., None]:
    """The command that decodes a data set by one rule."""

    @with_models
    def testbed(
        ctx: typer.Context,  # noqa: ARG001 read by the decorator
        flags: dict[str, Any],
        dataset: reproduce_options.Dataset = None,
        start: reproduce_options.Start = 0,
        end: reproduce_options.End = 200,
        tokens: reproduce_options.Tokens = NEW_TOKENS,
        temperature: reproduce_options.Temperature = TEMPERATURE,
        top_p: reproduce_options.TopP = TOP_P,
        draft_top_p: reproduce_options.DraftTopP = DRAFT_TOP_P,
        seed: reproduce_options.Seed = SEED,
        growmap: reproduce_options.Growmap = None,
        cache_length: reproduce_options.CacheLength = None,
        mode: _Mode = ReleaseMode.GREEDY,
        as_json: reproduce_options.AsJson = False,
        picture: reproduce_options.Picture = None,
    ) -> None:
        greedy = rule is Mode.GREEDY
        params = SamplingParams(
            0.0 if greedy else temperature,
            1.0 if greedy else top_p,
            seed=seed,
            max_new_tokens=tokens,
        )
        measured = ReleaseMode.TREE if mode is ReleaseMode.GREEDY else mode
        task = Task(
            DataSpec(dataset, start, end),
            params,
            TreeAsked(rule, growmap, draft_top_p, cache_length),
            measured.value,
        )
        run_testbed(flags, task, Results(as_json, picture))

    return testbed


SUMMARIES = {
    Mode.SEQUOIA: "Decode a data set by Sequoia's sampling without replacement: tokens/step, "
    "ms/token, speed-up. The release's testbed.py.",
    Mode.GREEDY: "The same at temperature 0, which --T does not change. The release's "
    "testbed_greedy.py.",
    Mode.SPECINFER: "The same by SpecInfer's sampling with replacement. The release's "
    "test_specinfer.py.",
    Mode.TOPK: "The same with the draft's most probable tokens as children, kept where the "
    "target's own draw is one. The release's test_greedyS.py.",
}
