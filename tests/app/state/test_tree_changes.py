"""A tree that changes within an answer shows: which, since when and why."""

import pytest
from msgspec.structs import replace

from app.state.answer import Answer, Chosen
from app.state.summary import best_step
from app.widgets.statistics_panel import StatisticsPanel
from sequoia_core.events import Event, Step
from sequoia_core.tree.choice import SHOWN
from tests.app.driving import driving
from tests.fakes import TREE_16, make_answer, replay

PLAIN = replace(TREE_16, nodes=1, depth=0, growmap="", reason="no tree \x1b[31m pays")
OTHER = replace(TREE_16, nodes=9, depth=2, reason="predicted 1.31x instead of 1.12x")


def changing(after: int, *trees: Event) -> tuple[Event, ...]:
    """The standard answer, with tree changes after a step."""
    events = make_answer()
    at = next(i for i, e in enumerate(events) if isinstance(e, Step) and e.index == after) + 1
    return (*events[:at], *trees, *events[at:])


@pytest.mark.parametrize("after", [1, 6])
async def test_a_change_within_an_answer_tells_its_step_and_reason(after: int) -> None:
    async with driving(replay(changing(after, PLAIN, OTHER)), size=(160, 50)) as chat:
        await chat.ask()
        await chat.pilot.press("left")
        screen = chat.screen_text()
        assert f"step {after + 1}: predicted 1.31x instead of 1.12x" in screen
        assert "tree 9 nodes" in screen
        assert f"{TREE_16.expected_by_rank[0]:.2f}" in screen


async def test_looking_back_shows_the_tree_of_that_step() -> None:
    async with driving(replay(changing(6, OTHER)), size=(160, 50)) as chat:
        await chat.ask()
        assert "step 7: predicted 1.31x" in chat.screen_text()
        await chat.pilot.press("home")
        await chat.until(lambda: "searched for this machine" in chat.screen_text())
        assert "predicted 1.31x" not in chat.screen_text()
        await chat.pilot.press(*["right_square_bracket"] * 5)
        await chat.until(lambda: "Step 6 of" in chat.screen_text())
        assert "searched for this machine" in chat.screen_text()
        await chat.pilot.press("right_square_bracket")
        await chat.until(lambda: "step 7: predicted 1.31x" in chat.screen_text())


async def test_at_rest_the_title_is_about_the_tree_that_is_drawn() -> None:
    best = best_step([each for each in make_answer() if isinstance(each, Step)])
    larger = replace(OTHER, reason=f"{SHOWN[0]}, to look at it")
    async with driving(replay(changing(best.index, larger)), size=(160, 50)) as chat:
        await chat.ask()
        tree = chat.app.chat.token_tree
        assert str(tree.border_title) == f"Step {best.index}, the best of {chat.steps}"
        await chat.pilot.press("left")
        await chat.until(lambda: SHOWN[0] in str(tree.border_title))
    async with driving(replay(changing(best.index, PLAIN)), size=(80, 24)) as chat:
        await chat.ask()
        assert chat.app.chat.has_class("-drafts")  # the strip shows a tree


async def test_where_there_is_no_line_for_the_reason_the_border_has_it() -> None:
    long = replace(PLAIN, reason=PLAIN.reason * 9)
    async with driving(replay(changing(3, long)), size=(140, 36)) as chat:
        await chat.ask()
        await chat.pilot.press("left")
        assert chat.screen_text().count("step 4: no tree ␛[31m pays") == 1
        assert "by depth" not in chat.screen_text()
        await chat.pilot.press("home")
        await chat.until(lambda: "searched for this machine" in chat.screen_text())
        await chat.pilot.resize_terminal(160, 50)
        await chat.until(lambda: "by depth" in chat.screen_text())
        assert chat.screen_text().count("searched for this machine") == 1


@pytest.mark.parametrize("steps", [1, 5])
def test_a_step_is_shown_with_the_last_tree_chosen_before_it(steps: int) -> None:
    answer = Answer("why?")
    assert answer.tree_at(1) is None
    for event in changing(steps, PLAIN, OTHER):
        answer.add(event)
    for step in answer.steps:
        chosen = answer.tree_at(step.index)
        expected = Chosen(TREE_16) if step.index <= steps else Chosen(OTHER, steps + 1)
        assert chosen == expected


async def test_a_reason_is_text_and_cut_to_its_line() -> None:
    long = replace(PLAIN, reason=PLAIN.reason * 9)
    async with driving(replay(changing(3, long)), size=(160, 50)) as chat:
        await chat.ask()
        await chat.pilot.press("left")
        panel = chat.app.chat.query_one(StatisticsPanel)
        lines = panel.render().plain.splitlines()
        assert any("step 4: no tree ␛[31m pays" in line for line in lines)
        assert all(len(line) <= panel.size.width for line in lines)


async def test_the_tree_an_answer_began_with_has_no_step() -> None:
    async with driving(replay(make_answer()), size=(160, 50)) as chat:
        await chat.ask()
        await chat.ask("And at night?")
        assert "searched for this machine" in chat.screen_text()
        assert "step 1:" not in chat.screen_text()
