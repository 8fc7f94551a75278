"""The acceptance map: how often each place of the tree was accepted."""

from collections.abc import Sequence
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.state.answer import Answer, Chosen
from app.widgets.acceptance_map import AcceptanceMap, AcceptanceView, expected_rate
from sequoia_core.events import (
    Origin,
    Outcome,
    Step,
    TreeChosen,
)
from tests.app.driving import driving
from tests.app.insights import explained_answer
from tests.fakes import PARENTS_16, TREE_16, make_answer, replay

STEPS = [event for event in explained_answer() if isinstance(event, Step)]


def filled(steps: Sequence[Step], tree: TreeChosen = TREE_16) -> Answer:
    answer = Answer("?")
    answer.add(tree)
    for step in steps:
        answer.add(step)
    return answer


def position_of(step: Step, at: int) -> tuple[int, ...]:
    node = step.nodes[at]
    return () if node.parent < 0 else (*position_of(step, node.parent), node.rank)


@given(count=st.integers(1, len(STEPS)))
def test_the_map_counts_each_place(count: int) -> None:
    heat = AcceptanceMap()
    heat.follow(filled(STEPS[:count]), None, Chosen(TREE_16))
    rows = heat.rows()
    assert heat.steps == count
    assert [row.position for row in rows] == sorted(row.position for row in rows)
    assert len(rows) == len(PARENTS_16) - 1
    for row in rows:
        there = [
            step.nodes[at].outcome
            for step in STEPS[:count]
            for at in range(len(step.nodes))
            if position_of(step, at) == row.position
        ]
        accepted = sum(outcome is Outcome.ACCEPTED for outcome in there)
        assert row.rate.value == pytest.approx(accepted / len(there))
        above = next((r.rate.value for r in rows if r.position == row.position[:-1]), 1.0)
        assert row.rate.value is not None
        assert above is not None
        assert row.rate.value <= above
        assert row.expected == pytest.approx(
            prod(TREE_16.expected_by_rank[rank - 1] for rank in row.position)
        )


@given(places=st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=12))
def test_walking_to_and_fro_counts_as_from_scratch(places: list[int]) -> None:
    answer, heat = filled(STEPS), AcceptanceMap()
    for at in places:
        heat.follow(answer, at, Chosen(TREE_16))
        fresh = AcceptanceMap()
        fresh.follow(answer, at, Chosen(TREE_16))
        assert heat.rows() == fresh.rows()
        assert not heat.follow(answer, at, Chosen(TREE_16))


def test_another_tree_begins_another_map() -> None:
    answer, heat = filled(STEPS[:20]), AcceptanceMap()
    heat.follow(answer, None, Chosen(TREE_16))
    later = Chosen(replace(TREE_16, growmap="another"), since=11)
    assert heat.follow(answer, None, later)
    assert (heat.first, heat.last, heat.steps) == (11, 20, 10)
    assert max(row.rate.trials for row in heat.rows()) == 10


def test_what_was_looked_up_is_no_place_and_unknown_ranks_expect_nothing() -> None:
    step = STEPS[0]
    nodes = (*step.nodes[:-1], replace(step.nodes[-1], origin=Origin.LOOKUP))
    heat = AcceptanceMap()
    heat.follow(filled([replace(step, nodes=nodes)]), None, None)
    assert len(heat.rows()) == len(nodes) - 2
    assert {row.expected for row in heat.rows()} == {None}
    assert expected_rate((1, 4), (0.5, 0.2)) is None


async def test_the_figures_of_deep_places_stay_in_their_columns() -> None:
    root, child = STEPS[0].nodes[:2]
    nodes = (root, *(replace(child, parent=at, depth=at + 1, rank=1) for at in range(9)))
    deep = filled([replace(STEPS[0], nodes=nodes, path=(0,))])
    async with driving(size=(100, 30)) as chat:
        chat.app.chat.add_class("-heat")
        await chat.pilot.pause()
        view = chat.app.chat.query_one(AcceptanceView)
        view.show(deep, None, Chosen(TREE_16))
        rows = [view.render_line(y).text for y in range(2, 11)]
    assert len({row.rindex(".") for row in rows}) == 1, rows


@pytest.mark.parametrize("width", [160, 100, 80, 60])
async def test_the_title_says_which_steps_are_counted_at_every_width(width: int) -> None:
    tree = replace(TREE_16, growmap="smollm2-135m/greedy-24x4")
    async with driving(replay((tree, *make_answer()[1:])), size=(width, 30)) as chat:
        await chat.ask()
        await chat.pilot.press("f4")
        if width < 100:
            await chat.pilot.press("f4")
        view = chat.app.chat.query_one(AcceptanceView)
        title = view.render_line(0).text
        assert f"steps 1 to {chat.steps}, " in title
        assert title.rstrip().endswith("greedy-24x4")
