"""How certain a figure over prompts is, and when a rule is ahead of another."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.config import Mode
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.reproduce.bootstrap import (
    mean_difference,
    simultaneous_differences,
    tokens_per_step,
)
from sequoia_core.reproduce.robustness import (
    RULES,
    Cell,
    PromptCount,
    RuleComparison,
    Sweep,
)
from sequoia_core.tree.growmap import GrowMap


class Counted(NamedTuple):
    """What was decoded after one prompt."""

    tokens: int
    steps: int


COUNTS = st.lists(
    st.builds(Counted, tokens=st.integers(1, 200), steps=st.integers(1, 60)), min_size=1, max_size=9
)
SWEEP = Sweep(GrowMap.k_ary([2]), temperatures=(0.4, 1.0), top_ps=(1.0,))


@given(COUNTS)
def test_an_interval_lies_between_the_lowest_and_the_highest_prompt(counts: list[Counted]) -> None:
    found = tokens_per_step(counts)
    ratios = [count.tokens / count.steps for count in counts]
    assert found.value == pytest.approx(
        sum(count.tokens for count in counts) / sum(count.steps for count in counts)
    )
    slack = 1e-9 * max(ratios)
    assert min(ratios) - slack <= found.low <= found.high <= max(ratios) + slack


@given(COUNTS)
def test_nothing_leads_over_itself(counts: list[Counted]) -> None:
    found = mean_difference([counts, counts], [counts, counts])
    assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)


@given(COUNTS, st.integers(1, 5))
def test_a_lead_that_all_prompts_share_is_certain(counts: list[Counted], more: int) -> None:
    """However much the prompts differ, since the two ways are resampled in pairs."""
    ahead = [Counted(each.tokens + more * each.steps, each.steps) for each in counts]
    found = mean_difference([ahead], [counts])
    assert found.low == pytest.approx(more)
    assert found.value == pytest.approx(more)
    assert found.high == pytest.approx(more)


def test_an_interval_narrows_with_the_root_of_the_prompts() -> None:
    few = [Counted(tokens, 20) for tokens in (24, 30, 36, 40, 44, 60)]
    small, large = tokens_per_step(few), tokens_per_step(few * 16)
    assert (large.high - large.low) / (small.high - small.low) == pytest.approx(1 / 4, rel=0.15)


def test_an_interval_has_the_width_that_the_normal_law_gives() -> None:
    counts = [Counted(tokens, 1) for tokens in (10, 20) * 50]  # a mean of deviation 0.5
    found = tokens_per_step(counts)
    assert found.low == pytest.approx(15 - 1.96 * 0.5, abs=0.1)
    assert found.high == pytest.approx(15 + 1.96 * 0.5, abs=0.1)


@given(COUNTS, st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_intervals_that_hold_at_once_are_around_every_setting(
    counts: list[Counted], more: list[int]
) -> None:
    ahead = [
        [Counted(each.tokens + extra * each.steps, each.steps) for each in counts] for extra in more
    ]
    found = simultaneous_differences(ahead, [counts] * len(more))
    for extra, each in zip(more, found, strict=True):
        assert (each.low, each.value, each.high) == pytest.approx((extra, extra, extra))


def test_hardly_any_study_of_equal_ways_finds_one_ahead() -> None:
    """Of twelve settings one by one many a study does, held at once about one in twenty."""
    rng = np.random.default_rng(5)
    prompts, settings, studies = 30, 12, 60
    one_by_one = at_once = 0
    for _ in range(studies):
        tokens = rng.poisson(60, (2, settings, prompts)).tolist()
        both = [[[Counted(each, 30) for each in row] for row in way] for way in tokens]
        alone = [mean_difference([own], [other]) for own, other in zip(*both, strict=True)]
        one_by_one += any(each.low > 0 or each.high < 0 for each in alone)
        at_once += any(each.low > 0 or each.high < 0 for each in simultaneous_differences(*both))
    assert one_by_one > studies / 4
    assert at_once < studies / 8


def count(cell: Cell, prompt: str, tokens: int) -> PromptCount:
    """Ten steps."""
    return PromptCount(*cell, prompt, tokens, 10)


def compared(rates: dict[Mode, tuple[int, ...]]) -> RuleComparison:
    """Prompts that give so many tokens in ten steps, in every setting."""
    counts = [
        count(cell, str(at), tokens)
        for cell in SWEEP.cells()
        for at, tokens in enumerate(rates[cell.rule])
    ]
    return RuleComparison.of(SWEEP, counts)


def test_a_rule_is_ahead_or_behind_only_beyond_the_noise() -> None:
    first, second, third = RULES
    found = compared({first: (20, 24, 28), second: (25, 29, 33), third: (26, 20, 26)})
    behind = [(each.temperature, rule) for each, rule in found.behind]
    assert behind == [(0.4, second), (1.0, second)]
    assert [lead.low > 0 for lead in found.leads] == [False] * 4
    assert found.overall_ahead[second].value == pytest.approx(-0.5)
    level = found.overall_ahead[third]
    assert level.low < 0 < level.high
    found = compared({first: (30, 34), second: (25, 29), third: (20, 24)})
    assert all(lead.low > 0 for lead in found.leads)
    assert found.behind == []


def test_a_prompt_that_is_not_decoded_in_every_way_does_not_count() -> None:
    counts = [count(cell, "whole", 20) for cell in SWEEP.cells()]
    partly = [count(cell, "partly", 60) for cell in SWEEP.cells()[:-1]]
    found = RuleComparison.of(SWEEP, [*partly, *counts])
    assert found.prompts == 1
    rates = {rate.value for each in found.settings for rate in each.tokens_per_step.values()}
    assert rates == {2.0}
    with pytest.raises(SequoiaError, match="no prompt"):
        RuleComparison.of(SWEEP, partly)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperatures": (0.0, 0.6)},
        {"temperatures": (0.6, 0.6)},
        {"temperatures": (-1.0,)},
        {"top_ps": ()},
        {"top_ps": (1.2,)},
        {"draft_top_p": 0.0},
        {"tokens": 0},
        {"growmap": GrowMap((-1,))},
    ],
)
def test_a_sweep_that_compares_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Sweep(**{"growmap": GrowMap.chain(2), **changes})
