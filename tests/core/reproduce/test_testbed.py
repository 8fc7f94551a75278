"""The published testbeds: the same span for tree and plain decoding, and parts that make a step."""

from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch

from sequoia_core.bench.runs import Run, averaged
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.files import encode
from sequoia_core.measure.acceptance import nucleus_sampler
from sequoia_core.model.loading.pair import Pair
from sequoia_core.reproduce import step_breakdown
from sequoia_core.reproduce.step_breakdown import BreakdownTimer, StepBreakdown
from sequoia_core.reproduce.testbed import (
    PLAIN,
    TREE,
    DecodingExperiment,
    DecodingPlan,
    Measured,
    pairs_growmap,
)
from sequoia_core.speculate.sampling import shaped_probs
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, tokens_of
from tests.core.models import TableModel
from tests.core.reproducing import PROMPTS, WINDOW, load_tiny, quiet, save_pair

TREE_OF_SEVEN = GrowMap.k_ary([2, 2])
TOKENS = 24


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return load_tiny(folder)


def plan_of(rule: Mode = Mode.SEQUOIA, temperature: float = 0.6, **changes: Any) -> DecodingPlan:
    params = SamplingParams(temperature, seed=17, max_new_tokens=TOKENS)
    return DecodingPlan(**{"rule": rule, "growmap": TREE_OF_SEVEN, "params": params, **changes})


def decoded(pair: Pair, plan: DecodingPlan, prompts: Any = PROMPTS) -> DecodingExperiment:
    experiment = DecodingExperiment(pair, plan, prompts)
    experiment.run(quiet)
    return experiment


def runs_of(experiment: DecodingExperiment, name: str) -> list[Run]:
    return experiment.results().runs[name]


@pytest.mark.parametrize("rule", [Mode.SEQUOIA, Mode.GREEDY, Mode.SPECINFER, Mode.TOPK])
def test_at_temperature_0_every_testbed_writes_plain_decodings_text(pair: Pair, rule: Mode) -> None:
    experiment = decoded(pair, plan_of(rule, 0.0))
    plain, tree = runs_of(experiment, PLAIN), runs_of(experiment, TREE)
    assert [each.token_ids for each in tree] == [each.token_ids for each in plain]
    assert all(len(each.token_ids) == TOKENS for each in plain)
    assert all(each.steps == each.tokens == TOKENS - 1 for each in plain)
    assert sum(each.steps for each in tree) < sum(each.steps for each in plain)


def test_a_prompt_is_decoded_alike_wherever_it_stands(pair: Pair) -> None:
    whole, part = decoded(pair, plan_of()), decoded(pair, plan_of(), PROMPTS[1:])
    for name in (PLAIN, TREE):
        texts = [each.token_ids for each in runs_of(whole, name)]
        assert texts[1:] == [each.token_ids for each in runs_of(part, name)]
    other = plan_of(params=SamplingParams(0.6, seed=18, max_new_tokens=TOKENS))
    texts = [each.token_ids for each in runs_of(whole, TREE)]
    assert texts != [each.token_ids for each in runs_of(decoded(pair, other), TREE)]


def test_figures_are_those_of_the_runs(pair: Pair) -> None:
    results = decoded(pair, plan_of(Mode.SPECINFER)).results()
    plain, tree = results.figures(PLAIN), results.figures(TREE)
    assert plain.tokens_per_step.value == 1.0
    assert plain.speedup is None
    assert tree.speedup is not None
    runs = results.runs[TREE]
    pooled = sum(each.tokens for each in runs) / sum(each.steps for each in runs)
    assert tree.tokens_per_step.value == pytest.approx(pooled)
    speeds = [
        own.tokens_per_second / base.tokens_per_second
        for own, base in zip(runs, results.runs[PLAIN], strict=True)
    ]
    assert (tree.speedup.low, tree.speedup.high) == (min(speeds), max(speeds))


def test_the_baseline_needs_no_draft_and_a_tree_does(tmp_path: Path) -> None:
    save_pair(tmp_path)
    alone = load_tiny(tmp_path, draft=False)
    experiment = decoded(alone, plan_of(measured=Measured.BASELINE))
    assert list(experiment.results().runs) == [PLAIN]
    assert experiment.report().values["growmap"] is None
    with pytest.raises(ParameterError, match="has no draft"):
        decoded(alone, plan_of())


def test_the_parts_of_a_step_add_up_to_it(pair: Pair) -> None:
    experiment = decoded(pair, plan_of(measured=Measured.BENCHMARK))
    results = experiment.results()
    assert list(results.runs) == [TREE]
    assert results.breakdown is not None
    assert all(part > 0 for part in encode(results.breakdown).values())
    values = experiment.report().values
    assert list(values["split_ms"]) == ["draft", "sample", "verify", "accept", "rest"]
    timed = experiment._breakdowns[1:]  # without the warm-up's
    for run, each in zip(results.runs[TREE], timed, strict=True):
        assert run.parts is not None
        step_ms = run.parts.draft_ms + run.parts.verify_ms + run.parts.bookkeeping_ms
        assert sum(encode(each).values()) == pytest.approx(step_ms)


def test_stopwatches_time_what_chooses_and_what_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves only inside the two: by 2 ms a level and by 5 ms a walk."""
    now = 0.0

    def passing(seconds: float) -> None:
        nonlocal now
        now += seconds

    def slow(*arguments: Any) -> Sampler:
        made = Sampler.of(*arguments)

        def choose(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            passing(0.002)
            return made.choose(logits, count)

        def rule(scored: Any, generator: torch.Generator) -> Any:
            passing(0.005)
            return made.rule(scored, generator)

        return Sampler(made.params, choose, rule, made.generator)

    monkeypatch.setattr(step_breakdown, "perf_counter", lambda: now)
    clock = BreakdownTimer(slow)
    engine = make_engine(TableModel(11, 1), TableModel(11, 2), TREE_OF_SEVEN)
    engine.make_sampler = clock.sampler
    for event in engine.generate([1, 2], SamplingParams(1.0, seed=3, max_new_tokens=12)):
        if type(event).__name__ == "Step":
            clock.step(event)  # type: ignore[arg-type]
    found = clock.answer()
    assert found.sample == pytest.approx(2 * 2.0)
    assert found.accept == pytest.approx(5.0)


def test_on_a_gpu_a_part_is_over_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(str(device)))
    monkeypatch.setattr(step_breakdown, "perf_counter", lambda: order.append("read"))
    step_breakdown._seconds(torch.device("cuda", 0))
    step_breakdown._seconds(torch.device("cpu"))
    assert order == ["cuda:0", "read", "read"]


def test_what_was_decoded_before_a_stop_is_not_lost(pair: Pair) -> None:
    experiment = DecodingExperiment(pair, plan_of(), PROMPTS)
    with pytest.raises(SequoiaError, match="nothing was measured"):
        experiment.report()

    def stop(message: str, _fraction: float | None) -> None:
        if message == f"Prompt 3 of 3: {TREE}":  # `plain` has decoded this one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(stop)
    results = experiment.results()
    assert results.prompts == 2
    assert all(len(runs) == 2 for runs in results.runs.values())
    assert results.figures(TREE).speedup is not None
    assert experiment.report().values["prompts_asked"] == 3


def test_a_run_too_short_for_a_speed_ends_the_experiment_at_once(pair: Pair) -> None:
    params = SamplingParams(0.6, seed=17, max_new_tokens=1)
    seen: list[str] = []
    with pytest.raises(ParameterError, match="decode more tokens"):
        DecodingExperiment(pair, plan_of(params=params), PROMPTS).run(
            lambda message, _fraction: seen.append(message)
        )
    assert seen[-1] == f"Prompt 1 of 3: {PLAIN}"


@pytest.mark.parametrize(
    ("measured", "nodes"), [(Measured.TREE, 7), (Measured.BENCHMARK, 7), (Measured.BASELINE, 0)]
)
def test_the_smallest_cache_that_works_is_named_and_works(
    pair: Pair, measured: Measured, nodes: int
) -> None:
    needed = max(map(len, PROMPTS)) + TOKENS + nodes
    DecodingExperiment(pair, plan_of(measured=measured, cache_length=needed), PROMPTS)
    short = plan_of(measured=measured, cache_length=needed - 1)
    with pytest.raises(ParameterError, match=rf"smallest value that works is {needed}:"):
        DecodingExperiment(pair, short, PROMPTS)
    longest = (3,) * (WINDOW - TOKENS - nodes)
    DecodingExperiment(pair, plan_of(measured=measured), [longest])
    with pytest.raises(ParameterError, match=rf"context window of {WINDOW}"):
        DecodingExperiment(pair, plan_of(measured=measured), [(3, *longest)])


@pytest.mark.parametrize(
    "changes",
    [
        {"growmap": GrowMap((-1,))},
        {"draft_top_p": 0.0},
    ],
)
def test_an_experiment_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        plan_of(**changes)


def test_children_come_from_the_drafts_nucleus_and_text_from_the_targets() -> None:
    params = SamplingParams(0.7, 0.5, seed=5, max_new_tokens=200)
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    made = nucleus_sampler(1.0)(params, torch.device("cpu"), Mode.SEQUOIA)
    assert made.params == params
    _, probs = made.choose(logits, 3)
    torch.testing.assert_close(probs, torch.softmax(logits / 0.7, -1))
    target = TableModel(9, 1)
    engine = make_engine(target, TableModel(9, 2), TREE_OF_SEVEN)
    engine.make_sampler = nucleus_sampler(1.0)
    text = [1, 2]
    for token in tokens_of(list(engine.generate([1, 2], params))):
        row = target.logits_after(text)[None]
        nucleus = shaped_probs(row, params)[0]
        assert nucleus[token] > 0
        text.append(token)


def test_neither_a_whole_draft_nor_a_cut_one_runs_out_of_tokens() -> None:
    """The second child is the second guess, although the nucleus holds one token."""
    logits = torch.tensor([[9.0, 7.0, 5.0, *[0.0] * 60]])
    params = SamplingParams(0.2, 0.8, seed=3)
    second = {
        top_p: [
            int(made.choose(logits, 2)[0][0, 1])
            for made in [nucleus_sampler(top_p)(params, torch.device("cpu"), Mode.SEQUOIA)]
            for _ in range(40)
        ]
        for top_p in (0.8, 1.0)
    }
    assert second[1.0].count(1) >= 39
    assert second[0.8].count(1) >= 39


def test_a_tree_is_named_packaged_or_measured(pair: Pair) -> None:
    assert pairs_growmap(pair, "chain/4", 0.6) == find_growmap("chain/4")
    packaged = [pairs_growmap(pair, None, heat).name for heat in (0.0, 0.6)]
    assert packaged == ["smollm2-135m/greedy-6x2", "smollm2-135m/stochastic-6x2"]
    with pytest.raises(ParameterError, match="sequoia calibrate"):
        pairs_growmap(pair, "auto", 0.6)


@pytest.mark.parametrize("measured", Measured)
def test_every_kind_of_experiment_has_a_picture(
    pair: Pair, measured: Measured, tmp_path: Path
) -> None:
    file = tmp_path / "picture.svg"
    decoded(pair, plan_of(measured=measured), PROMPTS[:2]).report().draw(file)
    shown = {
        Measured.TREE: ["tokens per step"],
        Measured.BASELINE: ["milliseconds per token"],
        Measured.BENCHMARK: ["draft", "sample", "verify", "accept", "rest"],
    }
    assert all(name in file.read_text() for name in shown[measured])


def test_a_breakdown_is_averaged_part_by_part() -> None:
    one, two, far = (
        StepBreakdown(1, 2, 3, 4, 5), StepBreakdown(3, 2, 1, 0, 1), StepBreakdown(9, 9, 9, 9, 9),
    )  # fmt: skip
    assert averaged([one, two], fmean) == StepBreakdown(2, 2, 2, 2, 3)
    assert averaged([one, two, far], median) == StepBreakdown(3, 2, 3, 4, 5)
