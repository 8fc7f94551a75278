"""The order of runs, their clock, what is left of broken and interrupted ones."""

from dataclasses import replace
from typing import Any

import pytest

from sequoia_core.bench import BenchPlan, runs
from sequoia_core.bench.findings import describe_divergences, find_divergence
from sequoia_core.bench.runs import (
    WARM_UP_TOKENS,
    ComparisonSet,
    NoSpeedError,
    PeerError,
    Run,
    RunClock,
    SpeedComparison,
    compare,
    peer_code,
)
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError
from tests.core.bench_runs import FixedSystem, compared, run_at
from tests.core.models import TableModel


def test_systems_take_turns_in_alternating_order_after_a_warm_up_each() -> None:
    log: list[str] = []
    compared(FixedSystem("a", 10, log), FixedSystem("b", 5, log), prompts=4)
    assert log[:4] == ["a0", "a0.6", "b0", "b0.6"]
    for temperature in ("0", "0.6"):
        order = [ran[0] for ran in log[4:] if ran[1:] == temperature]
        assert "".join(order) == "abbaabba"


def test_a_warm_up_samples_as_what_follows() -> None:
    seen: list[SamplingParams] = []

    def decode(_prompt: object, params: SamplingParams) -> Run:
        seen.append(params)
        return run_at(1)

    params = SamplingParams(0.6, 0.9, seed=3, max_new_tokens=99)
    compare({"a": decode}, [[1]], [params], lambda *_: None)
    assert seen == [replace(params, max_new_tokens=WARM_UP_TOKENS), params]


def test_every_prompt_is_decoded_by_all_in_every_way_of_sampling() -> None:
    log: list[str] = []
    outcome = compared(FixedSystem("a", 10, log), FixedSystem("b", 5, log), prompts=3)
    assert [each.params.temperature for each in outcome.comparisons] == [0.0, 0.6]
    for comparison in outcome.comparisons:
        assert [run.token_ids for run in comparison.runs["b"]] == [(0,), (1,), (2,)]
        assert list(comparison.runs) == ["a", "b"]


@pytest.mark.parametrize("fails_at", [0, 1, 5])
def test_a_system_that_breaks_down_is_left_out_and_reported(fails_at: int) -> None:
    log: list[str] = []
    broken = FixedSystem("b", 5, log, fails_at=fails_at)
    outcome = compared(FixedSystem("a", 10, log), broken, FixedSystem("c", 5, log))
    assert outcome.broken == {"b": "it fell over"}
    assert all(list(each.runs) == ["a", "c"] for each in outcome.comparisons)
    assert all(len(runs) == 2 for each in outcome.comparisons for runs in each.runs.values())
    assert log[-4:] == ["c0", "a0", "c0.6", "a0.6"]


def stopped_at(run: int, prompts: int = 3) -> ComparisonSet:
    """Two systems compared, interrupted when so many runs, warm-ups included, have begun."""
    log: list[str] = []

    def progress(message: str, _fraction: float | None) -> None:
        if message.startswith("Prompt") and len(log) == run:
            raise KeyboardInterrupt

    systems = {"a": FixedSystem("a", 10, log), "b": FixedSystem("b", 5, log)}
    samplings = [SamplingParams(each, max_new_tokens=8) for each in (0.0, 0.6)]
    return compare(systems, [[at] for at in range(prompts)], samplings, progress)


@pytest.mark.parametrize(("run", "whole"), [(8, 1), (9, 1), (11, 1), (12, 2), (15, 2)])
def test_an_interrupt_keeps_the_prompts_that_all_have_decoded(run: int, whole: int) -> None:
    outcome = stopped_at(run)
    assert outcome.interrupted
    for comparison in outcome.comparisons:
        wanted = [(at,) for at in range(whole)]
        for kept in comparison.runs.values():
            assert [each.token_ids for each in kept] == wanted
    assert not stopped_at(99).interrupted


@pytest.mark.parametrize("run", [4, 7])
def test_an_interrupt_before_the_first_prompt_was_decoded_by_all_leaves_nothing(run: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        stopped_at(run)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Check failed\n\n  at somewhere\n  more"),
            "RuntimeError: Check failed at some",
        ),
        (ImportError(), "ImportError"),
        (PeerError("it has no draft"), "it has no draft"),
    ],
)
def test_what_another_projects_code_raises_is_its_own_failure(
    error: Exception, message: str
) -> None:
    with pytest.raises(PeerError, match=f"^{message}") as caught, peer_code():
        raise error
    assert "more" not in str(caught.value)


def test_a_warm_up_needs_no_speed_but_what_is_compared_does() -> None:
    log: list[str] = []
    quick = FixedSystem("quick", 10, log, most_at_once=WARM_UP_TOKENS)
    outcome = compared(FixedSystem("a", 10, log), quick, tokens=WARM_UP_TOKENS + 1)
    assert outcome.broken == {}
    assert all(len(each.runs["quick"]) == 2 for each in outcome.comparisons)
    outcome = compared(FixedSystem("a", 10, log), quick, tokens=WARM_UP_TOKENS)
    assert list(outcome.broken) == ["quick"]


def test_the_clock_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([5.0, 6.5, 7.0])
    monkeypatch.setattr(runs, "perf_counter", lambda: next(ticks))
    clock = RunClock(began=2.0)
    for tokens in (4, 3, 2):
        clock.step(tokens)
    run = clock.run([0] * 9)
    assert (run.first_seconds, run.seconds, run.tokens, run.steps) == (3.0, 2.0, 5, 2)
    assert run.tokens_per_second == 2.5


def test_tokens_that_come_one_by_one_may_be_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 2.0, 2.5, 4.0])
    monkeypatch.setattr(runs, "perf_counter", lambda: next(ticks))
    clock = RunClock(began=0.0)
    for same in (False, False, True, False):
        clock.step(1, same=same)
    run = clock.run([0] * 4)
    assert (run.first_seconds, run.seconds, run.tokens, run.steps) == (1.0, 3.0, 3, 2)


def test_a_single_step_has_no_speed() -> None:
    clock = RunClock()
    clock.step(4)
    with pytest.raises(NoSpeedError, match="only 1 steps"):
        clock.run([0] * 4)


@pytest.mark.parametrize(
    "changes",
    [{"tree_sizes": (1,)}, {"tree_sizes": (8, 1025)}, {"temperatures": ()},
     {"temperatures": (0.6, 0.6)}, {"temperatures": (-1.0,)}],
)  # fmt: skip
def test_a_plan_that_measures_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        BenchPlan(**changes)


def test_a_divergence_has_the_margin_of_the_one_row_forward() -> None:
    target = TableModel(9, 4)
    best, second = target.logits_after([1, 2, 3]).topk(2).values.tolist()
    divergence = find_divergence(target, [1, 2], [3, 4], [3, 5])
    assert divergence is not None
    assert divergence.position == 1
    assert divergence.margin == pytest.approx(best - second)
    assert find_divergence(target, [1, 2], [3, 4], [3, 4]) is None


def test_divergences_are_described_for_each_system_at_temperature_0() -> None:
    texts = {"a": [(3, 4), (5,)], "b": [(3, 5), (5,)], "c": [(3, 4), (5,)]}
    runs = {name: [run_at(1, token_ids=ids) for ids in each] for name, each in texts.items()}
    comparisons = [SpeedComparison(SamplingParams(each), runs) for each in (0.0, 0.6)]
    lines = list(describe_divergences(TableModel(9, 4), [[1, 2], [1], [2]], comparisons))
    assert len(lines) == 2
    assert lines[0].startswith("b: differs from the first system's text on 1 of 2 prompts, after 1")
    assert lines[1] == "c: the same text on all 2 prompts"
