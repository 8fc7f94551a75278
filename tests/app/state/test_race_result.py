"""The result of a race: what may be said of two texts."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.state.race_result import (
    Agreement,
    RaceResult,
    RaceState,
    agreement_line,
    recorded_note,
    tree_name,
)
from sequoia_core.chat.race import Lane, Raced, RaceTerms
from sequoia_core.events import (
    Finished,
    FinishReason,
    Totals,
    TreeChosen,
)
from sequoia_core.files import decode, encode
from tests.fakes import TREE_16, make_step, plain_answer


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (TREE_16, "sequoia tree, 16 nodes, depth 4"),
        (replace(TREE_16, lookup="auto"), "sequoia tree, 16 nodes, depth 4 + lookup"),
        (replace(TREE_16, nodes=1, depth=0, lookup="auto"), "lookup only"),
        (replace(TREE_16, nodes=1, depth=0), "plain decoding"),
    ],
)
def test_a_lane_is_called_by_what_it_decodes_with(tree: TreeChosen, name: str) -> None:
    assert tree_name(tree) == name


def raced(
    plain: Sequence[int],
    trees: Sequence[int],
    *,
    temperature: float = 0.0,
    exact: bool = True,
    stopped: bool = False,
) -> RaceState:
    """A race whose lanes emit these tokens, one a step."""
    run = RaceState("why?")
    run.add(RaceTerms(temperature, 2, exact))
    reason = FinishReason.CANCELLED if stopped else FinishReason.STOP
    lanes = ((Lane.PLAIN, plain), (Lane.SPECULATIVE, trees))
    for at in range(max(len(plain), len(trees)) + 1):
        for lane, ids in lanes:
            if at < len(ids):
                step = make_step(at + 1, "a", [("b", 0)], parents=(-1,))
                run.add(Raced(lane, replace(step, token_ids=(ids[at],)), 0.1 * (at + 1)))
            elif at == len(ids):
                run.add(Raced(lane, Finished(reason, Totals()), 0.1 * at))
    run.end(None)
    return run


IDS = st.lists(st.integers(0, 2), max_size=8)


@given(plain=IDS, trees=IDS, stopped=st.booleans(), exact=st.booleans())
def test_texts_are_called_equal_exactly_when_their_tokens_are(
    plain: list[int], trees: list[int], stopped: bool, exact: bool
) -> None:
    run = raced(plain, trees, stopped=stopped, exact=exact)
    shared = min(len(plain), len(trees))
    differ = plain[:shared] != trees[:shared]
    assert run.diverged is differ
    assert (run.agreement is Agreement.EQUAL) is (plain == trees and not stopped)
    assert plain[: run.common] == trees[: run.common]
    if stopped and not differ:
        assert run.agreement is Agreement.SO_FAR
    drawn = raced(plain, trees, temperature=0.6)
    assert drawn.agreement is Agreement.SAMPLED


def test_what_is_said_of_the_texts_is_what_is_known() -> None:
    told = {
        name: agreement_line(result)
        for name, run in {
            "equal": raced([1, 2], [1, 2]),
            "rounded": raced([1, 2], [1, 3], exact=False),
            "wrong": raced([1, 2], [1, 3]),
            "drawn": raced([1, 2], [1, 3], temperature=0.6),
            "stopped": raced([1, 2], [1, 2, 3], stopped=True),
        }.items()
        if (result := run.result()) is not None
    }
    assert told["equal"] == "Both texts are equal, token for token: 2 tokens."
    assert "differ after 1 token:" in told["rounded"]
    assert "--dtype float32" in told["rounded"]
    assert "--dtype" not in told["wrong"]
    assert "report" in told["wrong"]
    assert "0.6" in told["drawn"]
    assert "as far as both got: 2 tokens" in told["stopped"]


def test_a_result_survives_being_kept() -> None:
    result = raced([1, 2, 3], [1, 2, 3]).result()
    assert result is not None
    kept = json.dumps(encode(result))
    assert decode(RaceResult, json.loads(kept)) == result
    assert recorded_note(kept) == result.note()
    for damaged in ("", "[]", kept[:-5], kept.replace("threads", "cores")):
        assert recorded_note(damaged) == ""
    assert result.speedup == pytest.approx(1.0)
    assert "1.00 tokens per pass, as fast as plain" in result.note()
    assert raced([], []).result() is None
    assert raced([1], []).speculative.tokens_per_second == 0.0
    slower = raced([1], []).result()
    assert slower is not None
    assert slower.speedup is None


def test_the_speed_up_is_that_of_the_time_in_which_both_ran() -> None:
    run = RaceState("why?")
    run.add(RaceTerms(0.0, 2, True))
    step = make_step(1, "a", [("b", 0)], parents=(-1,))
    run.add(Raced(Lane.PLAIN, replace(step, token_ids=(1,)), 1.0))
    run.add(Raced(Lane.SPECULATIVE, replace(step, token_ids=(1, 2, 3)), 1.5))
    run.add(Raced(Lane.SPECULATIVE, Finished(FinishReason.STOP, Totals()), 1.5))
    # from here on the machine is busy with something else, which only the plain lane suffers
    run.add(Raced(Lane.PLAIN, replace(step, token_ids=(2, 3)), 99.0))
    run.add(Raced(Lane.PLAIN, Finished(FinishReason.STOP, Totals()), 99.0))
    run.end(None)
    result = run.result()
    assert result is not None
    assert result.speedup == pytest.approx(2.0)
    assert result.plain.seconds == 99.0
    assert result.agreement is Agreement.EQUAL
    assert "3 tokens in 1.50 s against 3 tokens in 99.00 s" in result.note()


def test_both_tokens_at_a_parting_are_named_with_their_probabilities() -> None:
    run = RaceState("why?")
    run.add(RaceTerms(0.0, 2, False))
    for event in plain_answer("a b c"):
        run.add(Raced(Lane.PLAIN, event, 1.0))
    step = make_step(1, "x", [("a", 1), (" ", 0)])
    run.add(Raced(Lane.SPECULATIVE, replace(step, token_ids=(7, 8)), 1.0))
    assert run.diverged
    assert run.divergence().startswith('plain "a" 0.3700, speculative "a" 0.')
