"""The result of a race: what may be said of two texts."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.state.answer import Answer
from app.state.race_result import (
    Agreement,
    RaceResult,
    agreement_line,
    recorded_note,
    speed_ratio,
)
from app.state.race_state import (
    LOOKED_UP,
    LaneState,
    RaceState,
    tree_name,
)
from sequoia_core.chat.race import PLAIN, Lane, Raced, RaceSide, RaceTerms
from sequoia_core.config import Mode
from sequoia_core.events import (
    Finished,
    FinishReason,
    Origin,
    Piece,
    TextDelta,
    Totals,
    TreeChosen,
)
from sequoia_core.files import decode, encode
from sequoia_core.tree.choice import TreeChoice
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


@pytest.mark.parametrize(
    ("side", "before", "after"),
    [
        (PLAIN, "plain", "plain decoding"),
        (RaceSide("with trees"), "with trees", "sequoia tree, 16 nodes, depth 4"),
        (
            RaceSide("specinfer", TreeChoice(Mode.SPECINFER)),
            "specinfer",
            "specinfer tree, 16 nodes, depth 4",
        ),
        (RaceSide("wide", TreeChoice()), "wide", "wide: sequoia tree, 16 nodes, depth 4"),
    ],
)
def test_a_lane_has_the_label_of_its_side_and_the_name_of_its_tree(
    side: RaceSide, before: str, after: str
) -> None:
    lane = LaneState(side, Answer("why?"))
    assert lane.name == before
    mode = side.choice.mode.value if side.choice else "sequoia"
    plain = side is PLAIN
    lane.add(replace(TREE_16, mode=mode, nodes=1 if plain else 16))
    assert (lane.name, lane.label, lane.plain) == (after, side.label, plain)


def test_each_token_is_known_by_who_wrote_it() -> None:
    lane = LaneState(PLAIN, Answer("why?"))
    step = make_step(1, "a", [("b", 1), ("\x1b", 2), ("d", 0)])
    found = replace(step.nodes[step.path[2]], origin=Origin.LOOKUP)
    nodes = tuple(found if at == step.path[2] else node for at, node in enumerate(step.nodes))
    lane.add(TextDelta(1, "b\x1bd", (Piece("b", 1), Piece("\x1b", 2), Piece("d", 0))))
    lane.add(replace(step, nodes=nodes))
    lane.add(replace(step, index=2, nodes=nodes))  # nothing of it is printable yet
    lane.add(TextDelta(3, "efg", (Piece("e", 1), Piece("f", 7), Piece("g", 0))))
    lane.add(replace(step, index=3))
    assert lane.parts == [("b", 1), ("␛", LOOKED_UP), ("d", 0), ("e", 1), ("f", 3), ("g", 0)]
    assert "".join(part.text for part in lane.parts) == lane.answer.text


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
    lanes = ((Lane.FIRST, plain), (Lane.SECOND, trees))
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
    assert speed_ratio(result.second, result.first) == pytest.approx(1.0)
    assert "1.00 tokens per pass, as fast as plain" in result.note()
    assert raced([], []).result() is None
    assert raced([1], []).second.tokens_per_second == 0.0
    stopped = raced([1], []).result()
    assert stopped is not None
    assert speed_ratio(stopped.second, stopped.first) is None


OLD = {
    "prompt": "why?",
    "temperature": 0.0,
    "threads": 2,
    "tree": "sequoia tree 16x4",
    "plain": {"text": "a", "tokens": 30, "steps": 30, "raced_tokens": 20, "raced_seconds": 2.0},
    "speculative": {
        "text": "a",
        "tokens": 30,
        "steps": 10,
        "raced_tokens": 30,
        "raced_seconds": 2.0,
    },
    "agreement": "equal",
    "common_tokens": 30,
    "must_agree": True,
}


def test_a_race_of_the_time_before_there_were_sides_reads_as_it_did() -> None:
    more = {"seconds": 3.0, "reading_seconds": 0.1, "ended": "stop"}
    old: dict[str, Any] = json.loads(json.dumps(OLD))
    for lane in ("plain", "speculative"):
        old[lane] |= more
    note = recorded_note(json.dumps(old))
    assert note.startswith("Race, sequoia tree 16x4 against plain decoding: ")
    assert "3.00 tokens per pass, 1.5x faster than plain, 15.0 against 10.0 tokens/s" in note
    assert "token for token: 30 tokens" in note
    for damaged in (old | {"plain": None}, old | {"tree": 1}, old | {"more": {}}):
        assert recorded_note(json.dumps(damaged)) == ""


def test_two_trees_are_compared_with_each_other() -> None:
    sides = RaceSide("wide", TreeChoice()), RaceSide("deep", TreeChoice())
    run = RaceState("why?", sides=sides)
    run.add(RaceTerms(0.0, 2, True))
    for at, lane in enumerate(Lane):
        run.add(Raced(lane, TREE_16, 0.0))
        run.add(Raced(lane, make_step(1, "a", [("b", 1), ("c", 0)]), 1.0 + at))
    for at, lane in enumerate(Lane):
        run.add(Raced(lane, Finished(FinishReason.STOP, Totals()), 1.0 + at))
    run.end(None)
    result = run.result()
    assert result is not None
    note = result.note()
    tree = "sequoia tree, 16 nodes, depth 4"
    assert note.startswith(f"Race, wide: {tree} against deep: {tree}: 2.00 against 2.00 tokens per")
    assert "2.0x faster than deep" in note
    assert "plain" not in note
    assert speed_ratio(result.first, result.second) == pytest.approx(2.0)


def test_the_speed_up_is_that_of_the_time_in_which_both_ran() -> None:
    run = RaceState("why?")
    run.add(RaceTerms(0.0, 2, True))
    step = make_step(1, "a", [("b", 0)], parents=(-1,))
    run.add(Raced(Lane.FIRST, replace(step, token_ids=(1,)), 1.0))
    run.add(Raced(Lane.SECOND, replace(step, token_ids=(1, 2, 3)), 1.5))
    run.add(Raced(Lane.SECOND, Finished(FinishReason.STOP, Totals()), 1.5))
    # from here on the machine is busy with something else, which only the plain lane suffers
    run.add(Raced(Lane.FIRST, replace(step, token_ids=(2, 3)), 99.0))
    run.add(Raced(Lane.FIRST, Finished(FinishReason.STOP, Totals()), 99.0))
    run.end(None)
    result = run.result()
    assert result is not None
    assert speed_ratio(result.second, result.first) == pytest.approx(2.0)
    assert result.first.seconds == 99.0
    assert result.agreement is Agreement.EQUAL
    assert "3 tokens in 1.50 s against 3 tokens in 99.00 s" in result.note()


def test_both_tokens_at_a_parting_are_named_with_their_probabilities() -> None:
    run = RaceState("why?")
    run.add(RaceTerms(0.0, 2, False))
    for event in plain_answer("a b c"):
        run.add(Raced(Lane.FIRST, event, 1.0))
    step = make_step(1, "x", [("a", 1), (" ", 0)])
    run.add(Raced(Lane.SECOND, replace(step, token_ids=(7, 8)), 1.0))
    assert run.diverged
    assert run.divergence().startswith('plain "a" 0.3700, with trees "a" 0.')
